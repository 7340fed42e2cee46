"""Notebook 05 on a tiny study: what is attributed to what, through which heads, and the tables made of it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from xsub_utils.attribution import top_k, tracin
from xsub_utils.evaluation.scores import evaluate
from xsub_utils.heads import masks
from xsub_utils.study.conditions import AttributedHeads, Examples, Removed, true_relatedness
from xsub_utils.study.nb02_pruning import searches
from xsub_utils.study.nb03_similarity import kinship
from xsub_utils.study.nb05_attribution import controls, examples, retraining, scores, specialisation
from xsub_utils.study.nb05_attribution import tables as attribution
from xsub_utils.study.nb05_attribution.controls import AttributedModel, AttributionPlan
from xsub_utils.study.study import MODELS, Study
from xsub_utils.training.folders import checkpoints

FULL, OWN, AGAIN, OTHER, SHUFFLED, RANDOM, MATCHED, HALF, ANY = AttributedHeads

CODES = ("qaa", "qab", "qba")
SMALL = {"train_size": 64, "importance_size": 16, "validation_size": 40, "test_size": 16, "epochs": 2, "pool": 2}
PLAN = AttributionPlan(8, 3, 6, sizes=(0.5,))
pytestmark = pytest.mark.usefixtures("module_home")


@pytest.fixture(scope="module")
def study():
    return Study(CODES, **SMALL)


@pytest.fixture(scope="module")
def shares(study):
    return attribution.shares(study, "nli", 0, PLAN)


@pytest.fixture(scope="module")
def own(shares):
    return specialisation.in_language(shares)


def head_sets(study):
    return list(controls.head_sets(AttributedModel.of(study, "nli", 0), PLAN))


def test_no_second_search_without_need(study, monkeypatch):
    searched = []
    monkeypatch.setattr(
        controls.states, "subnetworks", lambda *given: searched.append(given[-1]) or searches.subnetworks(*given)
    )
    model = AttributedModel.of(study, "nli", 0)
    for wanted, mask_seeds in (((FULL, OWN), [0]), ((FULL, AGAIN), [0, 1])):
        searched.clear()
        assert {heads.condition for heads in controls.head_sets(model, PLAN, wanted)} == {*wanted}
        assert searched == mask_seeds


def test_every_set_of_heads_is_looked_at_where_it_belongs(study):
    found = head_sets(study)
    subnetworks = searches.subnetworks(study, "nli", 0, 0)
    for mask in found:
        expected = CODES if mask.condition in (FULL, OWN, ANY) else (mask.whose,)
        assert mask.languages == expected, mask.condition
    of = {(mask.condition, mask.whose): mask.gates for mask in found}
    for code, subnetwork in subnetworks.items():
        if not subnetwork.any():  # nothing to look through
            assert not {(OWN, code), (SHUFFLED, code), (RANDOM, code), (MATCHED, code)} & of.keys()
            continue
        assert torch.equal(of[OWN, code], subnetwork)
        assert torch.equal(of[SHUFFLED, code].sum(1), subnetwork.sum(1))
        assert of[RANDOM, code].sum() == subnetwork.sum() and of[MATCHED, code].sum() >= subnetwork.sum()
        searched = [step.mask for step in searches.search(study, "nli", 0, code, 0).trajectory]
        half = of.get((HALF, code))
        assert half is None or any(torch.equal(half, mask) and half.sum() < subnetwork.sum() for mask in searched)
        again = searches.subnetworks(study, "nli", 0, 1)[code]
        assert torch.equal(of[AGAIN, code], again) if again.any() else (AGAIN, code) not in of
    assert of[ANY, ""].sum() == 24 and of[FULL, ""] is None


def test_random_heads_are_as_accurate_as_can_be(study):
    model, validation = study.model("nli", 0), study.batches("nli", "validation", "qab", 0)
    mask = searches.subnetworks(study, "nli", 0, 0)["qab"]
    target = evaluate(model, validation, metric="accuracy", gates=mask)
    matched = controls.as_accurate(AttributedModel.of(study, "nli", 0), "qab", 0, mask)
    found = abs(evaluate(model, validation, metric="accuracy", gates=matched) - target)
    size = torch.zeros(48, dtype=torch.bool)
    for kept in range(int(mask.sum()), 49, controls._STEP):
        like = size.clone()
        like[:kept] = True
        for draw in range(controls._DRAWS):
            other = masks.random_mask(like.view(4, 12), seed=draw)
            assert found <= abs(evaluate(model, validation, metric="accuracy", gates=other) - target) + 1e-9


def test_shares_are_those_of_influence(study, shares):
    mask = searches.subnetworks(study, "nli", 0, 0)["qab"]
    test, train = scores.examples_of(AttributedModel.of(study, "nli", 0), PLAN)
    sides = (examples.batches_of(study, study.task("nli"), rows) for rows in (train, test))
    found = tracin.influence(checkpoints(study.model_folder("nli", 0)), *sides, gates=mask)
    expected = top_k.top_shares(found.scores, train["language"].tolist(), count=PLAN.top)
    rows = shares[(shares["condition"] == OWN) & (shares["epoch"] == 0) & (shares["sign"] == "positive")]
    for place in np.flatnonzero(test["language"] == "qab"):
        some = rows[(rows["language"] == "qab") & (rows["id"] == test["id"][place])].set_index("train")["share"]
        assert some.to_dict() == pytest.approx(expected.iloc[place].to_dict())


def test_shares_add_up_and_examples_are_the_same_for_all_heads(shares):
    keys = ["condition", "whose", "language", "id", "epoch", "sign"]
    np.testing.assert_allclose(shares.groupby(keys)["share"].sum(), 1)
    ids = shares.groupby(["condition", "language"])["id"].agg(lambda ids: tuple(sorted(set(ids))))
    assert ids.groupby("language").nunique().eq(1).all()
    assert len({ids[FULL, code] for code in CODES}) == 1  # nli is parallel
    assert set(shares["epoch"]) == {-1, 0, 1, 2}
    assert set(shares.loc[shares["condition"] == RANDOM, "epoch"]) == {-1, 0}
    others = shares[shares["condition"] == OTHER]
    assert (others["whose"] != others["language"]).all()


def test_nothing_is_attributed_twice(study, shares, monkeypatch):
    monkeypatch.setattr(tracin, "influence", lambda *_, **__: pytest.fail("attributed again"))
    pd.testing.assert_frame_equal(attribution.shares(study, "nli", 0, PLAN), shares)


def test_groups_of_parameters_rank_too(study, shares):
    table = attribution.by_group(study, "nli", 0, PLAN)
    assert table["group"].iloc[0] == "all" and {"embeddings", "layer 4 attention", "head"} <= set(table["group"])
    np.testing.assert_allclose(table.groupby(["group", "language", "id"])["share"].sum(), 1)
    full = shares[(shares["condition"] == FULL) & (shares["epoch"] == 0) & (shares["sign"] == "positive")]
    keys = ["language", "id", "train"]
    whole = table[table["group"] == "all"].set_index(keys)["share"].sort_index()
    np.testing.assert_allclose(whole, full.set_index(keys)["share"].sort_index())


def test_scores_are_those_of_evaluate(study):
    table = attribution.accuracies(study, "nli", 0, PLAN)
    for mask in head_sets(study)[:4]:
        rows = table[(table["whose"] == mask.whose) & (table["kept"] == mask.kept)]
        for code in mask.languages:
            score = evaluate(
                study.model("nli", 0), study.batches("nli", "test", code), metric="accuracy", gates=mask.gates
            )
            assert score in rows.loc[rows["language"] == code, "score"].tolist()
    assert (table.loc[table["condition"] == OTHER, "whose"] != table.loc[table["condition"] == OTHER, "language"]).all()


def test_right_examples_come_first(study):
    right = examples.right_share(study, "nli", 0)
    worst = right.unstack("language").min(axis=1)
    chosen = examples.alike(study, "nli", "test", 3, right)
    assert chosen.groupby("language").size().to_dict() == dict.fromkeys(CODES, 3)
    assert worst[chosen["id"].unique()].min() >= worst.drop(chosen["id"].unique()).max()
    model = study.model("nli", 0)
    score = evaluate(model, study.batches("nli", "test", "qab"), metric="accuracy")
    assert right["qab"].mean() == pytest.approx(score)


def test_texts_without_translations_are_taken_language_by_language(study):
    chosen = examples.alike(study, "reviews", "train", 5, None)
    assert chosen.groupby("language").size().to_dict() == dict.fromkeys(CODES, 5)
    assert attribution.translations(study, "reviews", 0, PLAN).empty
    with pytest.raises(ValueError, match=r"attributed_train_size: expected at most 64, the .* of q.., got 80"):
        examples.alike(study, "reviews", "train", 80, None)


def test_words_of_both_texts_count(study):
    rows = examples.by_length(study.task("nli").examples("train"), "sequence")
    words = rows["text"].str.split().str.len() + rows["text_pair"].str.split().str.len()
    assert words.is_monotonic_increasing and len(rows) == 192


def test_translations_beside_chance(study):
    table = attribution.translations(study, "nli", 0, PLAN)
    assert set(table["condition"]) == {FULL, OWN}
    assert len(table) == 3 * (3 + sum(bool(mask.any()) for mask in searches.subnetworks(study, "nli", 0, 0).values()))
    assert table["translated"].between(0, 1).all() and table["chance"].between(0, 1).all()


def test_chance_of_a_translation_is_that_of_random_draws_of_the_same_labels():
    rng, codes = np.random.default_rng(0), ("a", "b", "c")
    pool = pd.DataFrame(
        [(place, code, place % 3) for code in codes for place in range(18)], columns=["id", "language", "label"]
    )
    counts = {("a", 0): 4, ("b", 0): 3, ("c", 0): 1, ("a", 2): 2, ("b", 2): 2}
    groups = pool.groupby(["language", "label"])
    drawn = []
    for _ in range(400):
        parts = [groups.get_group(key).sample(count, random_state=rng) for key, count in counts.items()]
        drawn.append(attribution._translated(pd.concat(parts), pool, 0))
    observed, expected, same = np.array(drawn).T
    assert np.ptp(expected) < 1e-12 and (same == 8 / 12).all()
    assert observed.mean() == pytest.approx(expected[0], abs=0.03)
    unlabelled = attribution._translated(pool.head(3)[["id", "language"]], pool[["id", "language"]], None)
    assert unlabelled[:2] == (0, 0) and np.isnan(unlabelled[2])


def test_learning_rates_are_means_of_epochs(tmp_path):
    log = pd.DataFrame({"epoch": [0.5, 1.0, 1.5, 2.0], "lr": [4.0, 2.0, 1.0, 0.5]})
    log.to_csv(tmp_path / "log.csv")
    assert attribution.learning_rates(tmp_path).tolist() == [1.0, 0.25]


def test_rises_are_differences_on_the_same_examples(own):
    some = own[(own["condition"] == OWN) & (own["epoch"] == 0)]
    full = own[(own["condition"] == FULL) & (own["epoch"] == 0)].set_index(["language", "id", "sign"])["share"]
    for row in some.itertuples():
        assert row.rise == pytest.approx(row.share - full[row.language, row.id, row.sign])
    table = specialisation.rises(own)
    means = some.groupby("sign")["rise"].mean()
    found = table[table["condition"] == OWN].set_index("sign")["mean"]
    assert found.to_dict() == pytest.approx(means.to_dict())
    assert (table["low"] <= table["mean"] + 1e-12).all() and FULL not in set(table["condition"])


def test_contrasts_take_the_control_from_the_own_subnetwork(own):
    table = specialisation.contrasts(own).set_index(["sign", "condition"])["mean"]
    rows = own[(own["epoch"] == 0) & (own["sign"] == "positive")]
    rows = rows[rows["language"].isin(rows.loc[rows["condition"] == OWN, "language"])]  # there is something to compare
    means = rows.groupby("condition")["share"].mean()
    for condition in (FULL, RANDOM, MATCHED, SHUFFLED):
        assert table["positive", condition] == pytest.approx(means[OWN] - means[condition])


def test_points_have_rise_and_score(own, study):
    points = specialisation.against_accuracy(own, attribution.accuracies(study, "nli", 0, PLAN))
    assert FULL not in set(points["condition"]) and points["retained"].notna().all()
    assert len(points) == sum(len(mask.languages) for mask in head_sets(study) if mask.condition != FULL)
    damage = specialisation.damage(points.assign(rise=1 - points["retained"]))
    assert damage["rho"].item() == pytest.approx(1) or points["retained"].nunique() == 1


def test_cross_language_shares_leave_the_own_language_out(shares, study):
    truth = kinship.true_relatedness(study)
    cells = {("qaa", "qab"): 0.5, ("qaa", "qba"): 0.1, ("qab", "qba"): 0.2}
    rows = [("masks", "nli", 0, *pair, value) for pair, value in cells.items()]
    likeness = pd.DataFrame(rows, columns=["measure", "task", "seed", "a", "b", "value"])
    pairs = specialisation.cross_language(shares, likeness, truth, CODES)
    masks = pairs[pairs["measure"] == "masks"]
    assert len(masks) == 6 and (masks["a"] != masks["b"]).all()
    np.testing.assert_allclose(masks.groupby("a")["share"].sum(), 1)
    assert masks.set_index(["a", "b"])["likeness"]["qab", "qaa"] == 0.5
    found = specialisation.correlations(pairs, CODES).set_index("measure")
    assert set(found.index) == {"masks", *(true_relatedness(kind) for kind in truth)}
    perfect = specialisation.correlations(masks.assign(likeness=masks["share"]), CODES)
    assert perfect["rho"].item() == pytest.approx(1)


def test_examples_are_removed_by_influence_and_models_trained_again(study):
    table = retraining.removals(study, "nli", 0, ["qab"], 12, 6, share=0.25)
    assert list(table["removed"]) == list(Removed)
    assert table["change"].iloc[0] == 0 and table["confidence"].between(0, 1).all()
    assert table["confidence"].nunique() > 1
    rows = retraining._pool(study, "nli", dict.fromkeys(CODES, 12))
    base = retraining._trained(study, "nli", 0, rows)
    test = study.task("nli").examples("test", "qab").head(6)
    together = retraining._scores(study, "nli", base, rows, test, together=True)
    each = retraining._scores(study, "nli", base, rows, test, together=False)
    torch.testing.assert_close(together[0], each.mean(0), atol=1e-4, rtol=1e-4)
    order = each.mean(0).argsort(descending=True)
    alike = retraining._alike(rows, order[:9].numpy(), np.random.default_rng(0))
    for column in ("language", "label"):
        assert sorted(rows[column].iloc[alike]) == sorted(rows[column].iloc[order[:9].numpy()])
    best = retraining._trained(study, "nli", 0, rows.drop(rows.index[order[:9].numpy()]))
    assert table["confidence"].iloc[1] == pytest.approx(retraining._confidence(study, "nli", best, test)[0])


def test_a_language_may_have_more_less_or_no_data(study):
    table = retraining.imbalances(study, "nli", 0, ["qab"], 8, 2, 4, factors=(0, 0.5, 2))
    keys = ["changed", "factor", "language", "id"]
    np.testing.assert_allclose(table.groupby(keys)["share"].sum(), 1)
    assert "qab" not in set(table.loc[table["factor"] == 0, "train"])
    chance = table[table["train"] == "qab"].groupby("factor")["chance"].first()
    assert chance.to_dict() == pytest.approx({0.5: 4 / 20, 2.0: 16 / 32})
    sizes = retraining.at_each_size(table).set_index(["factor", "examples"])["share"]
    of_others = table.query("factor == 2 and train == 'qab' and language != 'qab'")["share"].mean()
    assert sizes[2.0, Examples.OF_OTHERS] == pytest.approx(of_others)
    assert set(sizes.index) == {(factor, examples) for factor in (0.5, 2.0) for examples in Examples}
    unseen = retraining.without_language(table, CODES)
    assert unseen[["a", "b"]].to_numpy().tolist() == [["qab", "qaa"], ["qab", "qba"]]
    np.testing.assert_allclose(unseen["share"].sum(), 1)
    with pytest.raises(ValueError, match=r"size: expected at most 64, the .* of qab, got 80"):
        retraining.imbalances(study, "nli", 0, ["qab"], 40, 2, 4, factors=(2,))


def test_another_plan_is_another_table(study, shares):
    other = attribution.shares(replace(study), "nli", 0, PLAN._replace(top=3))
    assert not np.allclose(other["share"], shares["share"])


def test_checkpoints_come_from_the_one_cache_of_models(study):
    folder = study.model_folder("nli", 0)
    MODELS.clear()
    models = scores._checkpoints(folder)
    assert len(models) == 2 and all(a is b for a, b in zip(models, scores._checkpoints(folder), strict=True))
    MODELS.clear()
    assert scores._checkpoints(folder)[0] is not models[0]
