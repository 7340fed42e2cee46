"""One form for errors about arguments: `argument: expected …, got …; remedy`."""

import operator
from collections.abc import Collection, Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, TypeVar

Name = TypeVar("Name", bound=str)


def invalid(argument: str, expected: str, got: object, remedy: str = "") -> ValueError:
    """The error for an argument that has the wrong value; raise it.

    Args:
        argument: What the caller calls it.
        expected: What would have been right, such as "a list of different codes".
        got: What was given, in a few words or as `repr`.
        remedy: What to do about it, if that does not follow.

    Example:
        >>> raise invalid("top", "at least 1", 0)
        Traceback (most recent call last):
        ValueError: top: expected at least 1, got 0
    """
    return ValueError(_message(argument, expected, got, remedy))


def wrong_type(argument: str, expected: str, got: object, remedy: str = "") -> TypeError:
    """The error for an argument of the wrong type; raise it. Its arguments are those of `invalid`."""
    return TypeError(_message(argument, expected, got, remedy))


def _message(argument: str, expected: str, got: object, remedy: str) -> str:
    return f"{argument}: expected {expected}, got {got}" + (f"; {remedy}" if remedy else "")


def one_of(argument: str, value: Name, valid: Collection[str]) -> Name:
    """The value, if it is among the valid ones.

    Args:
        argument: What the caller calls it, for the message.
        value: What was given.
        valid: Every name that may be given.

    Raises:
        ValueError: If it is not; says which names are, and which of them was probably meant.
    """
    with suppress(TypeError):  # a list or the like cannot be looked up
        if value in valid:
            return value
    near = get_close_matches(str(value), valid, n=1)
    raise invalid(
        argument, f"one of {', '.join(valid)}", repr(value), f"did you mean {near[0]!r}?" if near else ""
    ) from None


def whole(argument: str, value: Any, least: int | None = None, most: int | None = None, remedy: str = "") -> int:
    """The value as an int, if it is a whole number within its bounds; neither a bool nor a text nor 2.0 is one.

    Args:
        argument: What the caller calls it, for the message.
        value: What was given.
        least: The smallest number that is right; None if there is none.
        most: The largest one; None if there is none.
        remedy: What to do about a wrong one, if that does not follow.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is too small or too large.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise wrong_type(argument, "a whole number", repr(value), remedy)
    number = operator.index(value)
    if (least is not None and number < least) or (most is not None and number > most):
        expected = f"at least {least}" if most is None else f"at most {most}" if least is None else f"{least} to {most}"
        raise invalid(argument, expected, number, remedy)
    return number


def mapping(argument: str, value: Any, expected: str, keys: Collection[str] | None = None) -> dict[str, Any]:
    """The value as a dict, if it is a mapping whose keys are all known.

    Args:
        argument: What the caller calls it, for the message.
        value: What was given.
        expected: What a right one holds, such as "names of columns".
        keys: Every key that it may have; None if any will do.

    Raises:
        TypeError: If it is no mapping.
        ValueError: If a key is unknown; says which was probably meant.
    """
    if not isinstance(value, Mapping):
        raise wrong_type(argument, f"a mapping of {expected}", repr(value))
    for key in value if keys is not None else ():
        one_of(argument, key, keys or ())
    return dict(value)
