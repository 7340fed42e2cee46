"""What the README and notebooks say, in the committed tables: 04 of the default study, 05 to 07 of the extended one."""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

from xsub_utils.study.drawing import AS_WRITTEN
from xsub_utils.study.nb04_stitching import stitched as stitching
from xsub_utils.study.nb06_sparse import models as sparse
from xsub_utils.study.nb07_tickets import models as tickets
from xsub_utils.study.nb07_tickets import tables as ticket_tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def table(name):
    return pd.read_csv(ROOT / "figures" / "extended" / f"{name}.csv", **AS_WRITTEN)


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
    conditions = pd.read_csv(ROOT / "figures" / "minibabel" / "04_conditions.csv", **AS_WRITTEN)
    names = given | {"claims": True, "end_tasks": ends, "stitching": stitching}
    names["conditions"] = conditions[conditions["task"].isin(ends)]
    cells = [cell.source for cell in nbformat.read(ROOT / "notebooks" / "04_stitching.ipynb", 4).cells]
    for wanted in ("means = trained.pivot_table", "All checks passed."):
        (source,) = [cell for cell in cells if wanted in cell]
        exec(source, names)
    assert capsys.readouterr().out == "All checks passed.\n"


def test_what_sparse_fine_tuning_costs():
    scores = table("06_variants").groupby(["variant", "heads", "task"])["score"].mean()
    for variant in (sparse.OTHER, sparse.SAME, sparse.SAME_RANDOM, sparse.RANDOM):
        numbers = ", ".join(quoted(scores[variant, sparse.TRAINED, task]) for task in ("nli", "reviews"))
        assert f"({numbers})" in README, variant
    own = scores[sparse.OWN, sparse.TRAINED]
    assert (own - scores[sparse.OTHER, sparse.TRAINED]).abs().max() < 0.03, "whose subnetwork it is matters little"
    assert (scores[sparse.SAME, sparse.TRAINED] > scores[sparse.SAME_RANDOM, sparse.TRAINED] + 0.05).all()


def test_that_models_are_not_modular():
    differences = table("06_differences").query("task == 'all'").set_index("what")
    both = differences[differences.index.str.startswith(("(a)", "(b)"))]
    assert len(both) >= 2 and (both["low"] < 0).all()
    highest = [round(100 * both.loc[both.index.str.startswith(one), "high"].iloc[0]) for one in ("(a)", "(b)")]
    assert highest == [4, 10], "what the takeaway says is not excluded"
    rise = differences.loc["all heads: sparse − one language a batch"]
    assert rise["low"] > 0 and f"{100 * rise['mean']:.1f} points ({100 * rise['low']:.1f} to" in README
    own = differences.loc["(a) sparse: own heads − another language's"]
    assert f"{100 * own['mean']:.1f} points more than through another's" in README


def test_what_subnetworks_rely_on():
    contrasts = table("05_contrasts").query("sign == 'positive'").set_index(["task", "condition"])
    other = contrasts.loc["all", "another language's"]
    assert other["low"] < 0 < other["high"]
    text = f"{quoted(other['mean'])} ({quoted(other['low'])} to {quoted(other['high'])})"
    assert f"Own minus another's is {text}" in README


def test_which_figures_the_default_study_lacks():
    drawn, extended = (
        {path.stem for path in (ROOT / folder).glob("*.png")} for folder in ("figures/minibabel", "figures/extended")
    )
    (said,) = re.findall(r"the default one draws the same figures but (.*?)\. ", README)
    assert set(re.split(", | and ", said)) == extended - drawn


def test_that_a_relatives_ticket_serves_better_than_a_strangers():
    again = table("07_ticket_relatives").query("whose.str.endswith(', another seed')")
    by = again.groupby(["sparsity", "task", "target", "seed", "whose"])["relative"].mean().mul(100).unstack()
    better = by["family, another seed"] - by["another family, another seed"]
    assert (better.loc[:, ["ner", "mlm"]] > 0).all() and (better.loc[0.8] > 0).all()
    said = [f"{better.loc[0.5, task].mean():.0f} ± {better.loc[0.5, task].std():.0f}" for task in ("ner", "mlm", "nli")]
    assert "{}, {} and {} points".format(*said) in README
    worse = by["own, another seed"] - by["family, another seed"]
    said = [f"{worse.loc[0.5, task].mean():.0f} ± {worse.loc[0.5, task].std():.0f}" for task in ("ner", "mlm", "nli")]
    assert "(by {}, {} and {})".format(*said) in README


def test_where_tickets_depart():
    above = table("07_ticket_departures").groupby(["differs", "task"])["above"].mean()
    numbers = " | ".join(quoted(above["another seed", task], 2) for task in ("nli", "ner", "mlm"))
    assert f"one language, two seeds | {numbers} |" in README
    apart = above["another language and seed"] - above["another task"]
    assert (apart > 0.02).all()


def test_what_tickets_of_others_cost():
    half = table("07_ticket_relatives").query("sparsity == 0.5")
    change = half.groupby(["whose", "task"])["relative"].mean().mul(100).round().astype(int)
    own = change["own" + ticket_tables.AGAIN]
    assert " | ".join(f"{own[task]:+d}".replace("-", "−") for task in ("nli", "ner", "mlm")) in README
    by = table("07_ticket_relatives").groupby(["task", "whose"])["relative"].mean().unstack()
    again = by[[one + ticket_tables.AGAIN for one in ("own", "family", "another family")]]
    assert (again.diff(axis=1).iloc[:, 1:] < 0).all(axis=None)


def test_that_half_of_the_weights_can_go():
    change = table("07_ticket_kinds").groupby("kind")["relative"].mean()
    assert change[[tickets.LONGER, tickets.TICKET, tickets.ONE_SHOT]].is_monotonic_decreasing
    assert change[tickets.TICKET] > change[tickets.RANDOM] + 0.05
