"""Checks of numbers that need not be whole, and of seeds."""

import math
from numbers import Real
from typing import Any

from xsub_utils._internal.validation import invalid, whole, wrong_type

_SEEDS = 2**32  # as many as NumPy's oldest generator takes, which transformers seeds


def amount(argument: str, value: Any, *, least: float = 0, above: float | None = None, also: str = "") -> float:
    """The value as a plain number, if it is finite and not too small.

    Args:
        argument: What the caller calls it, for the message.
        value: What was given; neither a bool nor a text is a number.
        least: The smallest number that is right.
        above: What it has to exceed instead.
        also: What else would be right, for the message.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is too small, infinite or nan.
    """
    expected = f"{also}a finite number {f'of at least {least}' if above is None else f'above {above}'}"
    if not isinstance(value, Real) or isinstance(value, bool):
        raise wrong_type(argument, expected, repr(value))
    number = value if isinstance(value, int) else float(value)
    if not math.isfinite(number) or (number < least if above is None else number <= above):
        raise invalid(argument, expected, number)
    return number


def check_seed(seed: Any) -> int:
    """The seed as a plain number.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is below 0, or 2³² or more.
    """
    return whole("seed", seed, 0, _SEEDS - 1)
