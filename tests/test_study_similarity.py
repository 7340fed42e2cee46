"""The tables of notebook 03: on masks and tables made by hand, and once on a tiny study."""

import os
from itertools import combinations, product
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy.stats import spearmanr
from transformers import AutoConfig, AutoModel, BertTokenizerFast

from xsub_utils.data.minibabel import examples as minibabel
from xsub_utils.data.minibabel import languages as invented
from xsub_utils.similarity import hidden_states
from xsub_utils.statistics.variance import DESIGN
from xsub_utils.study.conditions import Relation
from xsub_utils.study.nb01_finetuning import tables as finetuning
from xsub_utils.study.nb02_pruning import tables as pruning
from xsub_utils.study.nb03_similarity import kinship, overlaps
from xsub_utils.study.nb03_similarity import representations as states
from xsub_utils.study.nb03_similarity.likeness import likeness as likeness_of
from xsub_utils.study.study import Study, load_model

ROOT = Path(__file__).parents[1]
PUD = Path(os.environ.get("XSUB_UD", ROOT.parent / "shared" / "data" / "ud-pud"))
CODES = ["qaa", "qab", "qba"]
SMALL = {"train_size": 24, "importance_size": 8, "validation_size": 12, "test_size": 16, "epochs": 1}
TASKS, LANGUAGES, SEEDS = ["nli", "ner"], ["qaa", "qba"], [0, 1]
GRID = list(product(TASKS, LANGUAGES, SEEDS, SEEDS))
MEASURED = ["jaccard", "expected_within", "adjusted_within"]
pytestmark = pytest.mark.usefixtures("module_home")


@pytest.fixture(scope="module")
def study():
    return Study(CODES, **SMALL)


def mask(*rows):
    """A mask drawn by hand, "x" where a head is kept."""
    return torch.tensor([[letter == "x" for letter in row] for row in rows])


def some_masks():
    """One of every combination, of two layers and three heads; head 1 of layer 1 always stays, the last one never."""
    bits = np.random.default_rng(3).random((len(GRID), 2, 3)) < 0.5
    bits[:, 0, 0], bits[:, 1, 2] = True, False
    return dict(zip(GRID, torch.from_numpy(bits), strict=True))


def jaccard(a, b):
    a, b = ({tuple(place) for place in one.nonzero().tolist()} for one in (a, b))
    return len(a & b) / len(a | b)


