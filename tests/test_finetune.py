"""Fine-tuning: what is learnt, what is kept, and that a killed run ends as if it had not been killed."""

import copy
import json
import os
import shutil
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import LANGUAGES, QUICK, SHAPE, SIZES, make_task, sequence_row, text_row, token_row
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

from xsub_utils.data.schema import TASKS, TaskSpec
from xsub_utils.data.tasks import Task
from xsub_utils.evaluation.scores import evaluate
from xsub_utils.models.batches import make_batches
from xsub_utils.training import recorder, trainer
from xsub_utils.training.finetune import checkpoints, finetune, load_finetuned
from xsub_utils.training.rows import Rows
from xsub_utils.training.samplers import LengthGrouped
from xsub_utils.training.settings import PRESETS, Settings, preset


@pytest.fixture(scope="module")
def finished(reviews, encoder, tmp_path_factory):
    """A run that nothing disturbed."""
    return finetune(reviews, encoder, seed=3, out=tmp_path_factory.mktemp("run"), settings=QUICK, progress=False)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


# What is learnt and kept


@pytest.mark.parametrize(
    ("name", "row", "better"),
    [
        ("reviews", sequence_row, lambda first, last: last > 0.9),
        ("upos", token_row, lambda first, last: last > 0.9),
        ("mlm", text_row, lambda first, last: last < min(first, 8.5)),  # words are independent: at best 8
    ],
)
def test_every_kind_is_learnt(name, row, better, encoder, tmp_path):
    task = make_task(name, row, {"train": 120, "validation": 30})
    folder = finetune(task, encoder, seed=0, out=tmp_path, settings=replace(QUICK, epochs=6), progress=False)
    mean = pd.read_csv(folder / "scores.csv").groupby("epoch")["score"].mean()
    assert better(mean[1], mean[6]), mean
    model, tokenizer = load_finetuned(folder)
    for code in LANGUAGES:
        score = evaluate(
            model, make_batches(task.examples("validation", code), tokenizer, task.kind), metric=task.metric
        )
        scores = pd.read_csv(folder / "scores.csv").set_index(["epoch", "language"])["score"]
        assert score == pytest.approx(scores[6, code])


def test_a_run_leaves_loadable_epochs_and_its_logs(finished, reviews):
    assert {path.name for path in finished.iterdir()} == {
        "epoch-1", "epoch-2", "epoch-3", "finetuning.json", "log.csv", "scores.csv",
    }  # fmt: skip
    assert [path.name for path in checkpoints(finished)] == ["epoch-1", "epoch-2", "epoch-3"]
    for folder in checkpoints(finished):
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        assert model.config.id2label == {0: "negative", 1: "positive"}
        assert AutoTokenizer.from_pretrained(folder)("ani beku").input_ids
    log = pd.read_csv(finished / "log.csv")
    assert list(log) == ["step", "epoch", "loss", "lr"]
    assert log["step"].tolist() == [6, 10, 12, 18]  # every ten steps and at the end of an epoch
    assert log["lr"].iloc[-1] < log["lr"].iloc[0] <= QUICK.lr
    scores = pd.read_csv(finished / "scores.csv")
    assert list(scores) == ["epoch", "language", "score"]
    assert scores[["epoch", "language"]].apply(tuple, axis=1).tolist() == [
        (epoch, code) for epoch in (1, 2, 3) for code in LANGUAGES
    ]


def test_tokenizer_files_are_stored_once(finished):
    inodes = {path.stat().st_ino for path in finished.glob("epoch-*/tokenizer.json")}
    assert len(inodes) == 1
    assert len({path.stat().st_ino for path in finished.glob("epoch-*/model.safetensors")}) == 3


def test_load_finetuned_gives_any_epoch(finished):
    first, last = load_finetuned(finished, 1)[0], load_finetuned(finished)[0]
    third, _ = load_finetuned(finished, 3)
    for name, value in last.state_dict().items():
        assert torch.equal(value, third.state_dict()[name])
    assert not torch.equal(first.classifier.out_proj.weight, last.classifier.out_proj.weight)


