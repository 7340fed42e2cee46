"""Centred kernel alignment: how similar two representations of the same examples are.

Everything rests on one identity. Once the features are centred, the rows of a gram matrix K = X Xᵀ sum to zero,
so that HSIC, biased or not, needs no more of two grams than Σ_{i≠j} K_ij L_ij and their diagonals. That sum comes
either from blocks of the grams or from the cross-covariance of the features, whichever is less work.
"""

import warnings
from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement, product
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.similarity.inputs import check_rows

_BLOCK = 256  # examples; the gram blocks of 26 levels take 14 MB, and float32 sums stay short
_SMALL = 128  # examples up to which float64 costs little, and the debiased estimate is a small rest of large terms
_NOISE = 16  # units of rounding below which a difference is none


def cka(x: Float[Tensor, "examples features"], y: Float[Tensor, "_ _"], *, debiased: bool = True) -> float:
    """Centred kernel alignment of two representations of the same examples, with the linear kernel.

    Args:
        x: One row per example.
        y: The same examples in the same order, of any width.
        debiased: As for `cka_matrix`.

    Returns:
        1 if the representations agree up to rotation, isotropic scale and shift; about 0 (debiased) if they are
        independent. Nan, with a warning, if either is the same for all examples.

    Raises:
        ValueError: As for `cka_matrix`.

    Source: Kornblith et al. 2019, section 3; the debiased form from Nguyen et al. 2021, section 3.1.

    Example:
        >>> import xsub_utils as xs
        >>> import torch
        >>> x, y = torch.randn(2, 200, 8, generator=torch.Generator().manual_seed(0))
        >>> round(xs.cka(x, 3 * x.flip(1) + 1), 3)  # another order of the features, another scale, a shift
        1.0
        >>> abs(xs.cka(x, y)) < 0.1  # independent
        True
    """
    names = ["x", "y"]
    return _ratio(_estimate([x, y], 1, names, debiased, "auto"), 1, names).item()


def cka_matrix(
    xs: Sequence[Float[Tensor, "_ _"]],
    ys: Sequence[Float[Tensor, "_ _"]] | None = None,
    *,
    debiased: bool = True,
    method: str = "auto",
) -> Float[Tensor, "xs ys"]:
    """Centred kernel alignment of every level of one model with every level of another, with the linear kernel.

    Args:
        xs: One (examples, features) tensor per level; widths may differ.
        ys: The same examples in the same order; None compares `xs` with itself, in half the time.
        debiased: Whether to estimate HSIC without bias. The biased estimate rises with the number of features per
            example: for independent noise of 768 features, CKA is .885 with 100 examples and .607 with 500. The
            debiased estimate is about 0 there, and is negative in about half of such cases.
        method: "gram" compares examples (work ∝ examples² · levels), "features" compares features
            (∝ examples · features² · pairs of levels), "auto" takes the cheaper way. Equal but for rounding.

    Returns:
        Similarities in float64 on the CPU; nan, with a warning, in the row or column of a constant level. Products
        are taken in float32, unless a level is float64 or examples are few, and summed in float64. Memory: a
        centred copy of the input and blocks of grams; no gram matrix is ever held in full.

    Raises:
        ValueError: If there is no level, numbers of examples differ or are below 4 (biased: 2), a value is nan or
            infinite, or `method` is unknown.

    Source: Kornblith et al. 2019, section 3 (biased); Song et al. 2012, equation 5, and Székely & Rizzo 2014
        (debiased HSIC, "HSIC₁" in Nguyen et al. 2021).

    Example:
        >>> import xsub_utils as xs
        >>> import torch
        >>> levels = list(torch.randn(3, 50, 8, generator=torch.Generator().manual_seed(0)))
        >>> xs.cka_matrix(levels).diagonal().round(decimals=3)
        tensor([1., 1., 1.], dtype=torch.float64)
        >>> xs.cka_matrix(levels, levels[:2]).shape
        torch.Size([3, 2])
    """
    levels, first, names = _joined(xs, ys)
    return _ratio(_estimate(levels, first, names, debiased, method), first, names)