def importance_table(keys, vectors):
    """The vectors as `pruning.full_importance` gives them, of layers of three heads."""
    rows = [
        (*key, i // 3 + 1, i % 3 + 1, value)
        for key, vector in zip(keys, vectors, strict=True)
        for i, value in enumerate(vector)
    ]
    return pd.DataFrame(rows, columns=[*overlaps.FACTORS, "layer", "head", "importance"])


# Masks


def test_pairs_differ_in_one_respect_or_in_task_and_language():
    found = some_masks()
    table = overlaps.pairs(found)
    # a pair for each two values of one factor, times all values of the others; both at once cross in two ways
    counts = {"mask_seed": 8, "model_seed": 8, "language": 8, "task": 8, "task_and_language": 8}
    assert table["differs"].value_counts().to_dict() == counts
    for row in table.to_dict("records"):
        one = tuple(row[factor] for factor in overlaps.FACTORS)
        two = tuple(row[f"{factor}_b"] for factor in overlaps.FACTORS)
        unequal = tuple(factor for factor, a, b in zip(overlaps.FACTORS, one, two, strict=True) if a != b)
        assert overlaps.DIFFERS[unequal] == row["differs"]
        assert row["jaccard"] == pytest.approx(jaccard(found[one], found[two]))
        sizes = sorted(int(found[key].sum()) for key in (one, two))
        assert row["ceiling"] == pytest.approx(sizes[0] / sizes[1]) and row["jaccard"] <= row["ceiling"]


def test_chance_of_a_pair_by_hand():
    both = mask("xx.", "x.."), mask("x.x", ".x.")
    found = {("nli", code, 0, 0): one for code, one in zip(LANGUAGES, both, strict=True)}
    row = overlaps.pairs(found).iloc[0]
    assert row["differs"] == "language" and row["jaccard"] == pytest.approx(1 / 5)
    # two of three share 1 (2/3) or 2 (1/3) heads in the first layer, one of three 0 (2/3) or 1 (1/3) in the second
    shared = {1: 4 / 9, 2: 2 / 9 + 2 / 9, 3: 1 / 9}
    expected = sum(p * s / (6 - s) for s, p in shared.items())
    assert row["expected_within"] == pytest.approx(expected)
    assert row["adjusted_within"] == pytest.approx((1 / 5 - expected) / (1 - expected))
    assert row["ceiling"] == 1


def test_masks_without_heads_have_no_overlap():
    found = dict.fromkeys(product(TASKS, LANGUAGES, [0], SEEDS), mask("...", "..."))
    table = overlaps.pairs(found)
    assert table[["jaccard", "ceiling", "adjusted_within", "overlap"]].isna().to_numpy().all()
    summary = overlaps.summary(table, MEASURED)
    assert len(summary) == 4 * len(MEASURED) and summary[["mean", "low", "high"]].isna().to_numpy().all()
    assert overlaps.between_languages(table, LANGUAGES, "jaccard")["jaccard"].isna().all()


def test_a_mask_without_heads_shares_nothing_with_one_that_has_some():
    table = overlaps.pairs({("nli", "qaa", 0, 0): mask("...", "..."), ("nli", "qba", 0, 0): mask("x..", "...")})
    assert table["jaccard"].tolist() == table["ceiling"].tolist() == [0]


def test_summary_is_a_mean_with_its_range_over_tasks():
    table = overlaps.pairs(some_masks())
    found = overlaps.summary(table, MEASURED).set_index(["differs", "measure"])
    assert list(found.index) == list(product(overlaps.DIFFERS.values(), MEASURED))
    means = table.groupby("differs")["jaccard"].mean()
    np.testing.assert_allclose(found.xs("jaccard", level="measure")["mean"], means[list(overlaps.DIFFERS.values())])
    by_task = table[table["differs"] == "mask_seed"].groupby("task")["jaccard"].mean()
    limits = found.loc[("mask_seed", "jaccard"), ["low", "high"]]
    np.testing.assert_allclose(limits, sorted(by_task))
    one = found.loc["task"]
    assert (one["low"] == one["mean"]).all() and (one["high"] == one["mean"]).all(), "one pair of tasks spans nothing"


def test_between_languages_is_symmetric_with_another_data_seed_on_the_diagonal():
    found = some_masks()
    table = overlaps.between_languages(overlaps.pairs(found), LANGUAGES, "jaccard")
    keys = list(product(TASKS, LANGUAGES, LANGUAGES))
    assert table[["task", "a", "b"]].values.tolist() == [list(key) for key in keys]
    for task in TASKS:
        own = [jaccard(found[task, "qba", seed, 0], found[task, "qba", seed, 1]) for seed in SEEDS]
        other = [jaccard(found[task, "qaa", *seeds], found[task, "qba", *seeds]) for seeds in product(SEEDS, SEEDS)]
        square = table[table["task"] == task].pivot(index="a", columns="b", values="jaccard")
        assert square.loc["qba", "qba"] == pytest.approx(np.mean(own))
        assert square.loc["qaa", "qba"] == square.loc["qba", "qaa"] == pytest.approx(np.mean(other))


def test_between_tasks_is_symmetric_with_another_model_seed_on_the_diagonal():
    found = some_masks()
    square = overlaps.between_tasks(overlaps.pairs(found), TASKS, "jaccard").pivot(index="a", columns="b")["jaccard"]
    own = [jaccard(found["ner", code, 0, data], found["ner", code, 1, data]) for code in LANGUAGES for data in SEEDS]
    other = [jaccard(found["nli", *rest], found["ner", *rest]) for rest in product(LANGUAGES, SEEDS, SEEDS)]
    assert square.loc["ner", "ner"] == pytest.approx(np.mean(own))
    assert square.loc["nli", "ner"] == square.loc["ner", "nli"] == pytest.approx(np.mean(other))


def test_with_single_seeds_the_diagonals_are_unknown():
    table = overlaps.pairs({key: one for key, one in some_masks().items() if key[2:] == (0, 0)})
    languages = overlaps.between_languages(table, LANGUAGES, "jaccard")
    tasks = overlaps.between_tasks(table, TASKS, "jaccard")
    for found in (languages, tasks):
        np.testing.assert_array_equal(found["jaccard"].isna(), found["a"] == found["b"])


def test_all_masks_are_named_by_their_factors(study, monkeypatch):
    made = some_masks()
    monkeypatch.setattr(pruning, "subnetworks", lambda _, task, *s: {code: made[task, code, *s] for code in LANGUAGES})
    found = overlaps.all_masks(study, TASKS, SEEDS, SEEDS)
    assert found.keys() == made.keys() and all(found[key] is made[key] for key in made)


def test_survivors_by_hand():
    found = {
        ("nli", "qaa", 0, 0): mask("xx.", "x.x"),  # 4 of 6
        ("nli", "qba", 0, 0): mask("xx.", ".xx"),  # 4 of 6
        ("ner", "qaa", 0, 0): mask("x..", "..x"),  # 2 of 6
        ("ner", "qba", 0, 0): mask(".x.", "..."),  # 1 of 6
    }
    table = overlaps.survivors(found).set_index(["task", "language"])
    assert list(table.index) == list(product([*TASKS, "all"], [*LANGUAGES, "all"]))
    assert table["kept"].to_dict() == dict(zip(table.index, [4, 4, 3, 2, 1, 0, 2, 1, 0], strict=True))
    assert table["searches"].tolist() == [1, 1, 2, 1, 1, 2, 2, 2, 4]
    assert table.loc[("nli", "all"), "expected"] == pytest.approx(3 * (2 / 3 * 2 / 3 + 2 / 3 * 2 / 3))
    assert table.loc[("all", "all"), "expected"] == pytest.approx(3 * (2 * 2 * 1 * 1 + 2 * 2 * 1 * 0) / 3**4)
    np.testing.assert_allclose(table["expected"][table["searches"] == 1], table["kept"][table["searches"] == 1])


def test_heads_never_used_by_hand():
    found = {("nli", "qaa", 0, 0): mask("x..", "..."), ("nli", "qba", 0, 0): mask(".x.", "..x")}
    found |= {("ner", "qaa", 0, 0): mask("x..", "xx.")}
    table = overlaps.never_used(found)
    assert table.values.tolist() == [
        *(["all", 1, 1], ["all", 2, 0]),
        *(["nli", 1, 1], ["nli", 2, 2]),
        *(["ner", 1, 2], ["ner", 2, 1]),
    ]


# Importance


def test_variance_is_of_tasks_where_only_these_matter():
    kept = {"nli": mask("xx.", "x.."), "ner": mask(".xx", "..x")}
    weight = {"nli": [1, 2, 3, 4, 5, 6], "ner": [6, 5, 4, 3, 2, 1]}
    importance = importance_table(GRID, [weight[task] for task, *_ in GRID])
    table = overlaps.variance({key: kept[key[0]] for key in GRID}, importance)
    assert list(zip(table["quantity"], table["component"], strict=True)) == list(
        product(["heads_kept", "head_importance"], DESIGN)
    )
    np.testing.assert_allclose(table["share"], [float(name == "task") for name in table["component"]], atol=1e-12)


def test_variance_pairs_masks_with_their_own_factors():
    """Rows of the importance in another order than the masks: still the language alone."""
    kept = {"qaa": mask("xx.", "x.."), "qba": mask(".xx", "..x")}
    backwards = GRID[::-1]
    importance = importance_table(backwards, [kept[key[1]].flatten().tolist() for key in backwards])
    table = overlaps.variance({key: kept[key[1]] for key in GRID}, importance)
    assert table[table["share"] > 1e-9]["component"].tolist() == ["language", "language"]


def test_vectors_have_rows_as_they_come_and_hold_the_heads_of_all_layers():
    keys = [("ner", "qba", 1, 0), ("nli", "qaa", 0, 1), ("ner", "qaa", 0, 0)]
    vectors = np.arange(36.0).reshape(3, 12)  # of four layers
    table = importance_table(keys, vectors)
    mixed = pd.concat([table.iloc[:1], table.iloc[1:].sample(frac=1, random_state=0)])
    found = overlaps.vectors_of(mixed)
    assert list(found.index) == list(dict.fromkeys(mixed[overlaps.FACTORS].itertuples(index=False, name=None)))
    np.testing.assert_array_equal(found.loc[keys, list(product(range(1, 5), range(1, 4)))], vectors)
    assert list(overlaps.vectors_of(table).columns) == list(product(range(1, 5), range(1, 4)))


def noisy(centres, group):
    """Importance of every combination: the vector of its group, and a little noise."""
    rng = np.random.default_rng(0)
    return importance_table(GRID, [centres[group(*key)] + 0.01 * rng.random(6) for key in GRID])


@pytest.mark.parametrize("count", [4, len(GRID)])
def test_maps_have_a_point_for_every_vector_and_are_the_same_again(count):
    table = importance_table(GRID[:count], np.random.default_rng(0).random((count, 6)))
    found = overlaps.maps(table)
    assert list(found) == [*overlaps.FACTORS, "x", "y", "method"]
    assert found["method"].value_counts().to_dict() == {"t-SNE": count, "MDS": count}
    assert np.isfinite(found[["x", "y"]]).to_numpy().all()
    pd.testing.assert_frame_equal(found, overlaps.maps(table))


def test_scaling_keeps_the_distances_of_points_in_a_plane():
    points = np.zeros((len(GRID), 6))
    points[:, :2] = np.random.default_rng(0).random((len(GRID), 2))
    found = overlaps.maps(importance_table(GRID, points)).query("method == 'MDS'")[["x", "y"]].to_numpy()
    distances = [np.linalg.norm(one[:, None] - one[None], axis=-1) for one in (points, found)]
    np.testing.assert_allclose(*distances, atol=1e-3)


def test_clusters_find_the_groups_that_are_there():
    eye = np.eye(6)
    groups = {"task": eye[:2], "task_and_language": eye[:4], "model": eye[:4]}
    number = {
        "task": lambda task, *_: TASKS.index(task),
        "task_and_language": lambda task, code, *_: 2 * TASKS.index(task) + LANGUAGES.index(code),
        "model": lambda task, _, seed, __: 2 * TASKS.index(task) + seed,
    }
    for name, centres in groups.items():
        found = overlaps.clusters(noisy(centres, number[name])).set_index("groups")
        assert found.loc[name, "adjusted_rand"].tolist() == [1, 1], name
        assert set(found["clustering"]) == {"k-means", "agglomerative"}
        assert found.loc["language", "adjusted_rand"].max() < 0.5
        assert found["k"].groupby(level=0).first().to_dict() == {
            "task": 2,
            "model": 4,
            "language": 2,
            "task_and_language": 4,
        }


# Parameters and sub-words


def test_parameter_sparsity_by_hand(study, monkeypatch):
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
    config = AutoConfig.for_model("bert", vocab_size=60, max_position_embeddings=40, **sizes)
    model = AutoModel.from_config(config)
    monkeypatch.setattr(Study, "model_folder", lambda *_: Path())
    monkeypatch.setattr(overlaps, "load_model", lambda _: model)
    monkeypatch.setattr(pruning, "subnetworks", lambda *_: {"qaa": mask("x..", "xxx"), "qba": mask("xx.", "...")})
    table = overlaps.parameter_sparsity(study, "nli", 0, 1)
    assert (table[["task", "seed", "mask_seed"]] == ["nli", 0, 1]).to_numpy().all()
    head = 4 * 24 * 8 + 3 * 8  # query, key, value and output, the first three with biases
    layer = 4 * (24 * 24 + 24) + (24 * 20 + 20) + (20 * 24 + 24) + 2 * 2 * 24
    full = (60 + 40 + 2) * 24 + 2 * 24 + 2 * layer + 24 * 24 + 24
    assert overlaps._layer_parameters(model) == {0: layer, 1: layer}
    sparsity = table.set_index(["language", "layer"])["sparsity"]
    assert list(sparsity.index) == list(product(["qaa", "qba"], ["1", "2", "all"]))
    gone = {("qaa", "1"): 2 * head / layer, ("qaa", "2"): 0, ("qaa", "all"): 2 * head / full}
    assert sparsity.loc["qaa"].tolist() == pytest.approx(list(gone.values()))
    assert sparsity["qba", "1"] == pytest.approx(head / layer)
    rest = (24 * 20 + 20) + (20 * 24 + 24) + 2 * 2 * 24  # nothing of attention but, at most, the bias of its output
    assert sparsity["qba", "2"] == pytest.approx(1 - (rest + 24) / layer)


def words_of(letters, folder):
    """A tokenizer whose sub-words are single letters."""
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]), "utf-8")
    return BertTokenizerFast(str(folder / "vocab.txt"))


