"""Reviews that carry stars instead of the two classes made of them: which scale they are on."""

import warnings
from collections.abc import Mapping, Sequence

import pandas as pd

from xsub_utils._internal.validation import invalid
from xsub_utils.data.schema import TaskSpec, is_builtin, written

Scale = tuple[int, int]

SCALES: tuple[Scale, ...] = ((0, 4), (1, 5))  # lowest and highest number
REMEDY = "say which they are on: stars=(0, 4) or stars=(1, 5); or write the labels 'negative' and 'positive'"


def checked_scale(stars: object, spec: TaskSpec) -> Scale | None:
    """The scale of a task's labels as the user gives it, None if it is for the labels to tell.

    Raises:
        ValueError: If it is none of `SCALES`, or the task has no stars.
    """
    if stars is None:
        return None
    if not is_builtin(spec, "reviews"):
        raise invalid("stars", f"None for task {spec.name!r}", repr(stars), "only the built-in task reviews has stars")
    for scale in SCALES:
        if isinstance(stars, Sequence) and tuple(stars) == scale:
            return scale
    raise invalid("stars", "(0, 4) or (1, 5), the lowest and the highest number", repr(stars))


def numbers_in(table: pd.DataFrame, column: str) -> set[str]:
    """The numbers among the labels of a table; of the layout that the hub has, all numbers of its scale."""
    labels = table[column].map(written)
    if column == "label" and "label_text" in table and (table["label_text"].map(written) == labels).all():
        return {str(number) for number in range(5)}
    return set(labels) & {str(number) for number in range(6)}


def codes_of_stars(numbers: Mapping[str, set[str]], scale: Scale | None) -> dict[str, int]:
    """Number of stars -> its class; nothing if labels are the two classes already.

    Args:
        numbers: Language -> the numbers from 0 to 5 among its labels.
        scale: The scale they are on, if the user says it.

    Raises:
        ValueError: If the numbers leave the scale open, or languages differ in it.
    """
    if scale is None:
        if all(found <= {"0", "1"} for found in numbers.values()):
            return {}
        scale = _told(numbers)
    return {str(number): int(number - scale[0] > 2) for number in range(scale[0], scale[1] + 1)}


def _told(numbers: Mapping[str, set[str]]) -> Scale:
    """The scale that the numbers of every language leave no doubt about."""
    found = {language: _scale(own) for language, own in numbers.items() if own}
    scales = set(found.values())
    if len(scales) > 1 or None in scales:
        got = ", ".join(f"{' '.join(sorted(own))} in {language!r}" for language, own in numbers.items() if own)
        raise invalid("label", "stars on one scale in all languages, 0 to 4 or 1 to 5", got, REMEDY)
    (scale,) = scales
    assert scale is not None
    if any(0 < len(own) < 5 for own in numbers.values()):
        low, high = scale
        warnings.warn(
            f"label: {low} to {low + 2} are taken for negative, {low + 3} and {high} for positive, as stars; pass "
            f"stars=({low}, {high}) if that is right",
            stacklevel=2,
        )
    return scale


def _scale(numbers: set[str]) -> Scale | None:
    """The scale of numbers that have one of its ends and are more than two classes; None if that leaves a doubt."""
    lowest, highest = "0" in numbers, "5" in numbers
    if lowest == highest or numbers <= {"0", "1"}:
        return None
    return SCALES[0] if lowest else SCALES[1]
