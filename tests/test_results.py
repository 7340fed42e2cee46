"""Claims and numbers of the README and notebooks in the committed tables: 04 of the default study, 05 to 07 extended.

Claims are held against the tables; of the texts only the numbers are, wherever the README or a notebook's takeaways
have them.
"""

from pathlib import Path

import nbformat
import pytest
import yaml

from xsub_utils.study.conditions import (
    AttributedHeads,
    Difference,
    Through,
    TicketKind,
    TicketOf,
    TicketsDiffer,
    Variant,
)
from xsub_utils.study.csv_tables import read_table
from xsub_utils.study.nb06_sparse.tables import MODULAR
from xsub_utils.study.nb07_tickets.tables import ANOTHER_SEED

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def cells(name):
    return [cell.source for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells]


def texts(name):
    """The README, and the takeaways of a notebook."""
    return README + cells(name)[-1]


def table(name):
    return read_table(ROOT / "figures" / "extended" / f"{name}.csv")


def quoted(value, digits=3):
    """As the texts write it: ".963", "−.010"."""
    return f"{value:.{digits}f}".replace("0.", ".", 1).replace("-", "−")


@pytest.mark.parametrize(
    "ends", [["nli"], ["paraphrase"], ["reviews"], ["ner"], ["nli", "paraphrase", "reviews", "ner"]]
)
def test_the_checks_of_notebook_04_hold_in_each_run_of_the_study(ends, capsys):
    study = yaml.safe_load((ROOT / "xsub_utils" / "study" / "configs" / "minibabel.yaml").read_text("utf-8"))
    given = study["parameters"] | study["overrides"]["04_stitching"]
    assert set(ends) <= set(given["end_tasks"])
    conditions = read_table(ROOT / "figures" / "minibabel" / "04_conditions.csv")
    names = given | {"claims": True, "end_tasks": ends, "conditions": conditions[conditions["task"].isin(ends)]}
    for wanted in ("from xsub_utils.study.study import", "means = trained.pivot_table", "All checks passed."):
        (source,) = [cell for cell in cells("04_stitching") if wanted in cell]
        exec(source, names)
    assert capsys.readouterr().out == "All checks passed.\n"


def test_what_sparse_fine_tuning_costs():
    scores = table("06_variants").groupby(["heads", "variant", "task"])["score"].mean()[Through.TRAINED_HEADS]
    for variant in (
        Variant.SPARSE_OWN,
        Variant.SPARSE_OTHER_LANGUAGE,
        Variant.SPARSE_SAME,
        Variant.SPARSE_SAME_RANDOM,
        Variant.SPARSE_RANDOM,
    ):
        for task in ("nli", "reviews"):
            assert quoted(scores[variant, task]) in texts("06_sft"), (variant, task)
    other = scores[Variant.SPARSE_OTHER_LANGUAGE]
    assert (scores[Variant.SPARSE_OWN] - other).abs().max() < 0.03, "whose subnetwork it is matters little"
    assert (scores[Variant.SPARSE_SAME] > scores[Variant.SPARSE_SAME_RANDOM] + 0.05).all()


def test_that_models_are_not_modular():
    differences = table("06_differences").query("task == 'all'").set_index("what")
    modular = differences.loc[[*MODULAR]]
    assert (modular["low"] < 0).all()
    highest = modular.loc[[Difference.MODULAR_A, Difference.MODULAR_B], "high"].mul(100).round()
    assert highest.tolist() == [4, 10], "what the takeaway says is not excluded"
    rise = differences.loc[Difference.ALL_SPARSE_ONE_LANGUAGE]
    assert rise["low"] > 0
    for value in (rise["mean"], rise["low"], rise["high"], modular.loc[Difference.MODULAR_A, "mean"]):
        assert f"{100 * value:.1f}" in texts("06_sft")


def test_what_subnetworks_rely_on():
    contrasts = table("05_contrasts").query("sign == 'positive'").set_index(["task", "condition"])
    other = contrasts.loc["all", AttributedHeads.OTHER_LANGUAGE]
    assert other["low"] < 0 < other["high"]
    for value in other[["mean", "low", "high"]]:
        assert quoted(value) in texts("05_tracin")


def test_which_figures_the_default_study_lacks():
    drawn, extended = (
        {path.stem for path in (ROOT / folder).glob("*.csv")} for folder in ("figures/minibabel", "figures/extended")
    )
    assert extended - drawn == {"06_composition", "06_composed_shares", "06_left_out", "06_dials"}


def by_whose_ticket():
    """Mean change of the score in percent for each target and seed, of tickets of another seed."""
    rows = table("07_ticket_relatives").query("whose in @ANOTHER_SEED")
    return rows.groupby(["sparsity", "task", "target", "seed", "whose"])["relative"].mean().mul(100).unstack()


def test_that_a_relatives_ticket_serves_better_than_a_strangers():
    change = by_whose_ticket()
    better = change[TicketOf.FAMILY_ANOTHER_SEED] - change[TicketOf.ANOTHER_FAMILY_ANOTHER_SEED]
    assert (better.loc[:, ["ner", "mlm"]] > 0).all() and (better.loc[0.8] > 0).all()
    worse = change[TicketOf.OWN_ANOTHER_SEED] - change[TicketOf.FAMILY_ANOTHER_SEED]
    for difference in (better, worse):
        for task in ("ner", "mlm", "nli"):
            points = difference.loc[0.5, task]
            assert f"{points.mean():.0f} ± {points.std():.0f}" in texts("07_tickets"), task


def test_where_tickets_depart():
    above = table("07_ticket_departures").groupby(["differs", "task"])["above"].mean()
    for task in ("nli", "ner", "mlm"):
        assert quoted(above[TicketsDiffer.ANOTHER_SEED, task]) in texts("07_tickets")
    apart = above[TicketsDiffer.ANOTHER_LANGUAGE_AND_SEED] - above[TicketsDiffer.ANOTHER_TASK]
    assert (apart > 0.02).all()


def test_what_tickets_of_others_cost():
    half = table("07_ticket_relatives").query("sparsity == 0.5")
    own = half.groupby(["whose", "task"])["relative"].mean().mul(100).round().astype(int)[TicketOf.OWN_ANOTHER_SEED]
    for task in ("nli", "ner", "mlm"):
        assert f"{own[task]:+d}".replace("-", "−") in texts("07_tickets")
    by = table("07_ticket_relatives").groupby(["task", "whose"])["relative"].mean().unstack()
    assert (by[[*ANOTHER_SEED]].diff(axis=1).iloc[:, 1:] < 0).all(axis=None)


def test_that_half_of_the_weights_can_go():
    change = table("07_ticket_kinds").groupby("kind")["relative"].mean()
    best_first = [TicketKind.FULL_TRAINED_AS_LONG, TicketKind.TICKET, TicketKind.LARGEST_BEFORE_TRAINING]
    assert change[best_first].is_monotonic_decreasing
    assert change[TicketKind.TICKET] > change[TicketKind.RANDOM_WEIGHTS] + 0.05