def test_shared_tokens_by_hand(study, monkeypatch, tmp_path):
    texts = {"qaa": ["a b", "c d e"], "qab": ["a b c d", "c"], "qba": ["x", "y"]}
    monkeypatch.setattr(overlaps, "parallel", lambda _: texts)
    monkeypatch.setattr(Study, "tokenizer", lambda _: words_of("abcdexy", tmp_path))
    table = overlaps.shared_tokens(study)
    assert set(table) == set(kinship.CELLS) and set(table["measure"]) == {"shared_subwords"}
    found = table.set_index(["a", "b"])["value"].to_dict()
    unequal = dict.fromkeys([("qaa", "qba"), ("qab", "qba"), ("qba", "qaa"), ("qba", "qab")], 0)
    assert found == pytest.approx(unequal | {("qaa", "qab"): (2 / 4 + 1) / 2, ("qab", "qaa"): (1 + 1 / 3) / 2})


# States, of a tiny study


@pytest.fixture(scope="module")
def drawn(study):
    """Masks without a search: some at random, for two mask seeds."""
    rng = np.random.default_rng(0)
    made = {key: torch.from_numpy(rng.random((4, 12)) < 0.5) for key in product(SEEDS, CODES)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruning, "subnetworks", lambda _, __, ___, data: {code: made[data, code] for code in CODES})
        yield made


