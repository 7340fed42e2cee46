"""Notebook 04 on a tiny study: which fronts are stitched to which ends, and the tables that are made of them."""

import numpy as np
import pandas as pd
import pytest
import torch

from xsub_utils.evaluation.scores import evaluate
from xsub_utils.stitching.maps import stitch
from xsub_utils.stitching.scores import stitched_score
from xsub_utils.study.nb02_pruning import tables as pruning
from xsub_utils.study.nb04_stitching import stitched as stitching
from xsub_utils.study.nb04_stitching import tables as relative
from xsub_utils.study.nb04_stitching.stitched import CONTROLS, SUBNETWORKS, StitchingPlan
from xsub_utils.study.study import Study

CODES = ("qaa", "qab", "qba")
SMALL = {"train_size": 24, "importance_size": 8, "validation_size": 12, "test_size": 16, "epochs": 1, "pool": 2}
PLAN = StitchingPlan(["nli", "ner"], [0, 1], [0, 1], ["qab"], [1, 4], size=20, epochs=4, lr=0.03)
pytestmark = pytest.mark.usefixtures("module_home")


@pytest.fixture(scope="module")
def study():
    return Study(CODES, **SMALL)


@pytest.fixture(scope="module")
def table(study):
    return stitching.stitches(study, "nli", 0, PLAN)


def test_every_condition_has_its_fronts(study):
    own, again = (pruning.subnetworks(study, "nli", 0, mask_seed) for mask_seed in (0, 1))
    found = {}
    for front in stitching._fronts(study, "nli", 0, "qab", PLAN):
        found.setdefault(front.condition, []).append(front)
    assert list(found) == [
        "itself",
        "mask_seed",
        "language",
        "model_seed",
        "model_seed_shuffled",
        "task",
        "task_and_language",
        *CONTROLS[:3],
        *CONTROLS[4:],
    ]
    assert [front[1:4] for front in found["language"]] == [("nli", 0, "qba"), ("nli", 0, "qaa")]
    assert [found[name][0][1:4] for name in ("model_seed", "task", "task_and_language")] == [
        ("nli", 1, "qab"),
        ("ner", 0, "qab"),
        ("ner", 0, "qba"),
    ]
    for name, mask in (("itself", own["qab"]), ("mask_seed", again["qab"]), (CONTROLS[-1], own["qab"])):
        assert torch.equal(found[name][0].gates, mask)
    within, layers, shuffled = (found[name][0].gates for name in CONTROLS[:3])
    assert torch.equal(within.sum(1), own["qab"].sum(1)) and torch.equal(layers.sum(0), own["qab"].sum(0))
    assert shuffled.sum() == own["qab"].sum() and not found["front_without_heads"][0].gates.any()
    assert {front.condition for front in stitching._fronts(study, "nli", 0, "qaa", PLAN)} == set(SUBNETWORKS[:3])


def test_rows_are_those_of_stitch(study, table):
    model, masks = study.model("nli", 0), pruning.subnetworks(study, "nli", 0, 0)
    train, test = stitching._train_batches(study, "nli", "qab", PLAN.size), study.batches("nli", "test", "qab")
    assert sum(len(batch["labels"]) for batch in train) == PLAN.size
    rows = table.query("language == 'qab' and condition == 'language' and front_language == 'qba' and level == 1")
    expected = {}
    for name, epochs in (("closed_form", 0), ("trained", PLAN.epochs)):
        gates = {"front_gates": masks["qba"], "end_gates": masks["qab"]}
        made = stitch(model, model, train, level=1, epochs=epochs, lr=PLAN.lr, **gates)
        expected[name] = stitched_score(made, model, model, test, **gates)
    assert rows.set_index("map")["score"].to_dict() == pytest.approx(expected)
    assert rows["own"].unique() == pytest.approx(evaluate(model, test, metric="accuracy", gates=masks["qab"]))
    assert rows["full"].unique() == pytest.approx(evaluate(model, test, metric="accuracy"))


