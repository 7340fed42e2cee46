"""One error for every argument that has to be one of a list of names."""

from collections.abc import Collection
from difflib import get_close_matches


def one_of(argument: str, value: str, valid: Collection[str]) -> str:
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
    meant = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{argument}: {value!r} is not one of {', '.join(valid)}{meant}")