@pytest.fixture(scope="module")
def views(study, drawn):
    return states.states(study, "nli", 0, 0)


@pytest.fixture(scope="module")
def within(study, views):
    return states.within_model(study, "nli", 0, (0, 1))


@pytest.fixture(scope="module")
def across(study, views):
    return states.across_languages(study, "nli", 0, 0)


def test_parallel_sentences_mean_the_same_row_by_row(study):
    texts = states.parallel(study)
    assert list(texts) == CODES and {len(one) for one in texts.values()} == {SMALL["test_size"]}
    task = study.task("parallel")
    ids = {code: rows.set_index("text")["id"] for code, rows in task.examples("test").groupby("language")}
    rows = [[ids[code][text] for text in texts[code]] for code in CODES]
    assert rows[0] == rows[1] == rows[2] and len(set(rows[0])) == len(rows[0])
    numbers = [int(name.removeprefix("parallel-")) for name in rows[0]]
    anew = {code: minibabel.examples("parallel", code, numbers)["text"].tolist() for code in CODES}
    assert texts == anew
    lengths = np.sum([[len(text.split()) for text in one] for one in texts.values()], axis=0)
    assert (np.diff(lengths) >= 0).all()


def test_parallel_sentences_are_at_most_so_many_and_the_same_again(study, monkeypatch):
    monkeypatch.setattr(states, "SENTENCES", 10)
    few = states.parallel(study)
    assert {len(one) for one in few.values()} == {10} and few == states.parallel(study)


@pytest.mark.parametrize("name", ["nli", "mlm"])
def test_nothing_is_trained_on_parallel_sentences(study, name):
    train, parallel = study.task(name).examples("train"), study.task("parallel")
    seen = {text for column in ("text", "text_pair") if column in train for text in train[column]}
    assert not seen & {text for one in states.parallel(study).values() for text in one}
    assert not set(parallel.examples("test")["id"]) & set(train["id"])


def test_languages_without_sentences_in_common_are_refused(study, monkeypatch):
    rows = study.task("parallel").examples("test")
    apart = rows.assign(id=rows["id"] + rows["language"].where(rows.index % 4 > 0, ""))
    monkeypatch.setattr(type(study.task("parallel")), "examples", lambda *_: apart)
    with pytest.raises(ValueError, match="at least 8 sentences with equal ids"):
        states.parallel(study)


def test_states_have_every_level_but_the_embedding_of_the_first_token(study, views):
    rows = len(states.parallel(study)["qaa"])
    assert set(views) == set(product(("full", "own", "random", "untrained"), CODES))
    for pools in views.values():
        assert {pool: list(levels) for pool, levels in pools.items()} == {"first": [1, 2, 3, 4], "mean": [*range(5)]}
        assert {level.shape for levels in pools.values() for level in levels.values()} == {(rows, 96)}


def test_states_are_those_of_the_masked_model(study, views, drawn):
    model = load_model(study.model_folder("nli", 0))
    batches = states.sentences(study, "qab")
    for heads, gates in (("full", None), ("own", drawn[0, "qab"])):
        levels = hidden_states.hidden_states(model, batches, gates=gates, pool="mean")
        torch.testing.assert_close(torch.stack(list(views[heads, "qab"]["mean"].values())), torch.stack(levels))
    assert not torch.equal(views["own", "qab"]["mean"][4], views["random", "qab"]["mean"][4])


