"""Notebook 07 on a tiny study: which mask is trained where, and the tables made of it."""

import numpy as np
import pandas as pd
import pytest
import torch

from xsub_utils.data.published import published_tickets
from xsub_utils.evaluation.metrics import metric_named
from xsub_utils.evaluation.scores import evaluate
from xsub_utils.similarity.hidden_states import hidden_states
from xsub_utils.similarity.retrieval import retrieval_accuracy
from xsub_utils.similarity.weight_overlap import mask_overlap
from xsub_utils.study.conditions import (
    PublishedMask,
    Source,
    TicketKind,
    TicketOf,
    TicketsDiffer,
    TicketStates,
    true_kinship,
)
from xsub_utils.study.nb03_similarity import representations as states
from xsub_utils.study.nb07_tickets import departures
from xsub_utils.study.nb07_tickets import kinds as ticket_kinds
from xsub_utils.study.nb07_tickets import models as tickets
from xsub_utils.study.nb07_tickets import tables as ticket_tables
from xsub_utils.study.nb07_tickets import transfer as ticket_transfer
from xsub_utils.study.nb07_tickets.kinds import KINDS
from xsub_utils.study.nb07_tickets.models import MIXED, TicketPlan
from xsub_utils.study.study import Study, load_model
from xsub_utils.training.finetune import load_finetuned
from xsub_utils.weights.prunable import prunable_weights

CODES = ("qaa", "qab", "qba")
SMALL = {"train_size": 36, "importance_size": 16, "validation_size": 20, "test_size": 24, "epochs": 1, "pool": 1}
PLAN = TicketPlan((0.3, 0.5), (0.5,), 16, (0,))
TICKET, SEED, RANDOM = TicketKind.TICKET, TicketKind.TICKET_OTHER_SEED, TicketKind.RANDOM_WEIGHTS
ONE_SHOT = TicketKind.LARGEST_BEFORE_TRAINING
pytestmark = pytest.mark.usefixtures("module_home")


@pytest.fixture(scope="module")
def study():
    return Study(CODES, **SMALL)


def flat(mask):
    return torch.cat([one.flatten() for one in mask.values()])


def test_a_ticket_is_stored_with_its_scores_and_two_of_its_models(study):
    found = tickets.tickets_of(study, "nli", 0, "qaa", PLAN)
    assert {sparsity: round(1 - float(flat(mask).double().mean()), 4) for sparsity, mask in found.masks.items()} == {
        0.0: 0.0, 0.3: 0.3, 0.5: 0.5
    }  # fmt: skip
    batches = study.batches("nli", "test", "qaa")
    for sparsity, folder in ((0.0, found.full), (0.5, found.sparse)):
        model, rows = load_finetuned(folder)[0], found.scores[found.scores["sparsity"] == sparsity]
        assert rows["score"].tolist() == [evaluate(model, batches, metric="accuracy")]
        for name, weight in prunable_weights(model).items():
            assert not weight[~found.masks[sparsity][name]].any()
    again = tickets.tickets_of(study, "nli", 0, "qaa", PLAN)
    assert again.full == found.full
    with pytest.raises(ValueError, match=r"elsewhere: expected sparsities of the rounds, \[0\.3, 0\.5\], got 0\.9"):
        tickets.tickets_of(study, "nli", 0, "qaa", PLAN._replace(elsewhere=(0.9,)))
    with pytest.raises(ValueError, match=r"sparsities: expected one below 0\.3 among them, got \[0\.3, 0\.5\]"):
        ticket_kinds.mask_of(study, "nli", 0, "qaa", TicketKind.DENSER_THEN_RANDOM, PLAN, 0.3)


def test_training_with_the_own_ticket_is_what_the_round_did(study):
    found = tickets.tickets_of(study, "nli", 0, "qaa", PLAN)
    again = tickets.retrained(study, "nli", 0, "qaa", found.masks[0.5], PLAN)
    assert again == found.scores.loc[found.scores["sparsity"] == 0.5, "score"].item()


