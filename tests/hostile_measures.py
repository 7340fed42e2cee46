"""Hostile options, names and files of what is left: attribution, stitching, statistics, architectures, results."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from hostile import Error, Row
from hostile_models import HALF, batch, model

import xsub_utils as xs
from xsub_utils.similarity.tokens import vocabulary_jaccard

SQUARE = np.array([[0.0, 1, 2, 4], [1, 0, 3, 5], [2, 3, 0, 6], [4, 5, 6, 0]])


def tokenizer():
    return xs.load_encoder("minibabel-base", "text")[1]


def influence(**options):
    return xs.influence([model()], [batch()], [batch()], progress=False, **options)


def save_here(path, folder):
    before = Path.cwd()
    os.chdir(path)
    try:
        xs.find_subnetwork(model(), [batch()]).save(folder)
    finally:
        os.chdir(before)


def stitched(batches=None, metric="accuracy", **options):
    fitted = xs.stitch(model(), model(), [batch()], **{"level": 1, "epochs": 0, **options})
    return xs.stitched_score(fitted, model(), model(), [batch()] if batches is None else batches, metric=metric)


def written(path, content):
    path.write_bytes(content)
    return path


def rows(**calls):
    """Name -> (call, pattern of the error); underscores of a name are blanks."""
    return [Row(name.replace("_", " "), call, Error(message)) for name, (call, message) in calls.items()]


OPTIONS = rows(
    rescoring_without_projection=(lambda _: xs.InfluenceOptions(rescore=1), "rescore: expected 0 without a projection"),
    projection_as_text=(lambda _: xs.InfluenceOptions(projection="8"), "projection: expected a whole number, got '8'"),
    projection_of_2_5=(lambda _: xs.InfluenceOptions(projection=2.5), "projection: expected a whole number, got 2.5"),
    projection_of_0=(lambda _: xs.InfluenceOptions(projection=0), "projection: expected at least 1, got 0"),
    seed_of_1_5=(lambda _: xs.InfluenceOptions(seed=1.5), "seed: expected a whole number"),
    dtype_as_text=(lambda _: xs.InfluenceOptions(dtype="bf16"), "dtype: expected a type of real numbers"),
    dtype_of_integers=(lambda _: xs.InfluenceOptions(dtype=torch.int8), "dtype: expected a type of real numbers"),
    memory_as_text=(lambda _: xs.InfluenceOptions(memory="4GB"), "memory: expected a finite number above 0, got '4GB'"),
    memory_of_0=(lambda _: xs.InfluenceOptions(memory=0), "memory: expected a finite number above 0"),
    no_such_part=(lambda _: xs.InfluenceOptions(part="middle"), "part: expected one of encoder, decoder, cross"),
    loss_as_text=(lambda _: xs.InfluenceOptions(loss="ce"), "loss: expected a function of logits and labels"),
    options_in_a_dict=(lambda _: influence(options={"seed": 1}), "options: expected InfluenceOptions, got a dict"),
    load_as_text=(lambda _: influence(load="torch"), "load: expected a function"),
    weights_of_texts=(lambda _: influence(weights=["a"]), "weights: expected finite numbers, .* got 'a'"),
    weights_of_nan=(lambda _: influence(weights=[float("nan")]), "weights: expected finite numbers"),
    too_many_weights=(lambda _: influence(weights=[1, 2]), "weights: expected one for each of 1 checkpoints, got 2"),
    gates_in_an_array=(lambda _: influence(gates=HALF.numpy()), "gates: expected a tensor .* got a ndarray"),
    gates_in_a_list=(lambda _: influence(gates=[[1, 0], [0, 1]]), "gates: expected a tensor .* got a list"),
    no_head_at_all=(lambda _: influence(gates=torch.zeros(2, 2)), "gates: expected at least one head"),
    too_few_test_groups=(lambda _: influence(test_groups=["a"]), "test_groups: expected one label for each of 6"),
    a_checkpoint_alone=(lambda _: xs.influence(model(), [batch()], [batch()]), "checkpoints: expected a list"),
    no_checkpoints=(lambda _: xs.influence([], [batch()], [batch()]), "checkpoints: expected at least one"),
    no_such_checkpoint=(
        lambda path: xs.influence([path / "none"], [batch()], [batch()]),
        "checkpoints: expected .* which is no folder",
    ),
    count_of_1_5=(lambda _: xs.top_shares(torch.rand(1, 3), list("abc"), count=1.5), "count: expected a whole number"),
    count_beyond_training=(
        lambda _: xs.top_shares(torch.rand(1, 3), list("abc"), count=4),
        "count: expected .* 3, got 4; there are 3 training examples",
    ),
    too_few_origins=(lambda _: xs.top_shares(torch.rand(1, 3), ["a"], count=1), "origins: expected one label for each"),
)

STITCHING = rows(
    no_such_level=(lambda _: stitched(level=7), r"level: expected 0 \(embeddings\) to 2"),
    level_of_1_0=(lambda _: stitched(level=1.0), "level: expected a whole number, got 1.0"),
    epochs_below_0=(lambda _: stitched(epochs=-1), "epochs: expected at least 0, got -1"),
    rate_as_text=(lambda _: stitched(lr="1e-3"), "lr: expected a finite number above 0, got '1e-3'"),
    rate_of_nan=(lambda _: stitched(lr=float("nan")), "lr: expected a finite number above 0"),
    no_such_start=(lambda _: stitched(init="zero"), "init: expected one of"),
    no_such_kind=(lambda _: stitched(kind="cubic"), "kind: expected one of"),
    no_such_metric=(lambda _: stitched(metric="f2"), "metric: expected one of accuracy"),
    labels_left_out=(lambda _: stitched([batch(labels=None)]), "batches: expected dicts that hold 'labels'"),
    one_batch_alone=(lambda _: stitched(batch()), "batches: expected a list of batches, got a single one"),
)

PAIR = "model: expected a model, got a pair; give the model alone, without its tokenizer"


def pair():
    return xs.load_encoder("minibabel-base", "sequence", labels=["a", "b", "c"])


MODELS = rows(
    a_pair_to_evaluate=(lambda _: xs.evaluate(pair(), [batch()]), PAIR),
    a_pair_to_predict=(lambda _: xs.predictions(pair(), [batch()]), PAIR),
    a_pair_for_importance=(lambda _: xs.head_importance(pair(), [batch()]), PAIR),
    a_pair_to_search=(lambda _: xs.find_subnetwork(pair(), [batch()]), PAIR),
    a_pair_for_states=(lambda _: xs.hidden_states(pair(), [batch()]), PAIR),
    a_pair_to_stitch=(lambda _: xs.stitch(pair(), model(), [batch()], level=1), PAIR),
    a_pair_to_cut=(lambda _: xs.remove_heads(pair(), HALF), PAIR),
    a_pair_to_gate=(lambda _: xs.head_gates(pair(), HALF).__enter__(), PAIR),
    a_pair_for_its_shape=(lambda _: xs.head_shape(pair()), PAIR),
    a_path_to_evaluate=(lambda _: xs.evaluate("model", [batch()]), "model: expected a model, got a str"),
    no_such_metric_to_evaluate=(lambda _: xs.evaluate(model(), [batch()], metric="accurcy"), "did you mean 'accuracy'"),
    no_such_part_to_evaluate=(lambda _: xs.evaluate(model(), [batch()], gates=HALF, part="middle"), "part: expected"),
    spans_of_plain_labels=(lambda _: xs.evaluate(model(), [batch()], metric="f1"), "label_names: expected IOB2 tags"),
    no_such_pooling=(lambda _: xs.hidden_states(model(), [batch()], pool="max"), "pool: expected one of first, mean"),
    gates_tried_in_training=(
        lambda _: xs.check_gates(model().train(), {"input_ids": torch.ones(1, 3).long()}),
        r"model: expected one in evaluation mode.*model\.eval\(\)",
    ),
    gates_tried_on_a_list=(lambda _: xs.check_gates(model(), [batch()]), "batch: expected one batch, .* got a list"),
    retention_as_text=(lambda _: xs.find_subnetwork(model(), [batch()], retain="high"), "retain: expected a share"),
    retention_of_2=(
        lambda _: xs.find_subnetwork(model(), [batch()], retain=2),
        r"retain: expected a share in \[0, 1\]",
    ),
    sparsity_of_1_5=(lambda _: xs.find_subnetwork(model(), [batch()], sparsity=1.5), "sparsity: expected a share"),
    sparsity_and_trajectory=(
        lambda _: xs.find_subnetwork(model(), [batch()], sparsity=0.5, full_trajectory=True),
        "sparsity: expected none with full_trajectory",
    ),
)

ARCHITECTURES = rows(
    a_type_that_is_known=(lambda _: xs.register_architecture("bert", like="roberta"), "replace=True gives it a new"),
    a_type_without_paths=(lambda _: xs.register_architecture("mine"), "encoder: expected the paths of the attention"),
    a_type_like_none=(lambda _: xs.register_architecture("mine", like="brt"), "like: expected one of .*bert"),
    a_number_for_a_type=(lambda _: xs.register_architecture(3, like="bert"), "model_type: expected the model_type"),
    paths_as_text=(
        lambda _: xs.register_architecture("mine", encoder="layers"),
        "encoder: expected paths by the names",
    ),
    a_layer_without_number=(
        lambda _: xs.register_architecture("mine", encoder={"layer": "l", "attends": "a", "output": "o"}),
        "expected a layer with one {} for its number",
    ),
)

FILES = rows(
    a_subnetwork_into_the_working_directory=(lambda path: save_here(path, "."), "folder: .*, where this process works"),
    a_subnetwork_nowhere=(lambda path: save_here(path, ""), "folder: expected a new or an empty folder, got ''"),
    no_such_subnetwork=(lambda path: xs.Subnetwork.load(path / "none"), "folder: .* which does not exist"),
    a_folder_without_subnetwork=(lambda path: xs.Subnetwork.load(path), "folder: .* lacks subnetwork.json"),
    no_such_run=(lambda path: xs.checkpoints(path / "none"), "folder: .* which does not exist"),
    a_folder_without_run=(lambda path: xs.checkpoints(path), "folder: .* which holds none"),
    no_such_masks=(lambda path: xs.load_masks(path / "m.npz"), "path: .* which does not exist"),
    damaged_masks=(lambda path: xs.load_masks(written(path / "m.npz", b"PK rubbish")), "path: .* which is damaged"),
)

MASKS_AND_STATISTICS = rows(
    masks_of_two_shapes=(
        lambda _: xs.adjusted_jaccard(HALF, torch.ones(3, 2).bool()),
        "expected the shape of the first",
    ),
    a_mask_in_an_array=(lambda _: xs.adjusted_jaccard(HALF.numpy(), HALF), "expected a tensor, got a ndarray"),
    masks_without_a_matrix_in_common=(lambda _: xs.mask_overlap({"a": HALF}, {"b": HALF}), "a matrix in common"),
    a_mask_of_heads_for_weights=(lambda _: xs.mask_overlap(HALF, HALF), "a: expected parameter name -> bool tensor"),
    a_matrix_that_is_not_square=(lambda _: xs.mantel(SQUARE[:3], SQUARE), "x: expected a square matrix"),
    objects_of_other_names=(
        lambda _: xs.mantel(*(pd.DataFrame(SQUARE, list(names), list(names)) for names in ("abcd", "abce"))),
        "y: expected each of the labels",
    ),
    permutations_below_0=(lambda _: xs.mantel(SQUARE, SQUARE, permutations=-1), "permutations: expected at least 1"),
    no_such_correlation=(lambda _: xs.mantel(SQUARE, SQUARE, method="spear"), "did you mean 'spearman'"),
    a_table_without_its_columns=(lambda _: xs.variance_shares(pd.Series([1.0]), "x"), "table: expected columns"),
    unequal_numbers_of_sentences=(
        lambda _: xs.token_overlap(["a"], ["a", "b"], tokenizer()),
        "as many sentences of bo",
    ),
    a_sentence_for_a_list=(
        lambda _: xs.token_overlap("ab", "cd", tokenizer()),
        "texts_a: expected a list of sentences",
    ),
    no_text_in_row_1=(lambda _: xs.token_overlap(["a", None], ["b", "c"], tokenizer()), "texts_a: .*None in row 1"),
    no_text_for_vocabularies=(lambda _: vocabulary_jaccard(["a"], [3.0], tokenizer()), "texts_b: .*3.0 in row 0"),
    words_of_texts=(
        lambda _: xs.scored_words(pd.DataFrame({"text": ["a"]}), tokenizer()),
        "examples: expected a column 'tokens'",
    ),
    no_such_preset=(lambda _: xs.preset("Z", xs.TaskSpec("t", kind="text")), "study: expected one of minibabel, A"),
    a_preset_for_a_name=(lambda _: xs.preset("A", "nli"), "task: expected a Task or its TaskSpec, got 'nli'"),
    text_to_text_of_a_name=(lambda _: xs.text_to_text("nli"), "task: expected a Task, .* got 'nli'"),
    text_to_text_without_classes=(
        lambda _: xs.text_to_text(xs.load_task("mlm", ["qaa"], sizes={"train": 2})),
        "expected kind 'sequence'",
    ),
    no_values_to_draw_from=(
        lambda _: xs.bootstrap_interval([], np.mean, groups=[]),
        "expected",
    ),
)

ROWS = [
    *OPTIONS,
    *STITCHING,
    *MODELS,
    *ARCHITECTURES,
    *FILES,
    *MASKS_AND_STATISTICS,
    Row("relative to a baseline at chance", lambda _: str(xs.relative_accuracy(0.5, baseline=0.5, chance=0.5)), "nan"),
]