def test_rows_of_states_are_the_sentences_in_their_order(study):
    read = [
        row[kept.bool()].tolist()
        for batch in states.sentences(study, "qaa")
        for row, kept in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert read == study.tokenizer()(states.parallel(study)["qaa"])["input_ids"]


def test_what_is_stored_is_not_computed_again(study, views, within, across, drawn, monkeypatch):
    monkeypatch.setattr("xsub_utils.similarity.hidden_states.pooled_states", lambda *_, **__: pytest.fail("read again"))
    again = states.states(study, "nli", 0, 0)
    assert torch.equal(again["own", "qba"]["first"][3], views["own", "qba"]["first"][3])
    pd.testing.assert_frame_equal(states.within_model(study, "nli", 0, (0, 1)), within)
    pd.testing.assert_frame_equal(states.across_languages(study, "nli", 0, 0), across)
    with pytest.raises(pytest.fail.Exception, match="read again"):
        states.states(study, "nli", 0, 1)  # other masks


def test_within_model_has_all_comparisons(within):
    assert set(within) == {"task", "seed", "language", "against", "other", "whose", "pool", "level", "cka"}
    assert within.groupby("against")["other"].unique().map(set).to_dict() == {
        "full": {"own", "untrained", "random_heads", "shuffled_sentences", "other_language"},
        "own": {"random_heads", "shuffled_sentences", "other_mask_seed", "other_language"},
    }
    others = within[within["other"] == "other_language"][["language", "whose"]].drop_duplicates()
    assert others.values.tolist() == [list(pair) for pair in combinations(CODES, 2)], (
        "each pair on one side's sentences"
    )
    assert within.groupby(["language", "against", "other", "whose", "pool", "level"]).size().max() == 1
    levels = within.groupby("pool")["level"].unique().map(sorted).to_dict()
    assert levels == {"first": [1, 2, 3, 4], "mean": [0, 1, 2, 3, 4]}
    assert within["cka"].between(-1, 1 + 1e-6).all()


def test_without_other_mask_seeds_there_is_no_other_data_seed(study, views, within):
    table = states.within_model(study, "nli", 0, [0])
    same = within[within["other"] != "other_mask_seed"].reset_index(drop=True)
    pd.testing.assert_frame_equal(table, same)


def test_controls_behave(within):
    mean = within[within["pool"] == "mean"].groupby(["against", "other", "level"])["cka"].mean().unstack("level")
    assert (mean.xs("shuffled_sentences", level="other").abs() < 0.2).to_numpy().all()
    embeddings = mean.loc[[("full", "own"), ("own", "other_language")], 0]
    np.testing.assert_allclose(embeddings, 1, err_msg="masks change nothing before the first layer")
    assert mean.loc[("full", "untrained"), 0] < 1


def test_level_maps_are_one_on_the_diagonal_of_the_same_model(study, views):
    table = states.level_maps(study, ["nli"], [0], 0)
    assert list(dict.fromkeys(table["other"])) == ["same_model", "its_own"]
    same, own = (
        rows.pivot(index="level", columns="level_b", values="cka") for _, rows in table.groupby("other", sort=False)
    )
    assert same.shape == own.shape == (5, 5)
    np.testing.assert_allclose(np.diag(same), 1, atol=1e-6)
    np.testing.assert_allclose(same, same.T, atol=1e-6)
    assert own.loc[0, 0] == pytest.approx(1) and own.loc[4, 4] < 1


def test_across_languages_has_all_measures_and_controls(across):
    assert list(across) == ["a", "b", "heads", "measure", "level", "value", "task", "seed"]
    assert set(zip(across["a"], across["b"], strict=True)) == set(combinations(CODES, 2))
    measures = across.groupby("heads", sort=False)["measure"].unique().map(list).to_dict()
    few = [*states.CONTROLLED, "cka_first"]
    every = [*states.MEASURES, "rsa_regress", few[-1]]
    assert measures == {"full": every, "shuffled": every, "own": few, "untrained": few}
    assert set(across[across["heads"] == "shuffled"]["a"]) == {"qaa"}, "pairs of the first language are enough"
    assert set(across[across["measure"] == "cka_first"]["level"]) == {1, 2, 3, 4}
    mean = across.groupby(["heads", "measure"])["value"].mean()
    assert abs(mean["shuffled", "cka"]) < 0.2 and mean["shuffled", "retrieval"] < 0.2
    assert mean["full", "cka"] > mean["shuffled", "cka"] + 0.2


# States, made by hand


def noise(seed, rows=40, width=3):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, width)))


@pytest.fixture
def made(monkeypatch):
    """Views of one language and three models: of nli 0, the same turned (nli 1), and independent of it (ner 0)."""
    first, turn = noise(0), torch.linalg.qr(noise(1, 3)).Q
    own = {("nli", 0): noise(2), ("nli", 1): noise(2) * 3, ("ner", 0): noise(3)}
    full = {("nli", 0): first, ("nli", 1): first @ turn + 1, ("ner", 0): noise(4)}

    def views(_, task, seed, __):
        sides = {"full": full[task, seed], "own": own[task, seed], "random": noise(5 + seed)}
        return {(heads, "qaa"): {pool: {1: one} for pool in ("first", "mean")} for heads, one in sides.items()}

    monkeypatch.setattr(states, "states", views)
    monkeypatch.setattr(states, "stored_table", lambda _kind, _key, compute: compute())
    monkeypatch.setattr(states, "_key", lambda *_: {})
    return Study(["qaa"])