def test_epochs_go_by_their_names_where_earlier_ones_were_deleted(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("epoch-1", "epoch-2"))
    third, last = load_finetuned(tmp_path / "run", 3)[0], load_finetuned(finished)[0]
    assert all(torch.equal(value, third.state_dict()[name]) for name, value in last.state_dict().items())
    with pytest.raises(ValueError, match=r"epoch: expected one of 3, which .* holds, got 1"):
        load_finetuned(tmp_path / "run", 1)


def test_training_agrees_with_a_bare_loop(reviews, tokenizer, tmp_path):
    torch.manual_seed(0)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = XLMRobertaConfig(vocab_size=len(tokenizer), num_labels=2, **SHAPE, **still)
    model = XLMRobertaForSequenceClassification(config)
    settings = Settings(epochs=2, batch_size=8, lr=0.01, warmup=3, weight_decay=0.1)
    folder = finetune(reviews, (model, tokenizer), seed=5, out=tmp_path, settings=settings, progress=False)

    rows = Rows(reviews.splits["train"], tokenizer, "sequence", 128)
    order = LengthGrouped(rows, 8, 5)
    undecayed = {name for name, _ in model.named_parameters() if "LayerNorm" in name or name.endswith("bias")}
    groups = [
        {
            "params": [p for name, p in model.named_parameters() if (name in undecayed) == still],
            "weight_decay": decay,
        }
        for still, decay in ((True, 0.0), (False, 0.1))
    ]
    optimizer, step = torch.optim.AdamW(groups, lr=0.01), 0
    for epoch in range(2):
        order.set_epoch(epoch)
        indices = list(order)
        for start in range(0, len(indices), 8):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * min(step / 3, (12 - step) / (12 - 3))
            batch = rows.__getitems__(indices[start : start + 8])
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    trained = load_finetuned(folder)[0].state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-5)


def test_a_given_model_stays_as_it_is(reviews, tokenizer, tmp_path):
    model = XLMRobertaForSequenceClassification(XLMRobertaConfig(vocab_size=len(tokenizer), **SHAPE))
    before, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    folder = finetune(
        reviews, (model, tokenizer), seed=0, out=tmp_path, settings=replace(QUICK, epochs=1), progress=False
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.to_dict() == config
    assert load_finetuned(folder)[0].config.id2label == {0: "negative", 1: "positive"}
    assert finetune(reviews, (model, tokenizer), seed=0, out=tmp_path, settings=replace(QUICK, epochs=1)) == folder
    with torch.no_grad():
        model.classifier.out_proj.bias += 1
    with pytest.raises(ValueError, match=r"holds another run, with \{'encoder': 'XLMRobertaFor"):
        finetune(reviews, (model, tokenizer), seed=0, out=tmp_path, settings=replace(QUICK, epochs=1))


def test_one_language_is_trained_and_all_are_scored(reviews, encoder, tmp_path, monkeypatch):
    seen = []
    init = Rows.__init__
    monkeypatch.setattr(
        Rows, "__init__", lambda self, examples, *rest: seen.append(examples) or init(self, examples, *rest)
    )
    folder = finetune(
        reviews, encoder, seed=0, out=tmp_path, languages="qba", settings=replace(QUICK, epochs=1), progress=False
    )
    assert set(seen[0]["language"]) == {"qba"} and len(seen[0]) == SIZES["train"]
    assert pd.read_csv(folder / "scores.csv")["language"].tolist() == list(LANGUAGES)


def test_scores_may_be_left_out(reviews, encoder, tmp_path):
    settings = replace(QUICK, epochs=1, eval_size=0)
    folder = finetune(reviews, encoder, seed=0, out=tmp_path, settings=settings, progress=False)
    assert pd.read_csv(folder / "scores.csv").empty


@pytest.mark.parametrize("metric", ["token_accuracy", "perplexity"])
def test_patience_ends_training(metric, encoder, tmp_path):
    task = make_task("mlm", text_row)
    task = replace(task, spec=replace(task.spec, metric=metric))
    settings = replace(QUICK, epochs=9, lr=0.0, patience=2)
    folder = finetune(task, encoder, seed=0, out=tmp_path, settings=settings, progress=False)
    assert len(checkpoints(folder)) == 3  # one best, two no better


# Seeds


def test_same_seed_same_bytes_and_other_seed_other_weights(finished, reviews, encoder, tmp_path):
    for seed in (3, 4):
        finetune(reviews, encoder, seed=seed, out=tmp_path / str(seed), settings=QUICK, progress=False)
    assert content(tmp_path / "3") == content(finished)
    assert weights(tmp_path / "4/epoch-1") != weights(finished / "epoch-1")


def test_global_generators_are_left_alone(reviews, encoder, tmp_path):
    def draw():  # nothing of Python's own generator, from which the type checks under pytest draw
        return np.random.random(), torch.rand(1).item()

    states = np.random.get_state(), torch.get_rng_state()
    expected = draw()
    np.random.set_state(states[0])
    torch.set_rng_state(states[1])
    finetune(reviews, encoder, seed=0, out=tmp_path, settings=replace(QUICK, epochs=1), progress=False)
    assert draw() == expected


@pytest.mark.parametrize("kind", ["sequence", "mlm"])
def test_an_epoch_shows_every_example_once_in_an_order_of_its_own(kind, reviews, tokenizer):
    rows = Rows(reviews.splits["train"], tokenizer, kind, 128)
    order = LengthGrouped(rows, 7, seed=1)
    epochs = []
    for epoch in (0, 1, 0):
        order.set_epoch(epoch)
        epochs.append(list(order))
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(48))
    assert epochs[0] == epochs[2] != epochs[1]
    assert list(LengthGrouped(rows, 7, seed=2)) != epochs[0]


