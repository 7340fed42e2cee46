"""Hostile inputs: each gets the right value, or one clear error with the argument, what was expected and what came.

The rows stand in the modules `hostile_*.py` beside this one. A row is a name, a call, which gets an empty folder, and
what has to come of it: `Error(pattern)`, or a value.
"""

import importlib
import re
from pathlib import Path

import jaxtyping
import pytest
from hostile import Error

import xsub_utils

ROWS = [
    pytest.param(row, id=f"{module.stem.removeprefix('hostile_')}: {row.name}")
    for module in sorted(Path(__file__).parent.glob("hostile_*.py"))
    for row in importlib.import_module(module.stem).ROWS
]


@pytest.fixture(autouse=True)
def as_installed():
    """Annotations are not checked, as for everyone who uses the package."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("row", ROWS)
def test_hostile_input(row, tmp_path):
    if not isinstance(row.expected, Error):
        assert row.call(tmp_path) == row.expected
        return
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        row.call(tmp_path)
    message = str(caught.value)
    assert re.search(row.expected.pattern, message), message
    assert ": expected " in message, f"not of the form 'argument: expected …, got …': {message}"


NO_DOOR = {"setup", "versions", "Metric"}  # take nothing, or are handed out rather than made


def test_every_public_name_has_hostile_rows():
    sources = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("hostile_*.py"))
    tried = set(re.findall(r"\bxs\.(\w+)", sources))
    assert not {name for name in xsub_utils.__all__ if not name.startswith("_")} - tried - NO_DOOR


def test_there_are_many():
    assert len(ROWS) >= 120
    assert len({row.id for row in ROWS}) == len(ROWS)
