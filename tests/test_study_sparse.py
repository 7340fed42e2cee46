"""Notebook 06 on a tiny study: which model is trained through which heads, and the tables made of them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from xsub_utils.attribution import top_k, tracin
from xsub_utils.data.minibabel import languages as truth
from xsub_utils.evaluation.scores import evaluate
from xsub_utils.heads.removal import head_weights
from xsub_utils.similarity.overlap import jaccard
from xsub_utils.study.conditions import (
    AttributedHeads,
    Dial,
    Difference,
    Likeness,
    ModelThrough,
    Through,
    Training,
    Variant,
    Way,
)
from xsub_utils.study.nb02_pruning import searches
from xsub_utils.study.nb05_attribution.controls import AttributedModel, AttributionPlan
from xsub_utils.study.nb05_attribution.examples import batches_of
from xsub_utils.study.nb05_attribution.scores import attributed, attributed_each
from xsub_utils.study.nb06_sparse import composition, own_heads
from xsub_utils.study.nb06_sparse import dials as sparse_dials
from xsub_utils.study.nb06_sparse import models as sparse
from xsub_utils.study.nb06_sparse import tables as modularity
from xsub_utils.study.nb06_sparse.models import Size
from xsub_utils.study.study import Study
from xsub_utils.training import sparse as sparse_training
from xsub_utils.training.finetune import checkpoints, load_finetuned

CODES = ("qaa", "qab", "qba")
SMALL = {"train_size": 64, "importance_size": 16, "validation_size": 40, "test_size": 16, "epochs": 2, "pool": 2}
PLAN = AttributionPlan(8, 3, 6, correct=False, sizes=())
FULL, OWN, OTHER = AttributedHeads.FULL, AttributedHeads.OWN, AttributedHeads.OTHER_LANGUAGE
MATCHED, EACH = AttributedHeads.RANDOM_AS_ACCURATE, own_heads.EACH
HEADS = tuple(Variant)[2:7]  # trained through masks of heads
CONDITIONS = (FULL, OWN, MATCHED)
pytestmark = pytest.mark.usefixtures("module_home")


@pytest.fixture(scope="module")
def study():
    return Study(CODES, **SMALL)


@pytest.fixture(scope="module")
def scores(study):
    return sparse.scores(study, "nli", 0, tuple(Variant))


@pytest.fixture(scope="module")
def influences(study):
    return modularity.influences(study, "nli", 0, PLAN, CONDITIONS)


def parameters(folder):
    return dict(load_finetuned(folder)[0].named_parameters())


def test_all_variants_start_alike_and_take_as_many_steps(study):
    steps = {}
    for variant in tuple(Variant):
        folder = sparse.folder(study, "nli", 0, variant)
        assert len(checkpoints(folder)) == 2
        steps[variant] = pd.read_csv(folder / "log.csv")["step"].max()
    assert set(steps.values()) == {2 * 3}  # 3 x 64 examples in batches of 64


@pytest.mark.parametrize("variant", HEADS)
def test_weights_of_heads_that_nobody_trains_stay_those_of_the_encoder(variant, study):
    start, found = (
        dict(study.start("nli", 0).named_parameters()),
        parameters(sparse.folder(study, "nli", 0, variant)),
    )
    union = torch.stack(list(sparse.heads_of(study, "nli", 0, variant).values())).any(0)
    assert union.any()
    for name, kept in head_weights(study.start("nli", 0), union).items():
        assert torch.equal(found[name][~kept], start[name][~kept])
    assert not torch.equal(
        found["roberta.embeddings.word_embeddings.weight"], start["roberta.embeddings.word_embeddings.weight"]
    )


@pytest.mark.parametrize("variant", [Variant.SPARSE_LARGEST_CHANGES, Variant.SPARSE_RANDOM_WEIGHTS])
def test_a_tenth_of_the_encoder_moves(variant, study):
    start, found = (
        dict(study.start("nli", 0).named_parameters()),
        parameters(sparse.folder(study, "nli", 0, variant)),
    )
    inside = [name for name in start if name.startswith("roberta.")]
    moved = sum(int((found[name] != start[name]).sum()) for name in inside)
    size = sum(start[name].numel() for name in inside)
    assert 0.05 * size < moved <= round(0.1 * size)
    largest = sparse.largest_changes(study, "nli", 0)
    assert sum(int(mask.sum()) for mask in largest.values()) == round(0.1 * size)
    within = sum(int((found[name] != start[name])[largest[name]].sum()) for name in inside)
    assert (within == moved) == (variant == Variant.SPARSE_LARGEST_CHANGES)


def test_heads_are_those_that_the_variant_names(study):
    own = sparse.heads_of(study, "nli", 0, Variant.SPARSE_OWN)
    usual = searches.subnetworks(study, "nli", 0, 0)
    kept = [code for code in CODES if usual[code].any()]
    assert kept and all(torch.equal(own[code], usual[code]) for code in kept)
    other = sparse.heads_of(study, "nli", 0, Variant.SPARSE_OTHER_LANGUAGE)
    assert [torch.equal(other[a], own[b]) for a, b in zip(CODES, ("qab", "qba", "qaa"), strict=True)] == [True] * 3
    drawn = sparse.heads_of(study, "nli", 0, Variant.SPARSE_RANDOM)
    assert all(drawn[code].sum() == own[code].sum() for code in CODES)
    same = sparse.heads_of(study, "nli", 0, Variant.SPARSE_SAME)
    assert len({tuple(mask.flatten().tolist()) for mask in same.values()}) == 1
    assert same["qaa"].sum() == round(np.mean([int(mask.sum()) for mask in own.values()]))
    assert sparse.heads_of(study, "nli", 0, Variant.SPARSE_LARGEST_CHANGES) == {}


def test_most_kept_heads():
    own = [torch.tensor([[True, True, False, False]]), torch.tensor([[True, False, True, False]]),
           torch.tensor([[False, False, True, True]])]  # fmt: skip
    assert sparse.most_kept(own).tolist() == [[True, False, True, False]]


def test_sizes_and_thresholds_choose_from_the_search(study):
    for kept in (0.2, 0.5):
        for mask in sparse.subnetworks(study, "nli", 0, Size(kept=kept)).values():
            assert abs(float(mask.float().mean()) - kept) < 0.1
    loose, strict = (sparse.subnetworks(study, "nli", 0, Size(retain=retain)) for retain in (0.5, 0.98))
    assert all(loose[code].sum() <= strict[code].sum() and loose[code].any() for code in CODES)


def test_scores_are_those_of_the_models_through_their_heads(study, scores):
    assert scores.groupby("variant", sort=False)["heads"].unique().map(list).to_dict() == {
        Variant.FULL_FINETUNING: [Through.ALL_HEADS, Through.OWN],
        Variant.ONE_LANGUAGE_BATCHES: [Through.ALL_HEADS, Through.OWN],
        **{one: [Through.ALL_HEADS, Through.TRAINED_HEADS] for one in HEADS},
        **{one: [Through.ALL_HEADS] for one in (Variant.SPARSE_LARGEST_CHANGES, Variant.SPARSE_RANDOM_WEIGHTS)},
    }
    model = load_finetuned(sparse.folder(study, "nli", 0, Variant.SPARSE_OWN))[0]
    found = scores.set_index(["variant", "heads", "language"])["score"]
    for code, mask in sparse.heads_of(study, "nli", 0, Variant.SPARSE_OWN).items():
        test = study.batches("nli", "test", code)
        through = evaluate(model, test, metric="accuracy", gates=mask)
        assert found[Variant.SPARSE_OWN, Through.TRAINED_HEADS, code] == through
        assert found[Variant.SPARSE_OWN, Through.ALL_HEADS, code] == evaluate(model, test, metric="accuracy")


def test_a_second_call_trains_nothing(study, scores, monkeypatch):
    monkeypatch.setattr(sparse_training, "sparse_finetune", None)
    again = sparse.scores(study, "nli", 0, sparse.MAIN)
    pd.testing.assert_frame_equal(again, scores[scores["variant"].isin(sparse.MAIN)].reset_index(drop=True))


def test_another_course_is_another_model(study):
    longer = replace(study, epochs=3)
    folders = {sparse.folder(course, "nli", 0, Variant.ONE_LANGUAGE_BATCHES) for course in (study, longer)}
    assert len(folders) == 2


def test_pairs_are_composed_of_their_heads_and_changes(study):
    table = composition.composed(study, "nli", 0, [("qaa", "qba")])
    assert set(table["language"]) == {"qaa", "qba"} and (table["pair"] == "qaa + qba").all()
    assert not table.duplicated(["way", "language"]).any() and len(table) == 2 * 15
    own = sparse.subnetworks(study, "nli", 0)
    found = table.set_index(["way", "language"])
    union, both = own["qaa"] | own["qba"], own["qaa"] & own["qba"]
    assert found.loc[(Way.UNION_OF_HEADS, "qaa"), "kept"] == pytest.approx(float(union.float().mean()))
    assert found.loc[(Way.INTERSECTION_OF_HEADS, "qba"), "kept"] == pytest.approx(float(both.float().mean()))
    for way, random in (
        (Way.UNION_OF_HEADS, Way.RANDOM_LIKE_UNION),
        (Way.INTERSECTION_OF_HEADS, Way.RANDOM_LIKE_INTERSECTION),
    ):
        assert found.loc[(way, "qaa"), "kept"] == found.loc[(random, "qaa"), "kept"]
    tuned = load_finetuned(sparse.folder(study, "nli", 0, Variant.SPARSE_OWN))[0]
    test = study.batches("nli", "test", "qaa")
    assert found.loc[(Way.UNION_OF_HEADS, "qaa"), "score"] == evaluate(tuned, test, metric="accuracy", gates=union)
    alone = load_finetuned(study.model_folder("nli", 0, ("qaa",)))[0]
    assert found.loc[(Way.FULL_CHANGES_OWN, "qaa"), "score"] == pytest.approx(evaluate(alone, test, metric="accuracy"))
    assert found.loc[(Way.FULL_CHANGES_OTHERS, "qba"), "score"] == pytest.approx(
        evaluate(alone, study.batches("nli", "test", "qba"), metric="accuracy")
    )


def test_influences_are_those_of_each_model(study, influences):
    assert list(dict.fromkeys(influences["variant"])) == list(sparse.MAIN)
    expected = {
        Variant.SPARSE_OWN: {*CONDITIONS, OTHER, *EACH},
        Variant.SPARSE_RANDOM: {FULL, OTHER, Through.TRAINED_HEADS, *EACH},
        Variant.FULL_FINETUNING: {FULL, OWN, OTHER, *EACH},
        Variant.ONE_LANGUAGE_BATCHES: {FULL, OWN, OTHER, *EACH, Through.EACH_RANDOM, Through.EACH_RANDOM_SWAPPED},
    }
    assert influences.groupby("variant")["condition"].unique().map(set).to_dict() == expected
    epoch = influences[influences["epoch"] == 0]
    sums = epoch.groupby(["variant", "condition", "whose", "language", "id", "sign"])["share"].sum()
    np.testing.assert_allclose(sums, 1)


def test_random_heads_are_those_that_another_model_was_trained_through(study, influences):
    drawn = sparse.heads_of(study, "nli", 0, Variant.SPARSE_RANDOM)
    model = own_heads.model_of(study, "nli", 0, Variant.ONE_LANGUAGE_BATCHES)
    again = own_heads.each_through_its_own(model, PLAN, drawn)["share"]
    of = influences[influences["variant"] == Variant.ONE_LANGUAGE_BATCHES].set_index("condition")["share"]
    there = of.loc[[Through.EACH_RANDOM, Through.EACH_RANDOM_SWAPPED]]
    assert again.tolist() == there.tolist() != of.loc[[Through.EACH_OWN, Through.EACH_SWAPPED]].tolist()


def test_influence_is_that_of_the_sparse_model(study):
    model = own_heads.model_of(study, "nli", 0, Variant.SPARSE_OWN)
    code, mask = "qab", sparse.heads_of(study, "nli", 0, Variant.SPARSE_OWN)["qab"]
    found = attributed(model, PLAN, mask, (code,))
    data = study.task("nli")
    sides = []
    for split, rows in (("train", found.train), ("test", found.test)):
        table = data.examples(split).set_index(["id", "language"])
        sides.append(
            batches_of(study, data, table.loc[list(zip(rows["id"], rows["language"], strict=True))].reset_index())
        )
    models = [load_finetuned(model.folder, epoch)[0] for epoch in (1, 2)]
    again = tracin.influence(models, *sides, gates=mask, progress=False)
    torch.testing.assert_close(found.scores, again.by_checkpoint, rtol=1e-4, atol=1e-5)


def test_each_example_may_run_through_its_own_heads(study):
    """As training does: the scores are those of two models, one for either side."""
    model = own_heads.model_of(study, "nli", 0, Variant.SPARSE_OWN)
    found = sparse.heads_of(study, "nli", 0, Variant.SPARSE_OWN)
    even = (torch.arange(found["qab"].numel()) % 2 == 0).view(found["qab"].shape)
    own = {"qaa": even, "qab": even, "qba": ~even}
    same = attributed_each(model, PLAN, dict.fromkeys(CODES, own["qab"]), dict.fromkeys(CODES, own["qab"]))
    for code in CODES:
        once = attributed(model, PLAN, own["qab"], (code,))
        rows = torch.tensor((same.test["language"] == code).tolist())
        torch.testing.assert_close(same.scores[:, rows], once.scores, rtol=1e-4, atol=1e-5)
    each = attributed_each(model, PLAN, own, own)
    inside = torch.tensor((each.test["language"] == "qab").tolist())
    column = torch.tensor((each.train["language"] == "qab").tolist())
    once = attributed(model, PLAN, own["qab"], ("qab",))
    torch.testing.assert_close(each.scores[:, inside][:, :, column], once.scores[:, :, column], rtol=1e-4, atol=1e-5)
    other = torch.tensor((each.train["language"] == "qba").tolist())
    assert not torch.allclose(each.scores[:, inside][:, :, other], once.scores[:, :, other], atol=1e-3)


def test_control_scores_are_those_of_the_sparse_model(study):
    table = modularity.control_scores(study, "nli", 0, PLAN, CONDITIONS)
    assert set(table["condition"]) == {Through.ALL_HEADS, *CONDITIONS[1:], OTHER}
    model = load_finetuned(sparse.folder(study, "nli", 0, Variant.SPARSE_OWN))[0]
    full = table[table["condition"] == Through.ALL_HEADS].set_index("language")["score"]
    assert full["qba"] == evaluate(model, study.batches("nli", "test", "qba"), metric="accuracy")


def made_up(shares):
    """Own shares of one model of two languages: variant, condition -> share."""
    rows = [
        ("nli", 0, code, variant, condition, epoch, share + bonus)
        for (variant, condition), share in shares.items()
        for code, bonus in (("qaa", 0.0), ("qba", 0.1))
        for epoch in (0, 1)
    ]
    return pd.DataFrame(rows, columns=["task", "seed", "language", "variant", "condition", "epoch", "share"])


def test_differences_are_taken_within_a_model_and_language():
    shares = {(variant, condition): 0.2 for variant in sparse.MAIN[:3] for condition in (FULL, OWN, OTHER)}
    shares |= {(Variant.SPARSE_RANDOM, condition): 0.4 for condition in (FULL, Through.TRAINED_HEADS, OTHER)}
    shares |= {(one, condition): 0.3 for one in sparse.MAIN for condition in (Through.EACH_OWN, Through.EACH_SWAPPED)}
    shares[Variant.SPARSE_OWN, Through.EACH_OWN] = 0.5
    shares |= {
        (Variant.ONE_LANGUAGE_BATCHES, Through.EACH_RANDOM): 0.6,
        (Variant.ONE_LANGUAGE_BATCHES, Through.EACH_RANDOM_SWAPPED): 0.2,
    }
    shares[Variant.SPARSE_OWN, OWN] = 0.35
    shares[Variant.ONE_LANGUAGE_BATCHES, FULL] = 0.25
    found = modularity.differences(made_up(shares)).set_index("what")["mean"]
    assert found[Difference.SPARSE_OWN_ALL] == pytest.approx(0.15)
    assert found[Difference.MODULAR_A] == pytest.approx(0.15)
    assert found[Difference.MODULAR_B] == pytest.approx(0.15)
    assert found[Difference.MODULAR_B_BEYOND_ALL] == pytest.approx(0.2)
    assert found[Difference.EACH_SWAPPED_SPARSE] == pytest.approx(0.2)
    assert found[Difference.EACH_RANDOM_SWAPPED_ONE_LANGUAGE] == pytest.approx(0.4)
    assert found[Difference.ALL_ONE_LANGUAGE_FULL] == pytest.approx(0.05)
    assert found[Difference.RANDOM_TRAINED_ALL] == pytest.approx(0)
    assert found[Difference.FULL_OWN_ALL] == pytest.approx(0)
    assert Difference.SPARSE_OWN_SHUFFLED not in found
    assert list(found.index) == [what for what in Difference if what in set(found.index)], "in the order of the figure"
    assert {*modularity.MODULAR, *modularity.EACH_DIFFERENCES} <= set(found.index)


def test_summary_and_dynamics(influences):
    own = modularity.own_shares(influences)
    found = modularity.summary(own).set_index(["task", "variant", "condition"])
    rows = influences.query("variant == 'sparse_own' and condition == @FULL and epoch == 0 and sign == 'positive'")
    mean = rows[rows["train"] == rows["language"]]["share"].mean()
    assert found.loc[("nli", Variant.SPARSE_OWN, Through.ALL_HEADS), "mean"] == pytest.approx(mean)
    assert (found["low"] <= found["mean"]).all() and (found["mean"] <= found["high"]).all()
    dynamics = modularity.dynamics(own)
    assert set(dynamics["epoch"]) == {1, 2} and set(dynamics["model"]) == set(ModelThrough)


def test_influence_across_languages_of_three_models(study, influences):
    likeness = pd.DataFrame(
        [(Likeness.MASK_JACCARD, "nli", 0, "qaa", "qab", 0.5), (Likeness.MASK_JACCARD, "nli", 0, "qaa", "qba", 0.1),
         (Likeness.MASK_JACCARD, "nli", 0, "qab", "qba", 0.2)],
        columns=["measure", "task", "seed", "a", "b", "value"],
    )  # fmt: skip
    kinship = {"lexical": 1 - truth.distances("lexical", CODES)}
    table = modularity.across_languages(influences, likeness, kinship, CODES)
    assert {ModelThrough.FULL_ALL, ModelThrough.SPARSE_ALL} <= set(table["model"])
    overlap = table["model"].eq(ModelThrough.SPARSE_ALL) & table["measure"].eq(Likeness.MASK_JACCARD)
    pairs = table[overlap].set_index(["a", "b"])
    assert len(pairs) == 6 and pairs.loc[("qab", "qaa"), "likeness"] == 0.5
    np.testing.assert_allclose(pairs.groupby("a")["share"].sum(), 1)


def test_dials_turn_size_threshold_and_difficulty(study):
    table = sparse_dials.dials(study, "nli", 0, PLAN, (0.5,), (0.95,), (1,))  # the last two are as in the study itself
    dials = list(dict.fromkeys(zip(table["dial"], table["value"], strict=True)))
    assert dials == [(Dial.SPARSITY, 0.5), (Dial.RETENTION, 0.95), (Dial.DIFFICULTY, 1)]
    assert len(table) == (3 + 2 + 2) * len(CODES) and table[["score", "full", "share"]].notna().all(axis=None)
    assert table.query("dial == 'sparsity'")["kept"].between(0.4, 0.6).all()
    usual = sparse.subnetworks(study, "nli", 0)
    expected = evaluate(
        study.model("nli", 0), study.batches("nli", "test", "qab"), metric="accuracy", gates=usual["qab"]
    )
    rows = table.query("dial != 'sparsity' and variant == 'full_finetuning' and language == 'qab'")
    assert rows["score"].tolist() == [expected, expected]


def test_composed_shares_are_of_both_languages(study):
    table = composition.composed_shares(study, "nli", 0, PLAN, [("qaa", "qba")])
    assert set(table["way"]) >= {Way.OWN_HEADS, Way.UNION_OF_HEADS, Way.ALL_HEADS}
    masks = sparse.subnetworks(study, "nli", 0)
    model = AttributedModel(study, "nli", 0, sparse.folder(study, "nli", 0, Variant.SPARSE_OWN))
    found = attributed(model, PLAN, masks["qaa"] | masks["qba"], ("qba",))
    expected = top_k.top_shares(found.scores.sum(0), found.train["language"].tolist(), count=PLAN.top).mean()
    row = table.query("way == 'union_of_heads' and language == 'qba'").iloc[0]
    assert row[["own", "other"]].tolist() == pytest.approx([expected["qba"], expected["qaa"]])
    assert expected["qba"] != expected["qaa"], "or swapped columns would pass"


def test_a_language_left_out_is_not_trained_on(study):
    table = modularity.left_out(study, "nli", 0, ["qba"])
    assert len(table) == 2 * 2 * 3 and set(table["language"]) == {"qba"}
    masks = sparse.subnetworks(study, "nli", 0)
    near = max(("qaa", "qab"), key=lambda code: jaccard(masks["qba"], masks[code]))
    heads = {Through.ALL_HEADS: None, Through.OWN: masks["qba"], Through.NEAREST_LANGUAGE: masks[near]}
    expected = {}
    for variant in (Variant.ONE_LANGUAGE_BATCHES, Variant.SPARSE_OWN):
        for trained, codes in ((Training.WITH_LANGUAGE, None), (Training.WITHOUT_LANGUAGE, ("qaa", "qab"))):
            model = load_finetuned(sparse.folder(study, "nli", 0, variant, languages=codes))[0]
            for name, mask in heads.items():
                batches = study.batches("nli", "test", "qba")
                expected[variant, trained, name] = evaluate(model, batches, metric="accuracy", gates=mask)
    assert table.set_index(["variant", "trained", "heads"])["score"].to_dict() == expected