def test_batches_group_examples_of_similar_length(reviews, tokenizer):
    rows = Rows(reviews.splits["train"], tokenizer, "sequence", 128)
    batches = np.array(list(LengthGrouped(rows, 8, seed=0))).reshape(-1, 8)
    bounds = sorted((rows.lengths[batch].min(), rows.lengths[batch].max()) for batch in batches)
    assert all(longest <= shortest for (_, longest), (shortest, _) in pairwise(bounds))
    longest = [rows.lengths[batch].max() for batch in batches]
    assert longest != sorted(longest)
    assert [rows.__getitems__(batch.tolist())["input_ids"].shape[1] for batch in batches] == longest


def test_masking_is_new_in_every_epoch_and_the_same_for_the_same_seed(tokenizer):
    rows = Rows(make_task("mlm", text_row).splits["train"], tokenizer, "mlm", 128)
    masked = []
    for seed in (0, 1, 0):
        rows.start_epoch(np.random.default_rng(seed))
        masked.append(copy.deepcopy(rows.tensors))
    assert torch.equal(masked[0]["labels"], masked[2]["labels"])
    assert torch.equal(masked[0]["input_ids"], masked[2]["input_ids"])
    assert not torch.equal(masked[0]["labels"], masked[1]["labels"])
    padding = rows.tensors["attention_mask"] == 0
    assert (masked[0]["labels"][padding] == -100).all()


# Killed and resumed


class Killed(Exception):
    """Stands in for a kill."""


def after(calls, function, fail):
    """The function, until it has been called so often: then it fails."""
    count = 0

    def counting(*args):
        nonlocal count
        count += 1
        if count > calls:
            fail()
        return function(*args)

    return counting


def killed():
    raise Killed


