"""Published tickets: every cell of six tables, their means, and where they differ from each other."""

import numpy as np
import pandas as pd
import pytest

from xsub_utils.data.published import TABLE, published_tickets

COLUMNS = ["table", "model", "task", "metric", "mask", "source", "target", "sparsity", "value"]
MLM = ["ar", "de", "en", "es", "fa", "fr", "hi", "ru", "sw", "ur", "zh"]
NER = ["ar", "de", "en", "es", "fa", "fr", "ru", "ur", "zh"]
NLI = ["ar", "de", "en", "es", "fr", "hi", "ru", "sw", "ur", "zh"]
SQUARES = {3: ("mlm", MLM), 4: ("nli", NLI), 5: ("ner", NER), 6: ("nli", NLI)}


def rows(table, **columns):
    """Rows of a table, where the named columns have the given values."""
    frame = published_tickets()
    frame = frame[frame["table"] == table]
    for column, value in columns.items():
        frame = frame[frame[column] == value]
    return frame


def square(table):
    """Tickets of a table, sources by targets."""
    return rows(table, mask="ticket").pivot(index="source", columns="target", values="value")


def losses(table):
    """Difference of each ticket to the target's own; nan on the diagonal."""
    scores = square(table)
    return (scores - np.diag(scores)).mask(np.eye(len(scores), dtype=bool))


def differences(left, right):
    """The cells that two sets of rows share but have different values for."""
    both = left.merge(right, on=["task", "mask", "source", "target"])
    apart = both[both["value_x"] != both["value_y"]]
    return {(r.task, r.source, r.target): (r.value_x, r.value_y) for r in apart.itertuples()}, len(both)


# Structure


def test_columns_types_and_key():
    frame = published_tickets()
    assert list(frame) == COLUMNS and len(frame) == 542
    assert not frame.isna().any(axis=None)
    assert [frame[name].dtype for name in ("table", "sparsity", "value")] == ["int64", "int64", "float64"]
    assert not frame.duplicated(["table", "task", "mask", "source", "target"]).any()
    assert set(frame["target"]) == set(MLM)


def test_cells_of_each_table():
    frame = published_tickets()
    counts = frame.groupby(["table", "model", "task", "metric", "mask"]).size().to_dict()
    table2 = {
        (2, "mBERT", task, metric, mask): size
        for task, metric, size in [("mlm", "perplexity", 11), ("ner", "f1", 9), ("nli", "accuracy", 10)]
        for mask in ("full", "ticket", "random")
    }
    assert counts == table2 | {
        (1, "mBERT", "ner", "f1", "full"): 5,
        (1, "mBERT", "ner", "f1", "ticket"): 5 + 4 * 5,
        (3, "mBERT", "mlm", "perplexity", "ticket"): 11 * 11,
        (4, "mBERT", "nli", "accuracy", "ticket"): 10 * 10,
        (5, "mBERT", "ner", "f1", "ticket"): 9 * 9,
        (6, "mT5", "nli", "accuracy", "full"): 10,
        (6, "mT5", "nli", "accuracy", "random"): 10,
        (6, "mT5", "nli", "accuracy", "ticket"): 10 * 10,
    }


@pytest.mark.parametrize("table", SQUARES)
def test_transfer_is_square(table):
    task, languages = SQUARES[table]
    scores = square(table)
    assert list(scores.index) == list(scores.columns) == languages and not scores.isna().any(axis=None)
    assert set(rows(table)["task"]) == {task}


@pytest.mark.parametrize(("task", "languages"), [("mlm", MLM), ("ner", NER), ("nli", NLI)])
def test_table_2_has_every_language_of_a_task(task, languages):
    for mask in ("full", "ticket", "random"):
        assert list(rows(2, task=task, mask=mask)["target"]) == languages


def test_only_tickets_have_a_source():
    frame = published_tickets()
    assert ((frame["source"] == "") == (frame["mask"] != "ticket")).all()
    assert set(frame["source"]) == {"", "en-fa-fr-zh", *MLM}
    own = rows(2, mask="ticket")
    assert (own["source"] == own["target"]).all()


def test_sparsity():
    frame = published_tickets()
    assert ((frame["sparsity"] == 0) == (frame["mask"] == "full")).all()
    others = frame[(frame["mask"] != "full") & (frame["sparsity"] != 50)]
    expected = {("ner", "fa"): 60, ("ner", "ur"): 60, ("nli", "es"): 60, ("nli", "ru"): 60, ("nli", "ur"): 30}
    assert set(others["table"]) == {2} and len(others) == 2 * len(expected)
    for mask in ("ticket", "random"):
        found = others[others["mask"] == mask].set_index(["task", "target"])["sparsity"].to_dict()
        assert found == expected


def test_the_frame_is_the_callers_own():
    frame = published_tickets()
    frame["value"] = 0.0
    assert (published_tickets()["value"] > 1).all()


def test_the_table_comes_with_its_source():
    note = TABLE.with_suffix(".LICENSE.txt").read_text("utf-8")
    assert "CC BY 4.0" in note and "2022.emnlp-main.513" in note and "2205.12672" in note
    assert pd.read_csv(TABLE, dtype=str)["value"].str.fullmatch(r"\d+\.\d{1,4}").all()