def test_between_models_compares_seeds_and_tasks(made):
    table = states.between_models(made, ["nli"], [0, 1], 0)
    keys = ["task", "seed", "task_b", "language", "against", "other", "whose", "pool", "level"]
    assert list(table) == [*keys, "cka"] and len(table) == 2 * 3 * 2, "both ways"
    found = table[table["pool"] == "mean"].groupby(["against", "other"])["cka"].mean()
    assert found["full", "other_model_seed"] == pytest.approx(1), "turned and moved is the same"
    assert found["own", "other_model_seed"] == pytest.approx(1), "and so is stretched"
    assert abs(found["own", "other_model_seed_random"]) < 0.2
    table = states.between_models(made, ["nli", "ner"], [0], 0)
    assert set(table["other"]) == {"other_task", "other_task_random"}
    assert set(zip(table["task"], table["task_b"], strict=True)) == {("nli", "ner"), ("ner", "nli")}
    assert (table["cka"].abs() < 0.2).all()


def test_one_model_has_no_other(made):
    table = states.between_models(made, ["nli"], [0], 0)
    assert table.empty and "cka" in table


def test_level_maps_name_other_models(made):
    table = states.level_maps(made, ["nli"], [0, 1], 0).set_index("other")["cka"]
    assert list(table.index) == ["same_model", "its_own", "another_model_seed"]
    assert table["same_model"] == pytest.approx(1) and table["another_model_seed"] == pytest.approx(1)
    tasks = states.level_maps(made, ["nli", "ner"], [0], 0).set_index("other")["cka"]
    assert list(tasks.index) == ["same_model", "its_own", "another_task"]
    assert abs(tasks["another_task"]) < 0.2


def test_sentences_that_are_all_alike_have_no_likeness():
    flat = torch.ones(8, 3)
    found = likeness_of(flat, noise(0, 8).float(), states.MEASURES)
    assert list(found) == list(states.MEASURES) and np.isnan(list(found.values())).all()
    (cell,) = states._cells({"mean": {1: flat}}, {"mean": {1: noise(0, 8).float()}})
    assert np.isnan(cell[-1])


# Kinship


def test_true_relatedness_of_invented_and_natural_languages():
    truth = kinship.true_relatedness(Study(CODES))
    assert list(truth) == list(invented.DISTANCES)
    for kind, related in truth.items():
        assert list(related.index) == list(related.columns) == CODES
        np.testing.assert_allclose(related, 1 - invented.distances(kind, CODES))
    natural = kinship.true_relatedness(Study(["en", "de", "zh"], source="local"))
    assert natural["genetic"].loc["en", "zh"] == 0 < natural["genetic"].loc["en", "de"] < 1
    assert all((np.diag(related) == 1).all() for related in natural.values())


def test_families():
    assert kinship.family(Study(CODES)).astype(int).values.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    natural = kinship.family(Study(["en", "de", "hi", "zh", "ar"], source="local")).loc["en"]
    assert natural.to_dict() == {"en": True, "de": True, "hi": True, "zh": False, "ar": False}


def test_likeness_of_masks_takes_languages_alone():
    pairs = overlaps.pairs(some_masks())
    table = kinship.of_masks(pairs)
    assert list(table) == kinship.CELLS and len(table) == 2 * 8
    found = table[table["measure"] == "mask_jaccard"].groupby(["task", "seed", "a", "b"])["value"].mean()
    between = overlaps.between_languages(pairs, LANGUAGES, "jaccard").set_index(["task", "a", "b"])["jaccard"]
    assert found["nli", :, "qaa", "qba"].mean() == pytest.approx(between["nli", "qaa", "qba"])
    assert set(table["measure"]) == {"mask_jaccard", "mask_jaccard_above_chance"}


def test_likeness_of_importance_by_hand():
    keys = [
        ("nli", "qaa", 0, 0),
        ("nli", "qab", 0, 0),
        ("nli", "qba", 0, 0),
        ("nli", "qaa", 1, 0),
        ("nli", "qab", 1, 0),
    ]
    table = kinship.of_importance(importance_table(keys, [[3, 4, 0], [4, 3, 0], [0, 0, 2], [1, 0, 0], [5, 0, 0]]))
    assert list(table) == kinship.CELLS
    found = table.set_index(["seed", "a", "b"])["value"].to_dict()
    assert found == pytest.approx(
        {(0, "qaa", "qab"): 24 / 25, (0, "qaa", "qba"): 0, (0, "qab", "qba"): 0, (1, "qaa", "qab"): 1}
    )


def test_likeness_of_states_takes_layers_and_other_languages():
    columns = ["task", "seed", "language", "against", "other", "whose", "pool", "level", "cka"]
    own, other = "own", "other_language"
    within = [
        ("nli", 0, "qaa", own, other, "qba", "mean", 0, 1.0),
        ("nli", 0, "qaa", own, other, "qba", "mean", 1, 0.6),
        ("nli", 0, "qaa", own, other, "qba", "mean", 2, 0.2),
        ("nli", 0, "qaa", own, other, "qba", "first", 1, 0.9),
        ("nli", 0, "qaa", "full", other, "qba", "mean", 1, 0.9),
        ("nli", 0, "qaa", own, "random_heads", "", "mean", 1, 0.9),
    ]
    across = [
        *(("full", 0, 1.0), ("full", 1, 0.5), ("full", 2, 0.7)),
        *(("own", 1, 0.3), ("shuffled", 1, 0.0), ("untrained", 1, 0.1)),
    ]
    table = kinship.of_states(
        pd.DataFrame(within, columns=columns),
        pd.DataFrame(across, columns=["heads", "level", "value"]).assign(
            a="qaa", b="qba", measure="cka", task="nli", seed=0
        ),
    )
    assert set(table) == set(kinship.CELLS) and set(zip(table["a"], table["b"], strict=True)) == {("qaa", "qba")}
    assert table.set_index("measure")["value"].to_dict() == pytest.approx(
        {
            "cka_of_subnetworks": 0.4,
            "cka_of_translations": 0.6,
            "cka_of_translations_own": 0.3,
            "cka_of_translations_untrained": 0.1,
        }
    )


