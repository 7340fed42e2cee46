"""The figures of the study by name: a function that draws one registers itself here.

A figure is a function of one tidy table, so that it is drawn again from its CSV alone.
"""

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

Draw = Callable[[pd.DataFrame], Figure]
FIGURES: dict[str, Draw] = {}


def register_figure(slug: str) -> Callable[[Draw], Draw]:
    """Decorator of the function that draws the figure `<notebook>_<slug>` from its table."""

    def register(draw: Draw) -> Draw:
        FIGURES[slug] = draw
        return draw

    return register