@pytest.mark.parametrize(
    ("table", "task", "mask", "source", "target", "value"),
    [
        (1, "ner", "full", "", "ar", 88.69),
        (1, "ner", "ticket", "en-fa-fr-zh", "ur", 94.59),
        (2, "mlm", "random", "", "en", 10.9182),
        (2, "ner", "ticket", "zh", "zh", 79.33),
        (2, "nli", "full", "", "hi", 68.48),
        (3, "mlm", "ticket", "ar", "zh", 3.7821),
        (3, "mlm", "ticket", "zh", "ar", 3.8852),
        (4, "nli", "ticket", "en", "ru", 74.38),
        (5, "ner", "ticket", "fa", "fr", 89.59),
        (6, "nli", "full", "", "sw", 70.00),
        (6, "nli", "ticket", "fr", "sw", 69.43),
        (6, "nli", "random", "", "zh", 62.57),
    ],
)
def test_cells(table, task, mask, source, target, value):
    assert rows(table, task=task, mask=mask, source=source, target=target)["value"].tolist() == [value]


# Means


@pytest.mark.parametrize(
    ("table", "mean", "lowest", "highest", "digits"),
    [(3, 0.254, 0.023, 0.428, 3), (4, 0.03, -1.93, 2.54, 2), (5, -1.24, -2.82, -0.38, 2), (6, -1.02, -5.60, 2.21, 2)],
)
def test_another_languages_ticket_against_the_own(table, mean, lowest, highest, digits):
    pairs = losses(table).stack()
    found = [pairs.mean(), pairs.min(), pairs.max()]
    assert found == pytest.approx([mean, lowest, highest], abs=0.5001 * 10**-digits)


def test_mlm_by_language():
    sources, targets = losses(3).mean(axis=1), losses(3).mean()
    assert (sources.idxmin(), sources.idxmax(), targets.idxmax()) == ("fa", "ru", "fa")
    assert [sources["fa"], sources["ru"], targets["fa"]] == pytest.approx([0.14, 0.31, 0.37], abs=0.005)


def test_ner_by_language():
    worst = losses(5).mean().nsmallest(2)
    assert list(worst.index) == ["zh", "ur"] and worst.tolist() == pytest.approx([-2.48, -2.28], abs=0.005)


def test_xnli_by_language():
    sources, targets = losses(4).mean(axis=1), losses(4).mean()
    best, worst = sources.nlargest(2), sources.nsmallest(2)
    assert list(best.index) == ["en", "fr"] and best.tolist() == pytest.approx([0.64, 0.57], abs=0.005)
    assert list(worst.index) == ["ur", "sw"] and worst.tolist() == pytest.approx([-1.22, -0.46], abs=0.005)
    highest = targets.nlargest(2)
    assert list(highest.index) == ["ur", "zh"] and highest.tolist() == pytest.approx([1.74, 0.58], abs=0.005)
    assert targets.idxmin() == "de" and targets["de"] == pytest.approx(-0.63, abs=0.005)


def test_where_the_own_ticket_is_best():
    assert (losses(3).min() > 0).all() and (losses(5).max() < 0).all()
    assert (losses(4).max() > 0).all()  # XNLI: in no language
    assert list(losses(6).max().loc[lambda best: best < 0].index) == ["ar", "es", "zh"]


def test_the_ticket_of_four_languages_is_the_best_of_others_in_three():
    tickets = rows(1, mask="ticket")
    others = tickets[tickets["source"] != tickets["target"]]
    best = others.loc[others.groupby("target")["value"].idxmax()]
    assert best.set_index("target")["source"].to_dict() == {
        **dict.fromkeys(["ar", "es", "ur"], "en-fa-fr-zh"),
        **dict.fromkeys(["de", "ru"], "fr"),
    }


def test_random_masks_are_worst():
    for task, sign in [("mlm", -1), ("ner", 1), ("nli", 1)]:
        by_mask = sign * rows(2, task=task).pivot(index="target", columns="mask", values="value")
        assert (by_mask["random"] < by_mask[["full", "ticket"]].min(axis=1)).all()
    random = rows(6, mask="random").set_index("target")["value"]
    assert (random < square(6).min()).all()


# Where the tables differ from each other


def test_diagonals_repeat_table_2_at_its_sparsity():
    found, shared = {}, 0
    for table in (3, 4, 5):
        apart, cells = differences(rows(2, mask="ticket"), rows(table))
        found, shared = found | apart, shared + cells
    assert shared == 30
    assert found == {
        ("ner", "fa", "fa"): (92.10, 92.25),
        ("ner", "ur", "ur"): (95.94, 96.44),
        ("nli", "es", "es"): (78.93, 79.15),
        ("nli", "ru", "ru"): (72.73, 73.31),
        ("nli", "ur", "ur"): (63.13, 62.14),
    }
    tickets = rows(2, mask="ticket")
    others = tickets[tickets["sparsity"] != 50]
    assert {(r.task, r.source, r.target) for r in others.itertuples()} == found.keys()


def test_full_models_of_tables_1_and_2():
    found, shared = differences(rows(1, mask="full"), rows(2, mask="full"))
    assert shared == 5
    assert found == {
        ("ner", "", "ar"): (88.69, 88.64),
        ("ner", "", "de"): (89.08, 89.11),
        ("ner", "", "ru"): (89.22, 89.39),
        ("ner", "", "ur"): (95.52, 95.31),
    }


def test_tickets_of_tables_1_and_5():
    found, shared = differences(rows(1), rows(5))
    assert shared == 20
    assert found == {
        ("ner", "de", "de"): (89.01, 88.81),
        ("ner", "en", "ar"): (87.23, 87.21),
        ("ner", "en", "de"): (87.52, 87.53),
        ("ner", "fr", "ar"): (87.41, 87.33),
        ("ner", "fr", "de"): (87.83, 87.81),
        ("ner", "zh", "ar"): (87.01, 86.94),
        ("ner", "zh", "de"): (87.67, 87.48),
    }