def test_states_of_the_study_fit(within, across):
    table = kinship.of_states(within, across)
    assert (table.groupby("measure").size() == 3).all(), "one row for each pair of three languages"
    curves = kinship.with_relation(across, Study(CODES))
    assert list(curves) == ["task", "seed", "measure", "relation", "level", "value"]
    assert list(dict.fromkeys(curves["relation"])) == list(Relation)
    cka = across[(across["measure"] == "cka") & (across["level"] == 2)].set_index(["a", "b", "heads"])["value"]
    found = curves[(curves["measure"] == "cka") & (curves["level"] == 2)].set_index("relation")["value"]
    assert found["related"] == pytest.approx(cka["qaa", "qab", "full"])
    unrelated = [cka[a, "qba", "own"] for a in ("qaa", "qab")]
    assert found["unrelated_own"] == pytest.approx(np.mean(unrelated))
    assert found["related_untrained"] == pytest.approx(cka["qaa", "qab", "untrained"])


def crossed(task, own, other):
    rows = [(task, 0, "qaa", "own", "qaa", 0.9, 0.0), (task, 0, "qba", "own", "qba", own, 0.0)]
    rows += [(task, 0, "qaa", "other_language", "qba", other, other - own)]
    return pd.DataFrame(rows, columns=["task", "seed", "mask", "control", "language", "score", "difference"])


def test_likeness_of_function_is_a_share_of_the_own_score(study, monkeypatch):
    tables = {"nli": crossed("nli", 0.8, 0.6), "mlm": crossed("mlm", 20.0, 25.0)}
    monkeypatch.setattr(pruning, "cross_evaluation", lambda _, task, *__: tables[task])
    table = kinship.of_function(study, list(tables), [0], [0])
    assert list(table) == kinship.CELLS and set(zip(table["a"], table["b"], strict=True)) == {("qaa", "qba")}
    assert table.set_index("task")["value"].to_dict() == pytest.approx({"nli": 0.75, "mlm": 0.8})


def test_likeness_of_transfer_leaves_out_the_own_language(study, monkeypatch):
    rows = [("nli", 0, a, b, i / 4) for i, (a, b) in enumerate(product(LANGUAGES, LANGUAGES))]
    columns = ["task", "seed", "source", "target", "score"]
    monkeypatch.setattr(finetuning, "transfer", lambda *_: pd.DataFrame(rows, columns=columns))
    table = kinship.of_transfer(study, ["nli"], [0])
    assert table.set_index(["a", "b"])["value"].to_dict() == {("qaa", "qba"): 0.25, ("qba", "qaa"): 0.5}


FOUR = ["qaa", "qab", "qac", "qba"]


def square(values):
    """A symmetric matrix over four languages, of the six values above its diagonal."""
    matrix = np.eye(4)
    matrix[np.triu_indices(4, 1)] = values
    return pd.DataFrame(np.maximum(matrix, matrix.T), FOUR, FOUR)


def likeness(values, seed=0, measure="made", task="nli"):
    rows = [(measure, task, seed, a, b, value) for (a, b), value in zip(combinations(FOUR, 2), values, strict=True)]
    return pd.DataFrame(rows, columns=kinship.CELLS)


CLOSE = [0.9, 0.6, 0.3, 0.5, 0.2, 0.1]
TRUTH = {"tree": square(CLOSE)}


def test_a_likeness_that_is_the_relatedness_is_told():
    for transform in (np.array, np.exp):  # ranks decide
        row = kinship.against_truth(likeness(transform(CLOSE)), TRUTH).iloc[0]
        assert row["rho"] == pytest.approx(1) and row["p"] == pytest.approx(1 / 24), "no other order does as well"
    row = kinship.against_truth(likeness(-np.array(CLOSE)), TRUTH).iloc[0]
    assert row["rho"] == pytest.approx(-1) and row["p"] == 1
    assert [row["low"], row["high"]] == pytest.approx([-1, -1]), "one task spans nothing"


def test_models_are_standardised_and_averaged_and_tasks_span_the_range():
    rng = np.random.default_rng(0)
    values = [scale * (np.array(CLOSE) + rng.normal(scale=0.3, size=6)) for scale in (1, 100, 1, 1)]
    tasks = ["nli", "ner", "ner", "nli"]
    table = pd.concat([likeness(one, seed, task=tasks[seed]) for seed, one in enumerate(values)])
    row = kinship.against_truth(table, TRUTH).iloc[0]
    mean = np.mean([(one - one.mean()) / one.std() for one in values], axis=0)
    assert row["rho"] == pytest.approx(spearmanr(mean, CLOSE).statistic)
    unit = [(one - one.mean()) / one.std() for one in values]
    single = [spearmanr(unit[i] + unit[j], CLOSE).statistic for i, j in ((0, 3), (1, 2))]
    assert [row["low"], row["high"]] == pytest.approx(sorted(single))
    pd.testing.assert_series_equal(row, kinship.against_truth(table, TRUTH).iloc[0])


