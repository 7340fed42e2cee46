"""Figures drawn, saved and drawn again.

`save` writes PNG (for reading), PDF (for papers) and the CSV beside them, all byte-stable. `python -m
xsub_utils.study.drawing FOLDER` draws every figure below a folder again from its CSV, with no model.
"""

import argparse
import importlib
import io
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from tqdm import tqdm

import xsub_utils.study
from xsub_utils._internal.io import write_bytes_atomic, write_text_atomic
from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.study.csv_tables import as_csv, parse_table, read_table
from xsub_utils.study.fonts import add_fallbacks
from xsub_utils.study.plots import QUALITATIVE
from xsub_utils.study.registry import FIGURES, Draw

ZERO_WIDTH = "\u200b"  # a space without width
UNDRAWN = "-"  # in place of a folder of figures: draw none


def theme() -> None:
    """Set the look of all figures: seaborn's white grid, colour-blind safe colours, 10 pt."""
    sns.set_theme("paper", "whitegrid", QUALITATIVE, rc={"figure.dpi": 90, "savefig.dpi": 150})
    mpl.rcParams.update({"figure.constrained_layout.use": True, "pdf.fonttype": 42, "axes.titlesize": 10})


def figures() -> dict[str, Draw]:
    """The figures of every notebook by slug, such as "survival"."""
    for module in pkgutil.iter_modules(xsub_utils.study.__path__):
        if module.name.startswith("nb"):
            importlib.import_module(f"xsub_utils.study.{module.name}.figures")
    return FIGURES


def draw(name: str, table: pd.DataFrame) -> Figure:
    """The figure called `name` (such as "02_survival"), drawn from its tidy table.

    Raises:
        ValueError: If no figure has that name, or the table is empty.
    """
    slug = re.sub(r"^\d+_", "", name)
    draw_figure = figures()[one_of("name", slug, sorted(figures()))]
    if table.empty:
        raise invalid("table", "rows to draw", f"none for figure {name!r}")
    theme()
    table = _drawable(table)
    add_fallbacks(_words(table))
    state = np.random.get_state()
    np.random.seed(0)  # seaborn jitters points by numpy's global generator
    try:
        figure = draw_figure(table)
    finally:
        np.random.set_state(state)
    return _laid_out(figure)


def _drawable(table: pd.DataFrame) -> pd.DataFrame:
    """The table with names that matplotlib draws as they are: a `$` begins no formula, a `_` hides no label."""
    words = table.select_dtypes(exclude=["number", "bool"])
    return table.assign(**words.map(_shown_as_it_is))


def _shown_as_it_is(name: Any) -> Any:
    if not isinstance(name, str):
        return name
    return ZERO_WIDTH * name.startswith("_") + name.replace("$", r"\$")


def _words(table: pd.DataFrame) -> set[str]:
    return {word for name in table.select_dtypes(exclude=["number", "bool"]) for word in map(str, table[name].unique())}


def _laid_out(figure: Figure) -> Figure:
    """The figure with its layout made once, as for a PNG: the same in all files, and not made for each again."""
    shown = figure.dpi
    figure.set_dpi(mpl.rcParams["savefig.dpi"])  # the width of text depends on it a little
    for _ in range(2):  # squares find their place by the first layout
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    figure.set_dpi(shown)
    return figure


def save(figure: Figure, name: str, table: pd.DataFrame, folder: str | Path) -> None:
    """Write `<folder>/<name>.png`, `.pdf` and `.csv`; the same table gives the same bytes.

    Args:
        figure: What `draw(name, table)` gave.
        name: Number of the notebook and a slug, such as "02_survival".
        table: The tidy table that the figure is drawn from.
        folder: Where to; made if absent. An empty string writes nothing.
    """
    if not str(folder):
        return
    write_text_atomic(Path(folder, f"{name}.csv"), as_csv(table))
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None}}
    for suffix, of_file in metadata.items():
        picture = io.BytesIO()
        figure.savefig(picture, format=suffix, metadata=of_file)
        write_bytes_atomic(Path(folder, f"{name}.{suffix}"), picture.getvalue())


def show(name: str, table: pd.DataFrame, folder: str | Path = "") -> None:
    """Draw a figure, save it if a folder is given, and display it in the notebook.

    With "-" as folder nothing is drawn: the cells of a sweep compute, and the run that has them all draws.
    """
    if str(folder) == UNDRAWN:
        return
    table = parse_table(as_csv(table))  # so that `redraw` gives the same bytes
    save(draw(name, table), name, table, folder)
    plt.show()


def redraw(root: Path) -> list[str]:
    """Draw again every figure below `root` from its CSV; returns what was drawn."""
    drawn = []
    for csv in tqdm(sorted(root.rglob("[0-9][0-9]_*.csv")), desc="redraw", disable=None):
        table = read_table(csv)
        figure = draw(csv.stem, table)
        save(figure, csv.stem, table, csv.parent)
        plt.close(figure)
        drawn.append(str(csv.relative_to(root).with_suffix("")))
    return drawn


def main(arguments: list[str] | None = None) -> int:
    """Draw them and say how many; the exit status is 1 if there were none."""
    parser = argparse.ArgumentParser("python -m xsub_utils.study.drawing", description="Draw figures from their CSVs.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    drawn = redraw(folder)
    print(f"{len(drawn)} figures redrawn in {folder}")
    return 0 if drawn else 1


if __name__ == "__main__":
    sys.exit(main())