def minibatch_cka(
    batches: Iterable[tuple[Sequence[Float[Tensor, "_ _"]], Sequence[Float[Tensor, "_ _"]] | None]],
) -> Float[Tensor, "xs ys"]:
    """Debiased centred kernel alignment from a stream of batches, no two of which need be held at once.

    HSIC is estimated without bias in every batch; numerators and denominators are summed over the batches, each
    weighted by its number of examples, and divided once. A mean of alignments per batch would be biased.

    Args:
        batches: One (xs, ys) per batch, as for `cka_matrix`; every batch at least 4 examples.

    Returns:
        As `cka_matrix`, which it equals for a single batch.

    Raises:
        ValueError: As for `cka_matrix`, or if there is no batch or the numbers of levels differ.

    Source: Nguyen et al. 2021, section 3.1, equations 3 and 4, for batches of equal size.
    """
    total: _Hsic | None = None
    names: list[str] = []
    for number, (xs, ys) in enumerate(tqdm(batches, desc="minibatch CKA", delay=5, leave=False)):
        levels, first, given = _joined(xs, ys)
        if names not in ([], given):
            raise invalid("batches", f"the levels of the first batch, {names}", f"{given} in batch {number}")
        hsic, names = _estimate(levels, first, given, True, "auto"), given
        total = hsic if total is None else _Hsic(*map(torch.add, total, hsic))
    if total is None:
        raise invalid("batches", "at least one batch", "none")
    return _ratio(total, first, names)


class _Hsic(NamedTuple):
    """HSIC of all pairs of levels times the number of examples, and what tells values from rounding noise."""

    values: Float[Tensor, "levels levels"]
    doubt: Float[Tensor, " levels"]  # rounding error of the HSIC of a level with itself
    energy: Float[Tensor, " levels"]  # squared norm of the centred features
    noise: Float[Tensor, " levels"]  # the squared norm that rounding would leave of a constant level


class _Level(NamedTuple):
    """A representation with mean zero and mean squared norm one, so that no product over- or underflows."""

    x: Float[Tensor, "examples features"]
    diagonal: Float[Tensor, " examples"]  # of its gram matrix
    power: Float[Tensor, ""]  # mean squared norm before it was scaled
    mean: Float[Tensor, ""]  # squared norm of the mean that was subtracted


def _joined(xs: Sequence[Tensor], ys: Sequence[Tensor] | None) -> tuple[list[Tensor], int, list[str]]:
    """All levels, their names, and between them the number of levels of `xs`, or 0 if there are no `ys`."""
    for name, levels in (("xs", xs), ("ys", xs if ys is None else ys)):
        if len(levels) == 0:
            raise invalid(name, "one tensor per level", "none")
    names = [f"xs[{index}]" for index in range(len(xs))]
    if ys is None:
        return [*xs], 0, names
    return [*xs, *ys], len(xs), names + [f"ys[{index}]" for index in range(len(ys))]


@torch.no_grad()
def _estimate(levels: list[Tensor], first: int, names: list[str], debiased: bool, method: str) -> _Hsic:
    """HSIC of all pairs of levels that the matrix needs; `first` as from `_joined`."""
    one_of("method", method, ("auto", "gram", "features"))
    for name, level in zip(names, levels, strict=True):
        check_rows(name, level)
    _check_sizes(levels, names, debiased)
    double = len(levels[0]) <= _SMALL or any(x.dtype == torch.float64 for x in levels)
    dtype = torch.float64 if double else torch.float32
    scaled = [_level(x.to(levels[0].device, dtype), name) for x, name in zip(levels, names, strict=True)]
    offdiagonal = _products(scaled, first, method)
    diagonals, power, mean = (torch.stack([level[field] for level in scaled]) for field in (1, 2, 3))
    eps = [_NOISE * torch.finfo(x.dtype if x.dtype == torch.float64 else torch.float32).eps for x in levels]
    return _hsic(offdiagonal, diagonals, power, mean, debiased, power.new_tensor(eps))


def _hsic(
    offdiagonal: Float[Tensor, "levels levels"],
    diagonals: Float[Tensor, "levels examples"],
    power: Float[Tensor, " levels"],
    mean: Float[Tensor, " levels"],
    debiased: bool,
    eps: Float[Tensor, " levels"],
) -> _Hsic:
    """HSIC from sums over the grams. For the debiased estimate, the rows of a hollow gram sum to -diagonal."""
    size, sums, squares = diagonals.shape[1], diagonals.sum(1), diagonals @ diagonals.T
    if debiased:
        values = offdiagonal + torch.outer(sums, sums) / ((size - 1) * (size - 2)) - 2 / (size - 2) * squares
        values = values / (size - 3)
    else:
        values = offdiagonal + squares
    energy = power * sums
    doubt = eps * power**2 * squares.diagonal()
    noise = eps**2 * (energy + size * mean)
    fields = values * torch.outer(power, power), doubt / max(size - 3, 1), energy, noise
    return _Hsic(*(field.cpu() for field in fields))