def test_an_asymmetric_likeness_counts_in_both_orders():
    there = likeness(CLOSE)
    back = likeness(np.array(CLOSE)[::-1]).rename(columns={"a": "b", "b": "a"})
    row = kinship.against_truth(pd.concat([there, back]), TRUTH).iloc[0]
    assert row["rho"] == pytest.approx(spearmanr([*CLOSE, *CLOSE[::-1]], CLOSE * 2).statistic)


def test_models_with_unknown_values_are_left_out():
    known, unknown = likeness(CLOSE), likeness([nan, *CLOSE[1:]][::-1], seed=1)
    pd.testing.assert_frame_equal(
        kinship.against_truth(pd.concat([unknown, known]), TRUTH), kinship.against_truth(known, TRUTH)
    )
    assert kinship.against_truth(unknown, TRUTH).empty
    again = pd.concat([known, unknown.assign(seed=0)])  # of another mask seed the value is known
    assert len(kinship.against_truth(again, TRUTH)) == 1


def test_a_constant_side_has_no_correlation():
    kinds = TRUTH | {"script": square([0.5] * 6)}
    table = pd.concat([likeness(CLOSE), likeness([0.1] * 6, measure="flat")])
    found = kinship.against_truth(table, kinds).set_index(["measure", "kind"])
    assert found.loc[("made", "tree"), "rho"] == pytest.approx(1)
    assert found.loc[("made", "script")].isna().all()
    assert "flat" not in found.index.get_level_values("measure"), "such a model tells nothing"


def test_unknown_relatedness_leaves_its_cells_out():
    row = kinship.against_truth(likeness([*CLOSE[:5], 7.0]), {"kind": square(CLOSE).replace(CLOSE[5], nan)}).iloc[0]
    assert row["rho"] == pytest.approx(1)


def test_stability_takes_chance_and_ceiling_from_their_rows():
    pairs = overlaps.pairs(some_masks())
    own, full = "own", "full"
    rows = [
        (own, "other_mask_seed", "nli", 0.8),
        (own, "other_mask_seed", "ner", 0.6),
        (own, "random_heads", "nli", 0.1),
        (full, "random_heads", "nli", 0.9),
        (full, "other_model_seed", "nli", 0.95),
        (own, "other_model_seed", "nli", 0.5),
        (own, "other_model_seed_random", "nli", 0.2),
    ]
    table = pd.DataFrame(rows, columns=["against", "other", "task", "cka"]).assign(pool="mean", level=1, seed=0)
    far = table.assign(cka=-1.0)
    states_of = pd.concat([table, far.assign(level=0), far.assign(pool="first")])
    between = states_of["other"].str.contains("model_seed")
    found = kinship.stability(pairs, states_of[~between], states_of[between]).set_index(["measure", "seed"])
    assert list(found.index) == list(product(["mask_jaccard", "cka_of_states"], ["mask_seed", "model_seed"]))
    seeds = pairs[pairs["differs"] == "model_seed"]
    expected = [seeds.groupby("task")["jaccard"].mean().mean(), *seeds[["expected_within", "ceiling"]].mean()]
    assert found.loc[("mask_jaccard", "model_seed"), ["mean", "chance", "ceiling"]].tolist() == pytest.approx(expected)
    data, model = (found.loc[("cka_of_states", seed)] for seed in ("mask_seed", "model_seed"))
    assert data.tolist() == pytest.approx([0.7, 0.6, 0.8, 0.1, 1.0])
    assert model[["mean", "chance", "ceiling"]].tolist() == pytest.approx([0.5, 0.2, 0.95])
    assert model[["low", "high"]].tolist() == pytest.approx([0.5, 0.5])


def test_stability_needs_a_second_seed(made, study, within):
    """One model and one mask seed: nothing to say, and no complaint."""
    pairs = overlaps.pairs({key: one for key, one in some_masks().items() if key[2:] == (0, 0)})
    single = within[within["other"] != "other_mask_seed"]
    assert kinship.stability(pairs, single, states.between_models(made, ["nli"], [0], 0)).empty
    assert list(kinship.stability(pairs, within, states.between_models(made, ["nli"], [0], 0))["seed"]) == ["mask_seed"]


# Real text


@pytest.mark.slow
@pytest.mark.skipif(not PUD.is_dir(), reason=f"UD PUD is not at {PUD}; set XSUB_UD to its folder")
def test_no_parallel_sentence_of_real_text_is_trained_on():
    given = yaml.safe_load((ROOT / "xsub_utils" / "study" / "configs" / "ud.yaml").read_text())["parameters"]
    sizes = {name: given[name] for name in ("train_size", "importance_size", "validation_size", "test_size", "pool")}
    study = Study(given["languages"][::3], source="local", data=str(PUD), **sizes)
    texts, task = states.parallel(study), study.task("parallel")
    held_out = task.examples("test").set_index(["language", "text"])["id"]
    upos, mlm = study.task("upos"), study.task("mlm").examples("train")
    tagged = pd.concat(upos.splits.values())
    words = tagged["tokens"].map(tuple).set_axis(pd.MultiIndex.from_frame(tagged[["language", "id"]]))
    same = [held_out[code][texts[code]].tolist() for code in study.languages]
    assert len(set(same[0])) == study.test_size and all(ids == same[0] for ids in same)
    for train in (upos.examples("train"), mlm):
        assert train["language"].value_counts().to_dict() == dict.fromkeys(study.languages, study.train_size)
        assert not set(same[0]) & set(train["id"])
    assert not {text for one in texts.values() for text in one} & set(mlm["text"])
    assert not set(words[words.index.isin(same[0], level="id")]) & set(upos.examples("train")["tokens"].map(tuple))