def test_tickets_of_all_languages_see_as_many_examples(study):
    mixed = tickets._data(study, "nli", MIXED)
    assert mixed.splits["train"]["language"].value_counts().to_dict() == dict.fromkeys(CODES, 12)
    assert mixed.splits["train"]["id"].is_unique, "as many meanings, too"
    assert mixed.identity != study.task("nli").identity
    scored = tickets.tickets_of(study, "nli", 0, MIXED, PLAN).scores
    assert scored["language"].unique().tolist() == list(CODES)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_mask_drops_as_much(kind, study):
    mask = ticket_kinds.mask_of(study, "nli", 0, "qab", kind, PLAN)
    own = tickets.tickets_of(study, "nli", 0, "qab", PLAN).masks[0.5]
    assert {name: one.shape for name, one in mask.items()} == {name: one.shape for name, one in own.items()}
    assert float(flat(mask).double().mean()) == pytest.approx(0.5, abs=1e-5)
    share = mask_overlap(own, mask)["jaccard"][0]
    assert share == 1 if kind == TICKET else share < 1
    if kind == RANDOM:
        assert share == pytest.approx(1 / 3, abs=0.01)
    other = ticket_kinds.mask_of(study, "nli", 0, "qba", kind, PLAN)
    same = mask_overlap(mask, other)["jaccard"][0] == 1
    assert same == (kind in (ONE_SHOT, TicketKind.TICKET_ALL_LANGUAGES)), "one mask for all languages, or one for each"


@pytest.fixture(scope="module")
def transfer(study):
    return ticket_transfer.transfer(study, "nli", 0, PLAN, (ONE_SHOT, RANDOM, SEED))


def test_transfer_trains_the_target_with_the_mask_of_the_source(study, transfer):
    assert transfer["mask"].value_counts().to_dict() == {TICKET: 9, SEED: 9, ONE_SHOT: 3, RANDOM: 3}
    other = tickets.tickets_of(study, "nli", 1, "qaa", PLAN).masks[0.5]
    again = transfer.query("mask == @SEED and source == 'qaa' and target == 'qba'")["score"].item()
    assert again == tickets.retrained(study, "nli", 0, "qba", other, PLAN)
    cells = transfer[transfer["mask"] == TICKET].set_index(["source", "target"])
    mask = tickets.tickets_of(study, "nli", 0, "qaa", PLAN).masks[0.5]
    assert cells.loc[("qaa", "qba"), "score"] == tickets.retrained(study, "nli", 0, "qba", mask, PLAN)
    own = cells.loc[("qba", "qba"), "score"]
    assert cells.loc[("qaa", "qba"), "relative"] == pytest.approx(cells.loc[("qaa", "qba"), "score"] / own - 1)
    assert not cells["relative"][[(code, code) for code in CODES]].any()


def test_masks_are_told_apart_by_whose_they_are(study, transfer):
    table = ticket_tables.relatives(transfer, study)
    counts = {**dict(zip(TicketOf, (2, 4, 3, 2, 4), strict=True)), ONE_SHOT: 3, RANDOM: 3}
    assert list(dict.fromkeys(table["whose"])) == list(counts)
    assert table["whose"].value_counts().to_dict() == counts
    near = table[table["whose"].isin([TicketOf.FAMILY, TicketOf.FAMILY_ANOTHER_SEED])]
    assert set(zip(near["source"], near["target"], strict=True)) == {("qaa", "qab"), ("qab", "qaa")}


def test_a_higher_perplexity_is_worse(study):
    table = pd.DataFrame({"language": ["qaa", "qab"], "score": [3.0, 1.0]})
    found = ticket_transfer._relative(study, "mlm", table, ["language"], pd.Series({"qaa": 2.0, "qab": 2.0}))
    assert found["relative"].tolist() == [-0.5, 0.5]


def test_kinds_stand_beside_the_full_model(study, transfer):
    table = ticket_transfer.kinds(study, "nli", 0, PLAN, [TICKET, ONE_SHOT]).set_index(["kind", "language"])
    full = tickets.tickets_of(study, "nli", 0, "qaa", PLAN).score(0)
    assert table.loc[(TicketKind.FULL, "qaa"), "score"] == full
    own = transfer.query("mask == 'ticket' and source == target == 'qaa'")["score"].item()
    assert table.loc[(TICKET, "qaa"), "relative"] == pytest.approx((own - full) / full)
    as_long = tickets.trained_as_long(study, "nli", 0, "qaa", PLAN)
    assert table.loc[(TicketKind.FULL_TRAINED_AS_LONG, "qaa"), "score"] == as_long
    course = PLAN.course(study, "nli")
    assert (course.epochs, course.batch_size, course.eval_size) == (1, 16, 0)


