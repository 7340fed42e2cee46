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

from xsub_utils._internal.validation import one_of

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
        independent. nan, with a warning, if either is constant.

    Raises:
        ValueError: As for `cka_matrix`.

    Source: Kornblith et al. 2019, section 3; the debiased form from Nguyen et al. 2021, section 3.1.
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
        ys: The same examples in the same order; None compares `xs` with themselves, in half the time.
        debiased: Estimate HSIC without bias. The biased estimate rises with the number of features over that of
            examples: for independent noise of 768 features it is .885 with 100 examples and .607 with 500. The
            debiased one is about 0 there, and rightly negative in about half of such cases.
        method: "gram" compares examples (work ∝ examples² · levels), "features" compares features
            (∝ examples · features² · pairs of levels), "auto" takes the cheaper one. Equal but for rounding.

    Returns:
        Similarities in float64 on the CPU; nan, with a warning, in the row or column of a constant level. Products
        are taken in float32, unless a level is float64 or examples are few, and summed in float64. Memory: a
        centred copy of the input and blocks of grams; no whole gram is ever held.

    Raises:
        ValueError: If there is no level, numbers of examples differ or are below 4 (biased: 2), a value is nan or
            infinite, or `method` is unknown.

    Source: Kornblith et al. 2019, section 3 (biased); Song et al. 2012, equation 5, and Székely & Rizzo 2014
    (debiased HSIC, "HSIC₁" in Nguyen et al. 2021).
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
    total, names = None, None
    for number, (xs, ys) in enumerate(tqdm(batches, desc="minibatch CKA", delay=5, leave=False)):
        levels, first, found = _joined(xs, ys)
        if names not in (None, found):
            raise ValueError(f"batches: batch {number} has {found}, those before have {names}; equal ones are right")
        part, names = _estimate(levels, first, found, True, "auto"), found
        total = part if total is None else _Hsic(*map(torch.add, total, part))
    if total is None:
        raise ValueError("batches: there are none; at least one would be right")
    return _ratio(total, first, names)


class _Hsic(NamedTuple):
    """HSIC of all pairs of levels times the number of examples, and what tells values from rounding noise."""

    values: Float[Tensor, "levels levels"]
    doubt: Float[Tensor, " levels"]  # rounding of the HSIC of a level with itself
    energy: Float[Tensor, " levels"]  # squared norm of the centred features
    noise: Float[Tensor, " levels"]  # and what rounding would give it in a constant level


class _Level(NamedTuple):
    """A representation with mean zero and mean squared norm one, so that no product over- or underflows."""

    x: Float[Tensor, "examples features"]
    diagonal: Float[Tensor, " examples"]  # of its gram
    power: Float[Tensor, ""]  # mean squared norm that it had
    mean: Float[Tensor, ""]  # squared norm of the mean that it had


def _joined(xs: Sequence[Tensor], ys: Sequence[Tensor] | None) -> tuple[list[Tensor], int, list[str]]:
    """All levels, the number of those that are rows of the matrix if others are its columns or else 0, and names."""
    for name, levels in (("xs", xs), ("ys", xs if ys is None else ys)):
        if len(levels) == 0:
            raise ValueError(f"{name}={levels}: holds no representation; one tensor per level would be right")
    names = [f"xs[{index}]" for index in range(len(xs))]
    if ys is None:
        return [*xs], 0, names
    return [*xs, *ys], len(xs), names + [f"ys[{index}]" for index in range(len(ys))]


@torch.no_grad()
def _estimate(levels: list[Tensor], first: int, names: list[str], debiased: bool, method: str) -> _Hsic:
    """HSIC of all pairs of levels that the matrix needs; `first` as from `_joined`."""
    one_of("method", method, ("auto", "gram", "features"))
    _check_sizes(levels, names, debiased)
    double = len(levels[0]) <= _SMALL or any(x.dtype == torch.float64 for x in levels)
    dtype = torch.float64 if double else torch.float32
    parts = [_level(x.to(levels[0].device, dtype), name) for x, name in zip(levels, names, strict=True)]
    offdiagonal = _products(parts, first, method)
    diagonals, power, mean = (torch.stack([part[field] for part in parts]) for field in (1, 2, 3))
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
    """HSIC from sums over the grams. For the debiased one the hollow gram has rows that sum to -diagonal."""
    size, sums, both = diagonals.shape[1], diagonals.sum(1), diagonals @ diagonals.T
    if debiased:
        values = offdiagonal + torch.outer(sums, sums) / ((size - 1) * (size - 2)) - 2 / (size - 2) * both
        values = values / (size - 3)
    else:
        values = offdiagonal + both
    energy = power * sums
    doubt = eps * power**2 * both.diagonal()
    noise = eps**2 * (energy + size * mean)
    parts = values * torch.outer(power, power), doubt / max(size - 3, 1), energy, noise
    return _Hsic(*(part.cpu() for part in parts))


