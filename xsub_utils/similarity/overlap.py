"""Overlap of masks, beside the overlap that chance would give.

Every measure takes boolean masks of one shape, True = kept, and counts without copying them to numbers, so that masks
of all weights of a model fit. Chance means that the kept entries of one mask are placed uniformly at random: anywhere
or, with `within_layers`, each in its own layer. Layers are the first axis.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from itertools import combinations
from operator import and_, or_
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.heads.masks import union
from xsub_utils.similarity.chance import Chance, chance_overlap, ratio

_BLOCK = 2**20  # entries of each mask turned into numbers at a time; float32 counts them exactly

Mask = Bool[Tensor, "..."]
Number = Any  # an integer, or an array of them


class ChanceTest(NamedTuple):
    """Kept entries that two masks share, and what chance would give.

    Attributes:
        shared: Number of entries that both masks keep.
        expected: The number that chance gives on average.
        p: Probability that chance gives at least as many as are shared.
    """

    shared: int
    expected: float
    p: float


def jaccard(a: Mask, b: Mask) -> float:
    """Jaccard index of two masks: the share of the entries kept by either that both keep.

    Args:
        a, b: Boolean masks of one shape, True = kept.

    Returns:
        |a ∩ b| / |a ∪ b| in [0, 1]; nan if both masks are empty. For two random masks that keep a share p, about
        p / (2 - p); see `expected_jaccard`.

    Raises:
        ValueError: If the masks are not boolean or have different shapes, as for all measures here.

    Source: Jaccard 1912; for head masks, Prasanna et al. 2020.

    Example:
        >>> import xsub_utils as xs
        >>> import torch
        >>> a = torch.tensor([[True, True, False], [True, False, False]])
        >>> b = torch.tensor([[False, True, True], [True, False, False]])
        >>> xs.jaccard(a, b)
        0.5
    """
    return float(_jaccard(*_counts(a, b)))


def matching(a: Mask, b: Mask) -> float:
    """Share of the entries that both masks keep or both prune, in [0, 1]; nan if the masks have no entries.

    Source: Sokal and Michener 1958; for head masks, Apostolikas et al. 2023.
    """
    return float(_matching(*_counts(a, b)))


def overlap_coefficient(a: Mask, b: Mask) -> float:
    """Share of the smaller mask's kept entries that the other mask keeps too, in [0, 1]; nan if one is empty.

    Source: Szymkiewicz 1934; Simpson 1943.
    """
    return float(_overlap(*_counts(a, b)))


def kappa(a: Mask, b: Mask) -> float:
    """Agreement of two masks beyond chance: 0 at chance, 1 for equal masks.

    Returns:
        (matching - e) / (1 - e), where e is the matching that chance gives; nan if both masks keep all or nothing.

    Source: Cohen 1960.
    """
    return float(_kappa(*_counts(a, b)))


def joint_jaccard(masks: Iterable[Mask]) -> float:
    """Share of the entries kept by any of several masks that all of them keep; nan if all are empty."""
    tensors = _alike(dict(enumerate(masks)))
    intersection, union_of_all = reduce(and_, tensors), reduce(or_, tensors)
    return float(ratio(_kept(intersection), _kept(union_of_all)))


def expected_jaccard(a: Mask, b: Mask, *, within_layers: bool = False) -> float:
    """Expectation of `jaccard` if the entries that b keeps were placed at random.

    Args:
        a, b: Masks; only their numbers of kept entries count.
        within_layers: Whether every layer, along the first axis, keeps its number of entries.

    Returns:
        The mean over the exact distribution of the number of shared entries (see `chance_overlap`): hypergeometric
        or, within layers, a sum of independent hypergeometric numbers. Nan if both masks are empty.
    """
    return float(_chance_of(a, b, within_layers, shared=0).jaccard[0])


def chance_test(a: Mask, b: Mask, *, within_layers: bool = False) -> ChanceTest:
    """Exact one-sided test of whether two masks share more kept entries than chance would give.

    Args:
        a, b, within_layers: As for `expected_jaccard`.

    Returns:
        The number of shared entries, its expectation, and p. Within layers of thousands of kept entries, p has an
        absolute error of up to about 1e-13, from the Fourier transform.

    Source: the hypergeometric test, Fisher 1935.
    """
    shared = _counts(a, b)[-1]
    chance = _chance_of(a, b, within_layers, shared)
    return ChanceTest(shared, float(chance.shared[0]), float(chance.p[0]))


def adjusted_jaccard(a: Mask, b: Mask, *, within_layers: bool = False) -> float:
    """Jaccard index beyond chance: 0 on average for random masks of these sizes, 1 for equal masks.

    Args:
        a, b, within_layers: As for `expected_jaccard`.

    Returns:
        (J - E[J]) / (1 - E[J]), below 0 if the masks share less than random ones; nan where `expected_jaccard` is 1
        or nan, since masks of these sizes cannot differ.

    Raises:
        ValueError: As `jaccard`.

    Source: the form of Hubert and Arabie 1985, equation 4.

    Example:
        >>> import xsub_utils as xs
        >>> import torch
        >>> own = torch.arange(144).reshape(12, 12) < 100
        >>> xs.adjusted_jaccard(own, own)
        1.0
        >>> abs(xs.adjusted_jaccard(own, xs.random_mask(own, seed=0))) < 0.2
        True
    """
    return float(_adjusted(jaccard(a, b), expected_jaccard(a, b, within_layers=within_layers)))


def by_layer(a: Mask, b: Mask, measure: Callable[[Mask, Mask], float] = jaccard) -> Float64[Tensor, " layers"]:
    """A measure of overlap in each layer, along the first axis."""
    _check_layered(_alike({"a": a, "b": b}))
    return torch.tensor([measure(*layers) for layers in zip(a, b, strict=True)], dtype=torch.float64)


def compare(
    masks: Mapping[Any, Mask], measures: Sequence[str] = ("jaccard", "expected", "adjusted", "p")
) -> pd.DataFrame:
    """Overlap of every two of several masks.

    Args:
        masks: Name → mask; a name may be a tuple.
        measures: Columns of the result: "jaccard", "matching", "overlap" (the coefficient), "kappa"; "expected" and
            "adjusted" (Jaccard), "p" (of `chance_test`); the last three within layers as "expected_within",
            "adjusted_within", "p_within".

    Returns:
        One row per unordered pair, in the order of the masks: a, b (the names), and the measures.

    Raises:
        ValueError: If there are fewer than two masks, they differ in shape, or a measure is unknown.
    """
    for measure in measures:
        one_of("measures", measure, [*_MEASURES, *_CHANCE])
    if len(masks) < 2:
        raise invalid("masks", "at least two masks", len(masks))
    tensors = _alike(masks)
    pairs = np.array(list(combinations(range(len(tensors)), 2))).T
    counts = _pair_counts(tensors, pairs)
    columns = {measure: _MEASURES[measure](*counts) for measure in measures if measure in _MEASURES}
    for within in {_CHANCE[measure] for measure in measures if measure in _CHANCE}:
        columns |= _chance_columns(tensors, pairs, counts, within)
    names = list(masks)
    table = pd.DataFrame({"a": [names[i] for i in pairs[0]], "b": [names[i] for i in pairs[1]]})
    return table.assign(**{measure: columns[measure] for measure in measures})


def survival(masks: Iterable[Bool[Tensor, "layers heads"]]) -> Float64[Tensor, "layers heads"]:
    """Share of the masks that keep each head."""
    return torch.stack(_alike(dict(enumerate(masks)))).double().mean(dim=0)


def never_used(masks: Iterable[Bool[Tensor, "layers heads"]]) -> Int64[Tensor, " layers"]:
    """Number of heads in each layer that no mask keeps."""
    return (~union(masks)).sum(dim=1)


# Each takes four numbers of entries: all, those kept by a, those kept by b, and those kept by both.
def _jaccard(size: Number, a: Number, b: Number, shared: Number) -> np.ndarray:
    return ratio(shared, a + b - shared)


def _matching(size: Number, a: Number, b: Number, shared: Number) -> np.ndarray:
    return ratio(size - a - b + 2 * shared, size)


def _overlap(size: Number, a: Number, b: Number, shared: Number) -> np.ndarray:
    return ratio(shared, np.minimum(a, b))


def _kappa(size: Number, a: Number, b: Number, shared: Number) -> np.ndarray:
    by_chance = a * b + (size - a) * (size - b)  # in integers, so that a chance of 1 is met exactly
    return ratio(size * (size - a - b + 2 * shared) - by_chance, size * size - by_chance)


def _adjusted(observed: Any, expected: Any) -> np.ndarray:
    return ratio(np.subtract(observed, expected), np.subtract(1, expected))


_MEASURES = {"jaccard": _jaccard, "matching": _matching, "overlap": _overlap, "kappa": _kappa}
_CHANCE = {f"{name}{suffix}": suffix != "" for suffix in ("", "_within") for name in ("expected", "adjusted", "p")}


def _alike(masks: Mapping[Any, Tensor]) -> list[Tensor]:
    """The masks, if they are boolean and of one shape."""
    if not masks:
        raise invalid("masks", "at least one mask", "none")
    for name, mask in masks.items():
        if not isinstance(mask, Tensor):
            raise invalid(f"mask {name!r}", "a tensor", f"a {type(mask).__name__}", "see mask_overlap for weights")
        if mask.dtype != torch.bool:
            raise invalid(f"mask {name!r}", "torch.bool", mask.dtype)
        if mask.shape != (first := next(iter(masks.values()))).shape:
            raise invalid(f"mask {name!r}", f"the shape of the first mask, {tuple(first.shape)}", tuple(mask.shape))
    return list(masks.values())


def _check_layered(masks: Sequence[Tensor]) -> None:
    if masks[0].ndim < 2:
        raise invalid("masks", "layers, as in (layers, heads)", f"shape {tuple(masks[0].shape)}")


def _kept(mask: Tensor) -> int:
    return int(torch.count_nonzero(mask))  # unlike sum, without a copy in 64 bits


def _counts(a: Tensor, b: Tensor) -> tuple[int, int, int, int]:
    """Numbers of all entries, of those kept by a, by b, and by both."""
    _alike({"a": a, "b": b})
    return a.numel(), _kept(a), _kept(b), _kept(a & b)


def _chance_of(a: Tensor, b: Tensor, within: bool, shared: int) -> Chance:
    """What chance gives for one pair of masks."""
    masks = _alike({"a": a, "b": b})
    kept = _kept_in_strata(masks, within)
    return chance_overlap(a.numel() // max(kept.shape[1], 1), kept[:1], kept[1:], np.array([shared]))


def _kept_in_strata(masks: Sequence[Tensor], within: bool) -> Int64[np.ndarray, "masks strata"]:
    """Number of kept entries per layer or, unless within layers, in all."""
    if not within:
        return np.array([[_kept(mask)] for mask in masks])
    _check_layered(masks)
    return np.array([[_kept(layer) for layer in mask] for mask in masks])


def _pair_counts(masks: Sequence[Tensor], pairs: np.ndarray) -> tuple[np.ndarray, ...]:
    """What `_counts` gives, for all pairs at once: the shared entries are a matrix product."""
    shared = np.zeros((len(masks), len(masks)), dtype=np.int64)
    flat = [mask.reshape(-1) for mask in masks]
    for start in range(0, len(flat[0]), _BLOCK):
        block = torch.stack([mask[start : start + _BLOCK] for mask in flat]).float()
        shared += (block @ block.T).numpy(force=True).astype(np.int64)
    kept = shared.diagonal()
    size = np.full(pairs.shape[1], len(flat[0]))
    return size, kept[pairs[0]], kept[pairs[1]], shared[pairs[0], pairs[1]]


def _chance_columns(
    masks: Sequence[Tensor], pairs: np.ndarray, counts: tuple[np.ndarray, ...], within: bool
) -> dict[str, np.ndarray]:
    """Expected and adjusted Jaccard index, and p, of every pair."""
    kept = _kept_in_strata(masks, within)
    chance = chance_overlap(masks[0].numel() // max(kept.shape[1], 1), kept[pairs[0]], kept[pairs[1]], counts[3])
    adjusted = _adjusted(_jaccard(*counts), chance.jaccard)
    columns = {"expected": chance.jaccard, "adjusted": adjusted, "p": chance.p}
    return {f"{name}{'_within' * within}": column for name, column in columns.items()}