@pytest.mark.parametrize(
    ("owner", "method", "calls"),
    [
        (Rows, "__getitems__", 3),  # in the first epoch: nothing to go on from
        (Rows, "__getitems__", 10),  # in the second
        (recorder.Recorder, "publish", 1),  # the checkpoint of the second is there, its folder is not
        (recorder.Recorder, "publish", 2),  # after the last step
        (recorder, "link", 6),  # in the middle of making a folder
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(
    owner, method, calls, finished, reviews, encoder, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, method, after(calls, getattr(owner, method), killed))
        finetune(reviews, encoder, seed=3, out=tmp_path, settings=QUICK, progress=False)
    assert (tmp_path / "_resume").is_dir() == bool(list(tmp_path.glob("epoch-*")))
    finetune(reviews, encoder, seed=3, out=tmp_path, settings=QUICK, progress=False)
    assert content(tmp_path) == content(finished)


def test_a_run_survives_kill_9(encoder, tmp_path):
    task = make_task("mlm", text_row)
    whole = finetune(task, encoder, seed=3, out=tmp_path / "whole", settings=QUICK, progress=False)
    child = os.fork()
    if child == 0:
        Rows.__getitems__ = after(15, Rows.__getitems__, lambda: os.kill(os.getpid(), signal.SIGKILL))
        finetune(task, encoder, seed=3, out=tmp_path / "again", settings=QUICK, progress=False)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert [path.name for path in checkpoints(tmp_path / "again")] == ["epoch-1", "epoch-2"]
    finetune(task, encoder, seed=3, out=tmp_path / "again", settings=QUICK, progress=False)
    assert content(tmp_path / "again") == content(whole)


def test_a_damaged_checkpoint_is_passed_over(finished, reviews, encoder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Rows, "__getitems__", after(15, Rows.__getitems__, killed))
        finetune(reviews, encoder, seed=3, out=tmp_path, settings=QUICK, progress=False)
    state = tmp_path / "_resume/checkpoint-12/trainer_state.json"
    state.write_text(state.read_text()[:50])
    finetune(reviews, encoder, seed=3, out=tmp_path, settings=QUICK, progress=False)
    assert content(tmp_path) == content(finished)


def test_a_run_out_of_patience_is_not_trained_on(encoder, tmp_path, monkeypatch):
    task, settings = make_task("mlm", text_row), replace(QUICK, epochs=9, lr=0.0, patience=2)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(recorder.Recorder, "publish", after(2, recorder.Recorder.publish, killed))
        finetune(task, encoder, seed=0, out=tmp_path, settings=settings, progress=False)
    assert len(checkpoints(finetune(task, encoder, seed=0, out=tmp_path, settings=settings, progress=False))) == 3


def test_a_complete_run_is_left_as_it_is(finished, reviews, encoder, monkeypatch):
    monkeypatch.setattr(trainer, "train", killed)
    before = content(finished)
    assert finetune(reviews, encoder, seed=3, out=finished, settings=QUICK, progress=False) == finished
    assert content(finished) == before


# Output and errors


def test_only_the_bar_is_shown(reviews, encoder, tmp_path, capfd):
    finetune(reviews, encoder, seed=0, out=tmp_path / "quiet", settings=replace(QUICK, epochs=1), progress=False)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    finetune(reviews, encoder, seed=0, out=tmp_path / "shown", settings=replace(QUICK, epochs=1))
    out, err = capfd.readouterr()
    assert out == "" and "fine-tuning" in err and "shards" not in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"languages": ["qab"]}, r"languages: expected one of qaa, qba, got 'qab'; did you mean 'qba'"),
        ({"languages": []}, "languages: expected different languages, at least one"),
        ({"languages": ["qaa", "qaa"]}, "languages: expected different languages"),
        ({"seed": -1}, "seed: expected 0 to 4294967295, got -1"),
        ({"seed": 4}, r"holds another run, with \{'seed': 3\} instead of \{'seed': 4\}"),
    ],
)
def test_bad_arguments(changes, message, finished, reviews, encoder):
    arguments = {"task": reviews, "encoder": encoder, "seed": 3, "out": finished, "settings": QUICK}
    with pytest.raises(ValueError, match=message):
        finetune(**arguments | changes, progress=False)


