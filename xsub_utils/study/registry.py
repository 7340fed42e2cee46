"""The figures of the study by name: a function that draws one registers itself here.

A figure is a function of one tidy table, so that it is drawn again from its CSV alone.
"""

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

DRAWINGS: dict[str, Callable[[pd.DataFrame], Figure]] = {}


def drawing(slug: str) -> Callable:
    """Register the function that draws `<notebook>_<slug>` from its table."""

    def register(function: Callable[[pd.DataFrame], Figure]) -> Callable[[pd.DataFrame], Figure]:
        DRAWINGS[slug] = function
        return function

    return register
