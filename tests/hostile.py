"""The form of the rows of `test_hostile.py`."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Error(NamedTuple):
    """A ValueError, TypeError or OSError whose message a pattern is found in."""

    pattern: str


class Row(NamedTuple):
    """A hostile input.

    Attributes:
        name: What is wrong with it, in a few words.
        call: Takes an empty folder, hands the input to a public function, and returns what came of it.
        expected: An `Error`, or the value that is right.
    """

    name: str
    call: Callable[[Path], object]
    expected: object