def test_tasks_that_cannot_be_learnt(reviews, encoder, tmp_path):
    def train(task):
        finetune(task, encoder, seed=0, out=tmp_path, settings=QUICK, progress=False)

    with pytest.raises(ValueError, match="metric: expected one of accuracy, got 'f1'"):
        train(replace(reviews, spec=replace(reviews.spec, metric="f1")))
    with pytest.raises(
        ValueError,
        match="task: expected one of kind sequence, token, mlm, clm, text2text, got task 'parallel' of kind 'text'",
    ):
        train(replace(reviews, spec=TASKS["parallel"]))
    none = reviews.splits["train"].query("language == 'qaa'")
    with pytest.raises(ValueError, match=r"task: expected training examples .*, got none in qba"):
        train(replace(reviews, splits=reviews.splits | {"train": none}))


def test_a_given_model_must_have_the_classes_of_the_task(reviews, tokenizer, tmp_path):
    config = XLMRobertaConfig(vocab_size=len(tokenizer), num_labels=5, **SHAPE)
    model = XLMRobertaForSequenceClassification(config)
    with pytest.raises(
        ValueError, match="encoder: expected a model with the 2 classes of task 'reviews', got a model with 5"
    ):
        finetune(reviews, (model, tokenizer), seed=0, out=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda t: XLMRobertaForMaskedLM(tiny_config(t)),
            "with a head for kind 'sequence', got a XLMRobertaForMaskedLM",
        ),
        (lambda t: XLMRobertaModel(tiny_config(t)), "with a head for kind 'sequence', got a XLMRobertaModel; load_enc"),
        (lambda t: XLMRobertaForSequenceClassification(tiny_config(t, ["no", "yes"])), r"got one with \['no', 'yes'\]"),
        (lambda t: torch.nn.Linear(2, 2), "of transformers and its tokenizer, got a pair of Linear and "),
    ],
)
def test_a_model_that_cannot_learn_the_task_is_refused(make, message, reviews, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=f"encoder: expected a model .*{message}"):
        finetune(reviews, (make(tokenizer), tokenizer), seed=0, out=tmp_path / "run", settings=QUICK, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_with_more_subwords_than_the_model_embeds_is_refused(reviews, tokenizer, tmp_path):
    config = XLMRobertaConfig(vocab_size=len(tokenizer) - 1, **SHAPE)
    expected = (
        f"encoder: expected a tokenizer of at most {len(tokenizer) - 1} sub-words, .* got one of {len(tokenizer)}"
    )
    with pytest.raises(ValueError, match=expected):
        finetune(reviews, (XLMRobertaForSequenceClassification(config), tokenizer), seed=0, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_decoder_that_does_not_know_padding_is_refused(reviews, tokenizer, tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = LlamaForSequenceClassification(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    model.config.pad_token_id = None
    with pytest.raises(ValueError, match=r"knows the token of padding.* set model.config.pad_token_id"):
        finetune(reviews, (model, tokenizer), seed=0, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_another_tokenizer_or_configuration_is_another_run(reviews, tokenizer, tmp_path):
    model = XLMRobertaForSequenceClassification(tiny_config(tokenizer))
    options = {"seed": 0, "out": tmp_path / "run", "settings": replace(QUICK, epochs=1), "progress": False}
    finetune(reviews, (model, tokenizer), **options)
    finetune(reviews, (copy.deepcopy(model), copy.deepcopy(tokenizer)), **options)  # the same pair
    shorter = copy.deepcopy(tokenizer)
    shorter.model_max_length = 7
    other = copy.deepcopy(model)
    other.config.hidden_act = "relu"
    for pair in ((model, shorter), (other, tokenizer)):
        with pytest.raises(ValueError, match="another run"):
            finetune(reviews, pair, **options)


def tiny_config(tokenizer, labels=("LABEL_0", "LABEL_1")):
    return XLMRobertaConfig(vocab_size=len(tokenizer), id2label=dict(enumerate(labels)), **SHAPE)


def test_labels_that_contradict_the_stored_head_are_refused(finished, encoder, tmp_path):
    task = make_task("reviews", sequence_row)
    other = replace(task, spec=TaskSpec("reviews", "sequence", ("bad", "good")))
    with pytest.raises(ValueError, match=r"labels: expected \['negative', 'positive'\].* got \['bad', 'good'\]"):
        finetune(other, checkpoints(finished)[-1], seed=0, out=tmp_path / "run", settings=QUICK, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_else_is_left_alone(finished, reviews, encoder, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/plan.txt").write_text("mine")
    (tmp_path / "free").mkdir()
    (tmp_path / "free/.hidden").touch()
    inside = finished / "epoch-9"
    for out, message in (
        (tmp_path / "notes", "which holds plan.txt; choose a new folder"),
        (tmp_path / "notes/plan.txt", "the file"),
        (inside, "which lies inside of the run"),
        (encoder, "which holds config.json, model.safetensors, tokenizer.json"),
    ):
        with pytest.raises(ValueError, match=f"out: expected a new or an empty folder, got .*{message}"):
            finetune(reviews, encoder, seed=0, out=out, settings=QUICK, progress=False)
    assert content(tmp_path / "notes") == {"plan.txt": b"mine"} and not inside.exists()
    settings = replace(QUICK, epochs=1)
    assert checkpoints(finetune(reviews, encoder, seed=0, out=tmp_path / "free", settings=settings, progress=False))


def test_a_folder_that_is_no_model_is_refused_and_nothing_is_written(reviews, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"which lacks config.json and model.safetensors"):
        finetune(reviews, tmp_path / "empty", seed=0, out=tmp_path / "run", settings=QUICK, progress=False)
    with pytest.raises(ValueError, match=r"task: expected one with a split 'train', .* with splits validation"):
        only = replace(reviews, splits={"validation": reviews.splits["validation"]})
        finetune(only, tmp_path / "empty", seed=0, out=tmp_path / "run", settings=QUICK, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_checkpoints_of_a_trainer_go_by_their_steps(tmp_path):
    for name in ("checkpoint-100", "checkpoint-20", "checkpoint-last", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-7").touch()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-100"]
    with pytest.raises(FileNotFoundError, match=r"folder: .* which has no finetuning.json; load_encoder and influence"):
        load_finetuned(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"folder: .* which does not exist"):
        checkpoints(tmp_path / "none")


# Own tasks


def own_task(spec, row, splits=("train",)):
    rng = np.random.default_rng(0)
    frames = {
        split: pd.DataFrame([{"language": code, **row(rng)} for code in LANGUAGES for _ in range(12)])
        for split in splits
    }
    return Task.from_frames(spec, frames, allow_overlap=True)


@pytest.mark.parametrize(
    ("spec", "row"),
    [
        (TaskSpec("topic", "sequence", ("travel", "sports", "food")), sequence_row),
        (TaskSpec("parts", "token", ("even", "odd")), token_row),
        (TaskSpec("texts", "mlm"), text_row),
    ],
)
def test_own_tasks_are_learnt_with_and_without_a_validation_split(spec, row, encoder, tmp_path):
    settings = replace(QUICK, epochs=1)
    for splits in (("train",), ("train", "validation")):
        task = own_task(spec, row, splits)
        folder = finetune(task, encoder, seed=0, out=tmp_path / splits[-1], settings=settings, progress=False)
        assert len(pd.read_csv(folder / "scores.csv")) == len(LANGUAGES) * (len(splits) - 1)
        model, _ = load_finetuned(folder)
        assert not spec.labels or list(model.config.id2label.values()) == list(spec.labels)


def test_causal_language_models_are_learnt(tokenizer, tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=40, pad_token_id=1)
    model = GPT2LMHeadModel(config)
    task = own_task(TaskSpec("stories", "clm"), text_row, ("train", "validation"))
    settings = replace(QUICK, epochs=3)
    folder = finetune(task, (model, tokenizer), seed=0, out=tmp_path, settings=settings, progress=False)
    mean = pd.read_csv(folder / "scores.csv").groupby("epoch")["score"].mean()
    assert mean[3] < mean[1]
    trained, own = load_finetuned(folder)
    batches = make_batches(task.examples("validation", "qaa"), own, "clm")
    scores = pd.read_csv(folder / "scores.csv").set_index(["epoch", "language"])["score"]
    assert evaluate(trained, batches, metric="perplexity") == pytest.approx(scores[3, "qaa"])


def test_a_preset_goes_by_kind_where_a_task_is_no_built_in_one():
    topic = TaskSpec("topic", "sequence", ("travel", "sports"))
    assert preset("A", topic) == PRESETS["A"]["sequence"]
    tags = TaskSpec("nli", "token", ("a", "b"))  # of another kind than the built-in task of its name
    assert preset("A", tags) == PRESETS["A"]["token"]
    with pytest.raises(ValueError, match=r"task 'nli' of kind 'token', got 'C'.*; minibabel, A have some"):
        preset("C", tags)
    with pytest.raises(ValueError, match=r"of kind 'text', got 'A'.*; give Settings\(…\) of your own"):
        preset("A", TaskSpec("texts", "text"))


def test_loading_what_is_not_there(finished, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder: expected one with epoch-1, … .*, which holds none"):
        checkpoints(tmp_path)
    with pytest.raises(ValueError, match=r"epoch: expected one of 1, 2, 3, which .* holds, got 0"):
        load_finetuned(finished, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "linar"}, "schedule: expected one of .* got 'linar'; did you mean 'linear'"),
        ({"precision": "int8"}, "precision: .* got 'int8'"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"max_length": -3}, "max_length: expected at least 1, got -3"),
        ({"patience": 0}, "patience: expected at least 1, got 0; None is for never"),
        ({"eval_size": -1}, "eval_size: expected at least 0, got -1"),
        ({"lr": -1e-3}, "lr: expected a finite number of at least 0, got -0.001"),
        ({"weight_decay": float("nan")}, "weight_decay: expected a finite number of at least 0, got nan"),
        ({"warmup": 1.5}, "warmup: expected a share below 1, or a whole number of steps, got 1.5"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_schedules(schedule, reviews, encoder, tmp_path):
    settings = replace(QUICK, epochs=2, schedule=schedule, warmup=0)
    log = pd.read_csv(finetune(reviews, encoder, seed=0, out=tmp_path, settings=settings, progress=False) / "log.csv")
    done = (log["step"] - 1) / 12  # the rate of a step is that before its update
    expected = 0.01 * (0.5 + 0.5 * np.cos(np.pi * done)) if schedule == "cosine" else 0.01 + 0 * done
    assert log["lr"].tolist() == pytest.approx(expected.tolist())


def test_presets_are_those_of_the_studies():
    def numbers(study, task):
        s = preset(study, replace(make_task("reviews", sequence_row), spec=TASKS[task]))
        return s.epochs, s.batch_size, s.lr, s.weight_decay, s.max_length, s.schedule, s.warmup

    for task in ("nli", "paraphrase", "reviews", "ner"):
        assert numbers("A", task) == (2, 32, 2e-5, 0.01, 512, "linear", 0)
    assert numbers("B", "mlm") == (1, 8, 2e-5, 0.01, 512, "linear", 0)
    assert numbers("C", "mlm") == (1, 16, 5e-5, 0, 512, "linear", 0)
    assert numbers("C", "ner") == (3, 32, 2e-5, 0, 128, "linear", 0)
    assert numbers("C", "nli") == (3, 32, 5e-5, 0, 128, "linear", 0)
    assert numbers("C-mT5", "nli") == (3, 32, 2e-4, 0, 128, "linear", 0)
    assert numbers("D", "nli")[:3] == (10, 32, 2e-5)
    assert set(PRESETS["minibabel"]) == {"sequence", "token", "mlm", "clm", "text2text"}
    with pytest.raises(
        ValueError,
        match=r"task 'nli' of kind 'sequence', got 'B', which has .* mlm; minibabel, A, C, C-mT5, D have some",
    ):
        numbers("B", "nli")
    with pytest.raises(ValueError, match=r"study: expected one of .* got 'E'"):
        numbers("E", "nli")


def test_the_record_says_what_was_done(finished, reviews):
    record = json.loads((Path(finished) / "finetuning.json").read_text())
    assert record["task"] == "reviews" and record["seed"] == 3 and record["epochs"] == 3
    assert record["data"] == reviews.identity and record["settings"]["batch_size"] == 8
