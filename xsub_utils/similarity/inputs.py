"""Two representations of the same examples, row by row: what a measure may rely on."""

import warnings

import torch
from jaxtyping import Shaped
from torch import Tensor

from xsub_utils._internal.validation import invalid

ROUNDING = 1e-6  # what float32 arithmetic leaves, as a share, of a difference that is truly zero


def checked(x: Tensor, y: Tensor, least: int, unit: bool = False) -> tuple[Tensor, Tensor]:
    """Both sides in float64 on the CPU, as rows of length 1 if asked, once they are known to be in order.

    Raises:
        ValueError: If a side is no tensor of numbers (examples, features), the sides have other numbers of rows or
            fewer than `least`, a value is not finite, or, for rows of length 1, some rows are all zero.
    """
    check_rows("x", x)
    check_rows("y", y)
    if len(x) != len(y):
        raise invalid("x, y", "the same examples, row by row", f"{len(x)} and {len(y)} rows")
    if len(x) < least:
        raise invalid("x, y", f"at least {least} examples", f"{len(x)}")
    x, y = _finite("x", x.detach().double().cpu()), _finite("y", y.detach().double().cpu())
    return (_unit("x", x), _unit("y", y)) if unit else (x, y)


def check_rows(name: str, rows: Tensor) -> None:
    """Raises unless there is a row of numbers for each example.

    Raises:
        ValueError: If not.
    """
    expected = "a tensor of numbers, of shape (examples, features)"
    if not isinstance(rows, Tensor):
        remedy = "torch.from_numpy makes an array a tensor" if type(rows).__name__ == "ndarray" else ""
        raise invalid(name, expected, f"a {type(rows).__name__}", remedy)
    if rows.ndim != 2 or not rows.is_floating_point():
        raise invalid(name, expected, f"{rows.dtype} of shape {tuple(rows.shape)}")


def _finite(name: str, rows: Tensor) -> Tensor:
    bad = (~rows.isfinite()).any(1).nonzero().flatten().tolist()
    if bad:
        got = f"nan or infinity in {len(bad)} of {len(rows)} rows, first {bad[0]}"
        raise invalid(name, "finite values", got, "leave these examples out of both")
    return rows


def _unit(name: str, rows: Tensor) -> Tensor:
    """Rows of length 1; rows that are all zero stay if there are no others, to be found constant."""
    lengths = rows.norm(dim=1, keepdim=True)
    bad = (lengths == 0).flatten().nonzero().flatten().tolist()
    if 0 < len(bad) < len(rows):
        got = f"zeros in {len(bad)} of {len(rows)} rows, first {bad[0]}"
        raise invalid(name, "rows that have a cosine", got, "leave these examples out of both")
    return rows / lengths.clamp(min=torch.finfo(rows.dtype).tiny)


def constant(what: str, **sides: Shaped[Tensor, "..."]) -> bool:
    """Whether all rows of a side are the same within rounding; warns if they are."""
    names = [name for name, rows in sides.items() if (rows - rows.mean(0)).norm() <= ROUNDING * rows.norm()]
    if names:
        message = f"{', '.join(names)}: all {what} are the same, so that the result is nan"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    return bool(names)