def test_overlaps_are_of_masks_that_differ_in_one_respect(study):
    table = ticket_transfer.overlaps(study, ["nli"], [0, 1], PLAN)
    total = table[table["by"] == "total"]
    language, seed, both, _ = TicketsDiffer
    assert total["differs"].value_counts().to_dict() == {language: 2 * 3, seed: 3, both: 6, ONE_SHOT: 6}
    row = total.query("differs == 'another_language' and seed == 1 and a == 'qaa' and b == 'qba'")
    masks = [tickets.tickets_of(study, "nli", 1, code, PLAN).masks[0.5] for code in ("qaa", "qba")]
    assert row["jaccard"].item() == mask_overlap(*masks)["jaccard"][0]
    matrix = ticket_tables.matrix(total, study).set_index(["task", "a", "b"])["jaccard"]
    assert matrix["nli", "qaa", "qba"] == matrix["nli", "qba", "qaa"]
    seeds = total.query("differs == 'another_seed' and a == 'qab'")["jaccard"].item()
    assert matrix["nli", "qab", "qab"] == seeds


def test_a_pair_of_tasks_is_there_for_each_of_them(study):
    overlap = ticket_transfer.overlaps(study, ["nli", "mlm"], [0], PLAN).query("by == 'total'")
    departed = departures.departures(study, ["nli", "mlm"], [0], PLAN)
    for table in (overlap, departed):
        some = table[table["differs"] == TicketsDiffer.ANOTHER_TASK].set_index(["task", "task_b", "a"])["jaccard"]
        assert len(some) == 2 * len(CODES)
        assert some["nli", "mlm", "qab"] == some["mlm", "nli", "qab"]