def _ratio(hsic: _Hsic, first: int, names: list[str]) -> Float[Tensor, "xs ys"]:
    """HSIC of two levels over the geometric mean of the HSIC of each with itself; nan where that is 0."""
    own = hsic.values.diagonal()
    constant = hsic.energy <= hsic.noise
    lost = constant | (own <= hsic.doubt)
    if lost.any():
        reasons = {True: "does not vary over the examples", False: "has no debiased HSIC above rounding"}
        causes = [
            f"{name} {reasons[flag]}" for name, flag, bad in zip(names, constant.tolist(), lost, strict=True) if bad
        ]
        warnings.warn(f"CKA is nan: {'; '.join(causes)}", RuntimeWarning, stacklevel=3)
    norms = own.clamp(min=0).sqrt().masked_fill(lost, torch.nan)
    return (hsic.values / torch.outer(norms, norms))[: first or None, first:]


def _check_sizes(levels: list[Tensor], names: list[str], debiased: bool) -> None:
    size, least = len(levels[0]), 4 if debiased else 2
    for x, name in zip(levels, names, strict=True):
        if len(x) != size:
            raise invalid(name, f"the {size} examples of {names[0]}", f"{len(x)} examples")
    if size < least:
        kind = "debiased" if debiased else "biased"
        raise invalid(names[0], f"at least {least} examples for the {kind} estimate", size)


def _level(x: Float[Tensor, "examples features"], name: str) -> _Level:
    mean = x.mean(0)
    x = x - mean
    squares = torch.cat([rows.double().square().sum(1) for rows in x.split(_BLOCK)])
    power = squares.mean()
    if not power.isfinite():
        raise invalid(name, "finite values", "nan or infinity", "leave these examples out of all levels")
    scale = power.where(power > 0, 1)
    return _Level(x.div_(scale.sqrt()), squares / scale, power, mean.double().square().sum())


def _products(levels: list[_Level], first: int, method: str) -> Float[Tensor, "levels levels"]:
    """Σ_{i≠j} K_ij L_ij of the pairs that the matrix needs, by the cheaper way for "auto"."""
    pairs = _pairs(len(levels), first)
    size, widths = len(levels[0].x), [level.x.shape[1] for level in levels]
    gram = size**2 * (sum(widths) + len(pairs))
    features = 2 * size * sum(widths[i] * widths[j] for i, j in pairs)
    if method == "gram" or (method == "auto" and gram < features):
        return _gram_products(levels, first)
    return _feature_products(levels, pairs)


def _pairs(count: int, first: int) -> list[tuple[int, int]]:
    """Pairs of levels whose HSIC is needed, in the upper triangle: those of the matrix, and each level with itself."""
    if first == 0:
        return [*combinations_with_replacement(range(count), 2)]
    return [*product(range(first), range(first, count)), *((index, index) for index in range(count))]


def _gram_products(levels: list[_Level], first: int) -> Float[Tensor, "levels levels"]:
    """The sums from blocks of all grams at a time, above the diagonal only."""
    size, count, like = len(levels[0].x), len(levels), levels[0].x
    total, own = like.new_zeros(count, count, dtype=torch.float64), like.new_zeros(count, dtype=torch.float64)
    buffer = like.new_empty(count, _BLOCK, 2 * _BLOCK)
    for start in tqdm(range(0, size, _BLOCK), desc="gram blocks", delay=5, leave=False):
        for column in range(start, size, 2 * _BLOCK):
            grams = buffer[:, : size - start, : size - column]
            for level, gram in zip(levels, grams, strict=True):
                torch.mm(level.x[start : start + _BLOCK], level.x[column : column + 2 * _BLOCK].T, out=gram)
            if column == start:
                grams.triu_(1)
            rows, columns = grams[: first or None].transpose(0, 1), grams[first:].permute(1, 2, 0)
            total[: first or None, first:] += torch.bmm(rows, columns).double().sum(0)
            own += torch.linalg.vector_norm(grams, dim=2).double().square().sum(1)
    total.diagonal().copy_(own)
    return 2 * total


def _feature_products(levels: list[_Level], pairs: list[tuple[int, int]]) -> Float[Tensor, "levels levels"]:
    """The sums from the cross-covariances of the features, whose squared norms are Σ_ij K_ij L_ij."""
    total = levels[0].x.new_zeros(len(levels), len(levels), dtype=torch.float64)
    for i, j in tqdm(pairs, desc="feature covariances", delay=5, leave=False):
        blocks = zip(levels[i].x.split(4 * _BLOCK), levels[j].x.split(4 * _BLOCK), strict=True)
        covariance = sum((rows.T @ columns).double() for rows, columns in blocks)
        total[i, j] = covariance.square().sum() - levels[i].diagonal @ levels[j].diagonal
        total[j, i] = total[i, j]
    return total