def test_an_untrained_front_is_the_twin(study, table):
    masks = pruning.subnetworks(study, "nli", 0, 0)
    model, twin = study.model("nli", 0), stitching.states.untrained_twin(study, "nli", 0)
    train, test = stitching._train_batches(study, "nli", "qab", PLAN.size), study.batches("nli", "test", "qab")
    gates = {"front_gates": masks["qab"], "end_gates": masks["qab"]}
    made = stitch(twin, model, train, level=1, epochs=0, **gates)
    row = table.query("condition == 'untrained_front' and level == 1 and map == 'closed_form'")
    assert row["score"].item() == pytest.approx(stitched_score(made, twin, model, test, **gates))
    assert row["cka_mean"].item() < 0.9


def test_after_the_last_layer_an_end_without_heads_is_itself(table):
    last = table.query("level == 4 and language == 'qab'").set_index(["condition", "map"])["score"]
    for name in ("closed_form", "trained"):
        assert last["end_without_heads", name] == last["itself", name]


def test_an_end_stitched_to_itself_is_itself(table):
    rows = table.query("condition == 'itself' and map == 'closed_form'")
    np.testing.assert_allclose(rows["score"], rows["own"], atol=1 / 16 + 1e-9)
    assert (rows["jaccard"].dropna() == 1).all()
    np.testing.assert_allclose(rows["cka_mean"], 1, atol=1e-6)


def test_levels_maps_and_ends_are_complete(table):
    assert set(table["level"]) == {1, 4} and set(table["map"]) == {"closed_form", "trained"}
    counts = table.groupby(["language", "condition", "front_task", "front_language"]).size()
    assert (counts == 4).all()
    full = {name for name in (*SUBNETWORKS, *CONTROLS)}
    assert set(table.query("language == 'qab'")["condition"]) == full
    assert not table.query("condition == 'end_without_heads'")["jaccard"].any()


def test_no_stitch_is_made_twice(study, table, monkeypatch):
    monkeypatch.setattr(stitching, "stitch_fronts", lambda *_, **__: pytest.fail("stitched again"))
    pd.testing.assert_frame_equal(stitching.stitches(study, "nli", 0, PLAN), table)
    with pytest.raises(pytest.fail.Exception, match="stitched again"):
        stitching.stitches(study, "nli", 0, PLAN._replace(epochs=5))


def test_budgets_name_themselves(study):
    found = stitching.budgets(study, "nli", 0, PLAN, [(20, 1), (24, 2)])
    assert set(found["budget"]) == {"20 × 1", "24 × 2"} and set(found["language"]) == {"qab"}
    assert set(found["condition"]) == set(stitching.TELLING)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("nli", {"ends": ["qac"]}, "language of an end: expected one of qaa, qab, qba, got 'qac'"),
        ("nli", {"tasks": ["ner"]}, "task of the end: expected one of ner, got 'nli'"),
        ("mlm", {}, "task: expected one whose score rises, got 'mlm'"),
        ("nli", {"levels": []}, r"levels: expected different values, at least one, got \[\]"),
        ("nli", {"ends": []}, r"ends: expected different values"),
        ("nli", {"seeds": [1]}, "seed of the end: expected one of 1, got '0'"),
        ("nli", {"size": 30}, "size: expected at most the 24 training examples, got 30"),
    ],
)
def test_what_cannot_be_stitched_is_refused(study, task, changes, message):
    with pytest.raises(ValueError, match=message):
        stitching.stitches(study, task, 0, PLAN._replace(**changes))


# Tables


def made(**changes):
    row = {
        "task": "nli",
        "seed": 0,
        "language": "qaa",
        "condition": "itself",
        "front_task": "nli",
        "front_seed": 0,
        "front_language": "qaa",
        "level": 1,
        "map": "trained",
        "score": 0.6,
        "own": 0.8,
        "full": 0.9,
        "chance": 0.4,
        "jaccard": 1.0,
        "cka_mean": 1.0,
        "cka_first": 1.0,
    }
    return row | changes


