"""Two representations of the same examples, row by row: what a measure may rely on."""

import warnings

import torch
from jaxtyping import Shaped
from torch import Tensor

ROUNDING = 1e-6  # what float32 arithmetic leaves, as a share, of a difference that is truly zero


def checked(x: Tensor, y: Tensor, least: int, unit: bool = False) -> tuple[Tensor, Tensor]:
    """Both sides in float64 on the CPU, as rows of length 1 if asked, once they are known to be in order."""
    if len(x) != len(y):
        raise ValueError(f"x, y: of {len(x)} and {len(y)} examples; row i of both has to be of one example")
    if len(x) < least:
        raise ValueError(f"x, y: {len(x)} examples are too few; at least {least} would be right")
    sides = [_finite(name, values.detach().double().cpu()) for name, values in (("x", x), ("y", y))]
    return tuple(_unit(name, rows) if unit else rows for name, rows in zip("xy", sides, strict=True))


def _finite(name: str, rows: Tensor) -> Tensor:
    bad = (~rows.isfinite()).any(1).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"{name}: nan or infinite in {len(bad)} examples, first {bad[0]}; leave them out of both")
    return rows


def _unit(name: str, rows: Tensor) -> Tensor:
    """Rows of length 1; of zeros alone nothing can be made, and they stay, to be found constant."""
    lengths = rows.norm(dim=1, keepdim=True)
    bad = (lengths == 0).flatten().nonzero().flatten().tolist()
    if 0 < len(bad) < len(rows):
        raise ValueError(f"{name}: zero in {len(bad)} examples, first {bad[0]}, has no cosine; leave them out of both")
    return rows / lengths.clamp(min=torch.finfo(rows.dtype).tiny)


def constant(what: str, **sides: Shaped[Tensor, "..."]) -> bool:
    """Whether all rows of a side are the same within rounding, which is then warned of."""
    names = [name for name, rows in sides.items() if (rows - rows.mean(0)).norm() <= ROUNDING * rows.norm()]
    if names:
        message = f"{', '.join(names)}: all {what} are the same, so that the result is nan"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    return bool(names)
