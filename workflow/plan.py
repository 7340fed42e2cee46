"""From a study to its runs: what each notebook is told, and which runs come before it."""

import itertools
from pathlib import Path
from typing import NamedTuple

from source import parameter_names

from xsub_utils.study.config import values_of

FIGURES = "figures"  # the run with the full lists, which draws
UNDRAWN = "-"  # what the others get in place of a folder: `drawing.UNDRAWN`, which takes seconds to import

Contents = dict[str, dict[str, list[str]]]  # such as {"02_prune": {"over": ["seeds"], "after": ["01_finetune"]}}
Cells = dict[str, dict[str, list]]  # such as {"nli-0": {"tasks": ["nli"], "seeds": [0]}}


class Run(NamedTuple):
    """One execution of a notebook: its parameters, and the receipts of the runs whose work it continues."""

    parameters: dict
    after: list[str]


def make_plan(study: dict, contents: Contents, notebooks: Path, figures: Path) -> dict[str, dict[str, Run]]:
    """The runs of a checked study, by notebook and cell.

    A cell such as `nli-0` gives its notebook one value of each parameter that it is split over, and draws nothing;
    the run `figures` gives it the full lists, and the folder to draw into. Where there would be one cell, the run
    `figures` does its work.
    """
    name = study["study"]
    values = {notebook: values_of(study, notebook) for notebook in study["notebooks"]}
    cells = {notebook: split(contents[notebook]["over"], values[notebook]) for notebook in values}
    plan = {}
    for notebook, own in cells.items():
        declared = parameter_names(notebooks / f"{notebook}.ipynb")
        told = {parameter: value for parameter, value in values[notebook].items() if parameter in declared}
        before = {other: cells[other] for other in contents[notebook]["after"] if other in cells}
        drawn = {notebook: own} if own else before
        plan[notebook] = {
            **{
                cell: Run(told | single | {"figures": UNDRAWN}, receipts(name, before, single))
                for cell, single in own.items()
            },
            FIGURES: Run(told | {"figures": str(figures)}, receipts(name, drawn, {})),
        }
    return plan


def split(over: list[str], values: dict[str, list]) -> Cells:
    """The cells of a notebook: every combination of the values of the parameters that it is split over, if several."""
    combinations = list(itertools.product(*(values[name] for name in over)))
    if len(combinations) == 1:
        return {}
    return {
        "-".join(map(str, single)): {name: [value] for name, value in zip(over, single, strict=True)}
        for single in combinations
    }


def receipts(study: str, notebooks: dict[str, Cells], values: dict[str, list]) -> list[str]:
    """Receipts of those cells of the notebooks that agree with `values`, or of `figures` where none are."""
    return [
        f"runs/{study}/{notebook}/{cell}.json"
        for notebook, cells in notebooks.items()
        for cell, others in (cells or {FIGURES: {}}).items()
        if all(others[name] == values[name] for name in others.keys() & values.keys())
    ]
