"""One form for errors about arguments: `argument: expected …, got …; remedy`."""

from collections.abc import Collection
from difflib import get_close_matches
from typing import TypeVar

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
    if value in valid:
        return value
    near = get_close_matches(str(value), valid, n=1)
    raise invalid(
        argument, f"one of {', '.join(valid)}", repr(value), f"did you mean {near[0]!r}?" if near else ""
    ) from None