def test_relative_accuracy_by_hand():
    found = relative.relative(pd.DataFrame([made(), made(score=0.8), made(score=0.4)]))
    assert found["ra"].tolist() == pytest.approx([0.75, 1, 0.5])
    assert found["ra_full"].tolist() == pytest.approx([2 / 3, 8 / 9, 4 / 9])
    assert found["above_chance"].tolist() == pytest.approx([0.5, 1, 0])


def test_groups_are_ratios_of_sums():
    table = pd.DataFrame([made(score=0.8), made(score=0.5, own=0.41)])
    found = relative.means(table, ["condition"])
    assert found["above_chance"].item() == pytest.approx(0.5 / 0.41) and found["ra"].item() == pytest.approx(1.3 / 1.21)


def test_kinds_of_front_are_compared_on_the_ends_that_have_them_all():
    rows = [made(score=0.8), made(language="qab", score=0.4), made(condition="end_without_heads", score=0.5)]
    table = relative.by_condition(pd.DataFrame(rows))
    assert table.query("condition == 'itself'")["above_chance"].unique() == pytest.approx(1)


def test_matrices_take_their_diagonal_from_another_seed():
    rows = [
        made(condition="mask_seed", score=0.7),
        made(condition="mask_seed", language="qab", front_language="qab", score=0.8),
        made(condition="language", front_language="qab", score=0.5),
        made(condition="language", front_language="qab", score=0.1, map="closed_form"),
        made(condition="itself", score=0.8),
    ]
    table = relative.between_languages(pd.DataFrame(rows))
    assert table["above_chance"].tolist() == pytest.approx([0.75, np.nan, 0.25, 1], nan_ok=True)
    assert list(zip(table["a"], table["b"], strict=True))[2] == ("qab", "qaa"), "front, end"


def test_fronts_of_tasks_that_are_no_end_have_rows():
    rows = [made(condition="model_seed"), made(condition="task", front_task="ner", score=0.5)]
    table = relative.between_tasks(pd.DataFrame(rows))
    assert list(zip(table["a"], table["b"], strict=True)) == [("nli", "nli"), ("ner", "nli")]
    assert table["above_chance"].tolist() == pytest.approx([0.5, 0.25])


def test_conditions_stand_in_their_order_and_itself_in_both_groups():
    rows = [made(condition=name) for name in ("end_without_heads", "shuffled", "language", "itself")]
    table = relative.by_condition(pd.DataFrame(rows))
    assert list(zip(table["group"], table["condition"], strict=True)) == [
        ("subnetworks", "itself"),
        ("subnetworks", "language"),
        ("controls", "itself"),
        ("controls", "shuffled"),
        ("controls", "end_without_heads"),
    ]


def test_correlations_tell_kinds_of_front_from_pairs_within_them():
    rows = [made(condition="language", score=0.5 + x / 100, jaccard=0.5 - x / 100, cka_mean=0.5) for x in range(3)]
    rows += [made(condition="task", score=0.2 + x / 100, jaccard=0.2 - x / 100, cka_mean=0.2) for x in range(3)]
    rows += [made(condition="shuffled", score=0.9, jaccard=0.0), made(score=0.1)]
    found = relative.correlations(pd.DataFrame(rows)).set_index("kind")
    masks = found.loc["jaccard"]
    assert masks["all"] > 0 and masks["within"] == pytest.approx(-1) and masks["pairs"] == 6
    assert np.isnan(found.loc["cka_mean", "within"])


def test_stability_takes_chance_and_ceiling_from_their_conditions_on_the_same_ends():
    names = {"itself": 0.8, "mask_seed": 0.7, "shuffled_within": 0.5, "end_without_heads": 0.4}
    rows = [made(condition=name, score=score) for name, score in names.items()]
    rows += [made(condition=name, score=0.1, language="qab") for name in ("itself", "mask_seed")]
    found = relative.stability(pd.DataFrame(rows)).set_index("measure")
    assert list(found["seed"]) == ["mask_seed"] * 2
    assert found.loc["relative_accuracy", ["mean", "chance", "ceiling"]].tolist() == pytest.approx([7 / 8, 5 / 8, 1])
    assert found.loc["relative_accuracy_above_chance", "mean"] == pytest.approx(0.75)
