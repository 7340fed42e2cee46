"""How many entries two random masks share, and what their Jaccard index is, exactly."""

from functools import reduce
from math import nan, sqrt
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

_CHUNK = 2**18  # probabilities of several pairs worked on at a time
_DIRECT = 2**11  # numbers of shared entries per stratum up to which a convolution is summed directly


class Chance(NamedTuple):
    """What chance gives for each pair of masks.

    Attributes:
        shared: Mean number of entries that both masks keep.
        jaccard: Mean Jaccard index; nan if both masks are empty.
        p: Probability of at least as many shared entries as were observed.
    """

    shared: Float64[np.ndarray, " pairs"]
    jaccard: Float64[np.ndarray, " pairs"]
    p: Float64[np.ndarray, " pairs"]


def ratio(numerator: Any, denominator: Any) -> np.ndarray:
    """Quotient of numbers or arrays; nan where the denominator is 0."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    return np.divide(numerator, denominator, out=np.full(shape, nan), where=np.not_equal(denominator, 0))


def chance_overlap(
    size: int,
    a: Int64[np.ndarray, "pairs strata"],
    b: Int64[np.ndarray, "pairs strata"],
    observed: Int64[np.ndarray, " pairs"],
) -> Chance:
    """What chance gives for pairs of masks whose kept entries are placed at random within each stratum.

    The number of shared entries is hypergeometric in every stratum, and the strata are independent.

    Args:
        size: Number of entries in each stratum. A stratum is a layer, or the whole mask.
        a, b: Numbers of entries that the first and the second mask of each pair keep in each stratum.
        observed: Number of entries that the masks of each pair share, over all strata.

    Returns:
        Means and probabilities for each pair. Numbers of shared entries further than 40 standard deviations and 400
        entries from the mean, less likely than any float64, are left out.
    """
    kinds, kind = np.unique(np.minimum(a, b) * (size + 1) + np.maximum(a, b), return_inverse=True)
    lows, pmfs = zip(*(_hypergeometric(size, *divmod(kept, size + 1)) for kept in kinds.tolist()), strict=True)
    width, kind = max(map(len, pmfs)), kind.reshape(a.shape)
    table = np.stack([np.pad(pmf, (0, width - len(pmf))) for pmf in pmfs])
    low, totals = np.array(lows)[kind].sum(axis=1), np.stack([a.sum(axis=1), b.sum(axis=1)])
    step = max(1, _CHUNK // (width * a.shape[1]))
    chunks = [slice(start, start + step) for start in range(0, len(a), step)]
    jaccards, p = zip(
        *(_summed(table, kind[rows], low[rows], totals[:, rows], observed[rows]) for rows in chunks), strict=True
    )
    return Chance((a * b).sum(axis=1) / max(size, 1), np.concatenate(jaccards), np.concatenate(p))


def _summed(
    table: np.ndarray, kind: np.ndarray, low: np.ndarray, totals: np.ndarray, observed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Expected Jaccard index and p of pairs, from the probabilities of each kind of stratum and the kinds of a pair."""
    pmf = reduce(_convolve, (table[stratum] for stratum in kind.T))
    shared = low[:, None] + np.arange(pmf.shape[1])
    either = np.maximum(totals.sum(axis=0)[:, None] - shared, totals.max(axis=0)[:, None])  # also where pmf is 0
    tail = pmf[:, ::-1].cumsum(axis=1)[:, ::-1]
    tail = np.pad(tail / tail[:, :1], ((0, 0), (0, 1)))
    position = np.clip(observed - low, 0, pmf.shape[1])
    return (pmf * ratio(shared, either)).sum(axis=1), tail[np.arange(len(tail)), position]


def _hypergeometric(size: int, a: int, b: int) -> tuple[int, np.ndarray]:
    """Smallest number of shared entries, and the probabilities of it and all greater ones.

    From the ratios of neighbouring probabilities: in masks of 85 million entries that is closer than differences of
    the logarithms of factorials (1e-12 against 1e-8), and quick.
    """
    mean = a * b / max(size, 1)
    reach = 40 * sqrt(mean * (size - a) * (size - b) / max(size * (size - 1), 1)) + 400
    low, high = max(0, a + b - size, int(mean - reach)), min(a, b, int(mean + reach))
    shared = np.arange(low, high, dtype=float)
    ratios = np.log((a - shared) * (b - shared)) - np.log((shared + 1) * (size - a - b + shared + 1))
    logs = np.concatenate([[0.0], np.cumsum(ratios)])
    pmf = np.exp(logs - logs.max())
    return low, pmf / pmf.sum()


def _convolve(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Row by row; sums of positive products, hence exact in the tails too, as long as they are few."""
    if q.shape[1] > _DIRECT:
        from scipy.signal import fftconvolve  # here, since it takes as long to import as torch

        return np.maximum(fftconvolve(p, q, axes=1), 0)
    total = np.zeros((len(p), p.shape[1] + q.shape[1] - 1))
    for shift, column in enumerate(q.T):
        total[:, shift : shift + p.shape[1]] += column[:, None] * p
    return total