def _ratio(hsic: _Hsic, first: int, names: list[str]) -> Float[Tensor, "xs ys"]:
    """HSIC over the geometric mean of those of the levels with themselves; nan where there is nothing to divide by."""
    own = hsic.values.diagonal()
    constant = hsic.energy <= hsic.noise
    lost = constant | (own <= hsic.doubt)
    if lost.any():
        reasons = {True: "does not vary over the examples", False: "has no debiased HSIC above rounding"}
        found = [
            f"{name} {reasons[flag]}" for name, flag, bad in zip(names, constant.tolist(), lost, strict=True) if bad
        ]
        warnings.warn(f"alignment is nan: {'; '.join(found)}", RuntimeWarning, stacklevel=3)
    norms = own.clamp(min=0).sqrt().masked_fill(lost, torch.nan)
    return (hsic.values / torch.outer(norms, norms))[: first or None, first:]


def _check_sizes(levels: list[Tensor], names: list[str], debiased: bool) -> None:
    size, least = len(levels[0]), 4 if debiased else 2
    for x, name in zip(levels, names, strict=True):
        if len(x) != size:
            raise ValueError(f"{name}: has {len(x)} examples, {names[0]} has {size}; the same examples would be right")
    if size < least:
        kind = "debiased" if debiased else "biased"
        raise ValueError(f"{names[0]}: has {size} examples; at least {least} would be right for the {kind} estimate")


def _level(x: Float[Tensor, "examples features"], name: str) -> _Level:
    mean = x.mean(0)
    x = x - mean
    squares = torch.cat([rows.double().square().sum(1) for rows in x.split(_BLOCK)])
    power = squares.mean()
    if not power.isfinite():
        raise ValueError(f"{name}: holds nan or infinite values; finite ones would be right")
    scale = power.where(power > 0, 1)
    return _Level(x.div_(scale.sqrt()), squares / scale, power, mean.double().square().sum())


def _products(parts: list[_Level], first: int, method: str) -> Float[Tensor, "levels levels"]:
    """Σ_{i≠j} K_ij L_ij of the pairs that the matrix needs, by the cheaper way for "auto"."""
    pairs = _pairs(len(parts), first)
    size, widths = len(parts[0].x), [part.x.shape[1] for part in parts]
    gram = size**2 * (sum(widths) + len(pairs))
    features = 2 * size * sum(widths[i] * widths[j] for i, j in pairs)
    if method == "gram" or (method == "auto" and gram < features):
        return _gram_products(parts, first)
    return _feature_products(parts, pairs)


def _pairs(count: int, first: int) -> list[tuple[int, int]]:
    """Pairs in the upper triangle whose HSIC is needed: those of the matrix, and each level with itself."""
    if first == 0:
        return [*combinations_with_replacement(range(count), 2)]
    return [*product(range(first), range(first, count)), *((index, index) for index in range(count))]


def _gram_products(parts: list[_Level], first: int) -> Float[Tensor, "levels levels"]:
    """From blocks of all grams at a time, above the diagonal only."""
    size, count, like = len(parts[0].x), len(parts), parts[0].x
    total, own = like.new_zeros(count, count, dtype=torch.float64), like.new_zeros(count, dtype=torch.float64)
    buffer = like.new_empty(count, _BLOCK, 2 * _BLOCK)
    for start in tqdm(range(0, size, _BLOCK), desc="gram blocks", delay=5, leave=False):
        for column in range(start, size, 2 * _BLOCK):
            grams = buffer[:, : size - start, : size - column]
            for part, gram in zip(parts, grams, strict=True):
                torch.mm(part.x[start : start + _BLOCK], part.x[column : column + 2 * _BLOCK].T, out=gram)
            if column == start:
                grams.triu_(1)
            rows, columns = grams[: first or None].transpose(0, 1), grams[first:].permute(1, 2, 0)
            total[: first or None, first:] += torch.bmm(rows, columns).double().sum(0)
            own += torch.linalg.vector_norm(grams, dim=2).double().square().sum(1)
    total.diagonal().copy_(own)
    return 2 * total


def _feature_products(parts: list[_Level], pairs: list[tuple[int, int]]) -> Float[Tensor, "levels levels"]:
    """From the cross-covariances of the features, whose squared norms are Σ_ij K_ij L_ij."""
    total = parts[0].x.new_zeros(len(parts), len(parts), dtype=torch.float64)
    for i, j in tqdm(pairs, desc="feature covariances", delay=5, leave=False):
        blocks = zip(parts[i].x.split(4 * _BLOCK), parts[j].x.split(4 * _BLOCK), strict=True)
        covariance = sum((rows.T @ columns).double() for rows, columns in blocks)
        total[i, j] = covariance.square().sum() - parts[i].diagonal @ parts[j].diagonal
        total[j, i] = total[i, j]
    return total
