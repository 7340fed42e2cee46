"""Measures of how alike two representations of the same examples are.

Row i of both sides is the same example, or its translation. All computation is in float64. The result is nan, with
a RuntimeWarning, where a side is the same for all examples within rounding: so is the embedding of a first token.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.distance import squareform
from scipy.stats import rankdata
from torch import Tensor

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.similarity.inputs import checked, constant

_ALPHAS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_FOLDS = 10


def rsa(
    x: Float[Tensor, "examples features"],
    y: Float[Tensor, "examples others"],
    *,
    distance: str = "cosine",
    method: str = "pearson",
) -> float:
    """Representational similarity: the correlation of the distances between examples in x with those in y.

    Args:
        x, y: Two representations of the same three or more examples.
        distance: "cosine" (1 - cosine) or "euclidean".
        method: "pearson" or "spearman" correlation over all pairs of examples.

    Returns:
        A correlation in [-1, 1]; 0 by chance. Nan, with a warning, if all rows of a side, or all distances between
        them, are the same within rounding.

    Raises:
        ValueError: If an option is unknown, the examples do not match or are too few, a value is not finite,
            or an example is all zero, which has no cosine.

    Source: Kriegeskorte et al. 2008, second-order isomorphism; for text encoders Abnar et al. 2019.

    Example:
        >>> import xsub_utils as xs
        >>> import torch
        >>> x = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
        >>> round(xs.rsa(x, 2 * x.flip(1)), 6)  # another scale, another order of the features
        1.0
    """
    one_of("distance", distance, ("cosine", "euclidean"))
    one_of("method", method, ("pearson", "spearman"))
    x, y = checked(x, y, least=3, unit=distance == "cosine")
    if constant("examples", x=x, y=y):
        return math.nan
    x, y = _distances(x, distance), _distances(y, distance)
    if constant("distances between examples", x=x, y=y):
        return math.nan
    if method == "spearman":
        x, y = rankdata(x), rankdata(y)
    return float(np.corrcoef(x, y)[0, 1])


class RegressionScores(NamedTuple):
    """Cross-validated scores of `rsa_regress`.

    Attributes:
        pearson: Correlation of true and predicted distances, as a mean over the references.
        r2: Share of the variance of the distances that is explained, as a mean over the references.
        mse: Mean squared error, in squared cosine distances.
        alpha: The ridge penalty with the least mean squared error; the other scores are those at this penalty.
    """

    pearson: float
    r2: float
    mse: float
    alpha: float


def rsa_regress(
    x: Float[Tensor, "examples features"],
    y: Float[Tensor, "examples others"],
    *,
    references: int | Sequence[int],
    seed: int = 0,
) -> RegressionScores:
    """How well the distances of examples to reference examples in x predict those in y.

    A ridge regression maps the cosine distances of an example to all references in x onto those in y. Unlike
    `rsa` it can give references different weights; it is not symmetric.

    Args:
        x, y: Two representations of the same examples.
        references: Number of reference examples to draw, or their row numbers. The distances of the other examples,
            at least 30, are predicted.
        seed: Seed of the draw, and of the order in which the other examples are divided into folds.

    Returns:
        Means over 10 folds, each predicted from the nine others, at the best of the penalties .001 to 10. By
        chance the correlation is 0 and r2 at most 0. All nan, with a warning, if the predicted examples are the same
        within rounding.

    Raises:
        ValueError: If the references do not fit; and as `rsa`.

    Source: Chrupała & Alishahi 2019, section 4 (RSA_regress).
    """
    x, y = checked(x, y, least=3 * _FOLDS + 1, unit=True)
    chosen, rest = _split(len(x), references, seed)
    if constant("examples to predict", x=x[rest], y=y[rest]):
        return RegressionScores(*[math.nan] * 4)
    near, far = ((1 - rows[rest] @ rows[chosen].T).numpy() for rows in (x, y))
    folds = [_fold_scores(near, far, fold) for fold in np.array_split(np.arange(len(rest)), _FOLDS)]
    pearson, r2, mse = np.mean(folds, axis=0).T
    best = mse.argmin()
    return RegressionScores(float(pearson[best]), float(r2[best]), float(mse[best]), _ALPHAS[best])


# Measures


def _distances(rows: Float[Tensor, "examples features"], distance: str) -> Float[Tensor, " pairs"]:
    """Distances of all pairs of examples; rows are of length 1 for cosines."""
    if distance == "cosine":
        square = 1 - rows @ rows.T
    else:
        centred = rows - rows.mean(0)  # distances come from squares, which a common mean would swamp
        square = torch.cdist(centred, centred)
    return torch.from_numpy(squareform(square.numpy(), checks=False))


def _split(count: int, references: int | Sequence[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the references, and of the other examples in random order."""
    order = np.random.default_rng(seed).permutation(count)
    chosen = order[: max(references, 0)] if isinstance(references, int) else np.array(references, dtype=int)
    if len(set(chosen.tolist()) & set(range(count))) < len(chosen):
        raise invalid("references", f"different row numbers from 0 to {count - 1}", references)
    if not 0 < len(chosen) <= count - 3 * _FOLDS:
        expected = f"1 to {count - 3 * _FOLDS} examples, as {_FOLDS} folds of the rest need {3 * _FOLDS}"
        raise invalid("references", expected, f"{len(chosen)} of {count}")
    return chosen, order[~np.isin(order, chosen)]


def _fold_scores(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> list[tuple[float, float, float]]:
    """Correlation, share of variance and squared error in one fold, predicted from the others, for each penalty."""
    rest = np.delete(np.arange(len(x)), fold)
    middle, target = x[rest].mean(0), y[rest].mean(0)
    left, values, right = np.linalg.svd(x[rest] - middle, full_matrices=False)  # one for all penalties
    scores, seen, true = (x[fold] - middle) @ right.T, left.T @ (y[rest] - target), y[fold] - target
    by_penalty = []
    for alpha in _ALPHAS:
        predicted = (scores * (values / (values**2 + alpha))) @ seen
        error, spread = (true - predicted) ** 2, ((true - true.mean(0)) ** 2).sum(0)
        known = spread > 0  # of distances that are all the same nothing can be explained
        r2 = (1 - np.divide(error.sum(0), spread, where=known, out=np.ones_like(spread))).mean()
        by_penalty.append((_mean_pearson(true, predicted), float(r2), float(error.mean())))
    return by_penalty


def _mean_pearson(true: np.ndarray, predicted: np.ndarray) -> float:
    """Correlation over the examples, mean over the references."""
    true, predicted = true - true.mean(0), predicted - predicted.mean(0)
    lengths = np.linalg.norm(true, axis=0) * np.linalg.norm(predicted, axis=0)
    return float(((true * predicted).sum(0) / lengths).mean())