def test_departures_are_compared_with_those_of_weights_as_large(study):
    table = departures.departures(study, ["nli"], [0, 1], PLAN)
    row = table.query("differs == 'another_language' and seed == 0 and a == 'qaa' and b == 'qba'").iloc[0]
    start = flat(ticket_kinds.mask_of(study, "nli", 0, "qaa", ONE_SHOT, PLAN))
    masks = [flat(tickets.tickets_of(study, "nli", 0, code, PLAN).masks[0.5]) for code in ("qaa", "qba")]
    a, b = (mask != start for mask in masks)
    assert row["jaccard"] == pytest.approx(((a & b).sum() / (a | b).sum()).item())
    assert row["departed"] == pytest.approx((a.double().mean() + b.double().mean()).item() / 2)
    first, shared = 0, 0.0  # independent departures at every magnitude of every matrix
    for weight in ticket_kinds.start_weights(study, "nli", 0).values():
        order, count = weight.flatten().abs().argsort(), weight.numel() // departures.BIN
        for rank in range(count):
            some = first + order[-(-rank * len(order) // count) : -(-(rank + 1) * len(order) // count)]
            shared += a[some].sum().item() * b[some].sum().item() / len(some)
        first += len(order)
    assert row["expected"] == pytest.approx(shared / (a.sum().item() + b.sum().item() - shared), rel=1e-9)
    assert row["expected"] > 5 * a.double().mean().item(), "departures crowd near the threshold"


def test_predictions_pair_overlap_and_kinship_with_transfer(study, transfer):
    overlap = ticket_transfer.overlaps(study, ["nli"], [0], PLAN)
    departed = departures.departures(study, ["nli"], [0], PLAN)
    table = ticket_tables.predicted(departed, transfer, study)
    assert table.groupby("measure").size().eq(6).all()
    cell = table.query("measure == 'departures_above_chance' and a == 'qba' and b == 'qaa'")
    pair = departed.query("a == 'qaa' and b == 'qba'")
    assert cell["likeness"].item() == pair["above"].item()
    share = transfer.query("mask == 'ticket' and target == 'qba' and source == 'qaa'")["relative"].item()
    assert cell["share"].item() == share
    both = departures.departures(study, ["nli"], [0, 1], PLAN)
    moved = transfer.assign(relative=transfer["relative"] - transfer["mask"].eq(SEED))  # tiny models tie
    apart = ticket_tables.predicted(both, moved, study)
    cell = apart.query("measure == 'departures_above_chance' and a == 'qba' and b == 'qaa'")
    pairs = both.query("differs == 'another_language_and_seed' and a in ('qaa', 'qba') and b in ('qaa', 'qba')")
    assert cell["likeness"].item() == pytest.approx(pairs["above"].mean()) and len(pairs) == 2
    of = moved[moved["mask"] == SEED].query("target == 'qba' and source == 'qaa'")
    assert cell["share"].item() == of["relative"].item() != share
    tree = table[table["measure"] == true_kinship("tree")].set_index(["a", "b"])["likeness"]
    assert tree["qaa", "qab"] > tree["qaa", "qba"] == 0
    found = ticket_tables.clusters(overlap, study)
    assert found["families"].tolist() == [2]
    assert found["p"].item() in (pytest.approx(1 / 3), 1)  # of three ways to set one language apart


def test_tickets_of_other_tasks_are_trained_on_this_one(study):
    table = ticket_transfer.across_tasks(study, "nli", 0, ["nli", "mlm"], PLAN).set_index(["source", "target"])
    mask = tickets.tickets_of(study, "mlm", 0, "qab", PLAN).masks[0.5]
    assert table.loc[("mlm", "qab"), "score"] == tickets.retrained(study, "nli", 0, "qab", mask, PLAN)
    assert not table.loc["nli", "relative"].any()
    with pytest.raises(ValueError, match="target_tasks: expected one of mlm, ner, got 'nli'"):
        ticket_transfer.across_tasks(study, "nli", 0, ["mlm", "ner"], PLAN)


def test_retrieval_reads_the_ticket_before_and_after_training(study):
    table = ticket_transfer.retrieval(study, "nli", 0, PLAN)
    assert table.groupby("model").size().eq(3 * 5).all()  # languages, levels
    start = table[table["model"] == TicketStates.BEFORE_TRAINING]
    masked = table[table["model"] == TicketStates.BEFORE_TRAINING_TICKET]
    zero = [one[one["level"] == 0]["accuracy"].tolist() for one in (start, masked)]
    assert zero[0] == zero[1]  # embeddings are not pruned
    assert start["accuracy"].tolist() != masked["accuracy"].tolist()
    codes = {code: list(hidden_states(load_model(tickets.tickets_of(study, "nli", 0, "qab", PLAN).sparse),
                                      states.sentences(study, code), pool="mean")) for code in CODES}  # fmt: skip
    pairs = [(a, b) for other in ("qaa", "qba") for a, b in (("qab", other), (other, "qab"))]
    last = np.mean([retrieval_accuracy(codes[a][-1], codes[b][-1]) for a, b in pairs])
    assert table.query("model == 'trained_ticket' and language == 'qab'")["accuracy"].iloc[-1] == last


def test_published_changes_are_those_of_the_tables(transfer):
    both = ticket_tables.beside_published(transfer)
    assert set(both["task"]) == {"nli"}, "of tasks that both have"
    assert ticket_tables.beside_published(transfer[transfer["sparsity"] == 0.8]).empty
    every = pd.concat([transfer.assign(task=task) for task in ("nli", "ner", "mlm")])
    both = ticket_tables.beside_published(every)
    theirs = both[both["where"] == Source.PUBLISHED]
    crossed = theirs[theirs["mask"] == PublishedMask.ANOTHER_LANGUAGES_TICKET].groupby("task").size()
    assert crossed.to_dict() == {"mlm": 11 * 10, "ner": 9 * 8, "nli": 10 * 9}
    cell = theirs.query("task == 'mlm' and source == 'ar' and target == 'de'")["relative"].item()
    assert cell == pytest.approx(-(3.7510 - 3.5092) / 3.5092)
    random = theirs.query("task == 'nli' and source == @RANDOM and target == 'en'")["relative"].item()
    assert random == pytest.approx((74.49 - 82.14) / 82.14)
    ours = both[both["where"] == Source.OURS]
    assert set(ours["source"]) == {*CODES, RANDOM}
    drawn = published_tickets().query("mask == 'random' and table == 2 and model == 'mBERT' and sparsity == 50")
    assert len(theirs[theirs["source"] == RANDOM]) == len(drawn[drawn["task"].isin(crossed.index)])


def test_the_last_of_a_row_of_wins_counts():
    rows = [(code, seed, sparsity, score) for code in CODES[:2] for seed in (0, 1) for sparsity, score in
            [(0.0, 0.8 + 0.1 * seed * (code == "qaa")), (0.1, 0.81), (0.2, 0.7), (0.3, 0.95)]]  # fmt: skip
    table = pd.DataFrame(rows, columns=["language", "seed", "sparsity", "score"]).assign(task="nli")
    found = ticket_tables.winning(table, {"nli": metric_named("accuracy")}).set_index("language")
    pooled = np.sqrt((np.var([0.8, 0.9], ddof=1) + 0) / 2)  # .05
    assert found["deviation"].tolist() == pytest.approx([pooled] * 2)
    assert found["sparsity"].to_dict() == {"qaa": 0.1, "qab": 0.1}
    lower = ticket_tables.winning(table, {"nli": metric_named("perplexity")})
    assert lower["sparsity"].tolist() == [0.2, 0.2]
