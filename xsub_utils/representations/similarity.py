"""Measures of how alike two representations of the same examples are.

Row i of both sides is the same example, or its translation. All computation is in float64. The result is nan, with
a RuntimeWarning, where a side is the same for all examples within rounding: so is the embedding of a first token.
"""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from scipy.spatial.distance import squareform
from scipy.stats import rankdata
from sklearn.linear_model import Ridge
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, KFold
from torch import Tensor

from xsub_utils.names import one_of

_ALPHAS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_FOLDS = 10
_ROUNDING = 1e-6  # what float32 arithmetic leaves, as a share, of a difference that is truly zero


def rsa(
    x: Float[Tensor, "examples features"],
    y: Float[Tensor, "examples others"],
    distance: str = "cosine",
    method: str = "pearson",
) -> float:
    """Representational similarity: correlation of the distances between examples in x with those in y.

    Args:
        x, y: Two representations of the same three or more examples.
        distance: "cosine" (1 - cosine) or "euclidean".
        method: "pearson" or "spearman" correlation over all pairs of examples.

    Returns:
        In [-1, 1]; by chance 0. Nan if a side, or all distances in it, are the same within rounding.

    Raises:
        ValueError: If an option is unknown, the examples do not match or are too few, a value is not finite,
            or an example is all zero, which has no cosine.

    Source: Kriegeskorte et al. 2008, second-order isomorphism; for text encoders Abnar et al. 2019.
    """
    one_of("distance", distance, ("cosine", "euclidean"))
    one_of("method", method, ("pearson", "spearman"))
    x, y = _checked(x, y, least=3, unit=distance == "cosine")
    if _constant("examples", x=x, y=y):
        return math.nan
    x, y = _distances(x, distance), _distances(y, distance)
    if _constant("distances between examples", x=x, y=y):
        return math.nan
    pair = (x, y) if method == "pearson" else (rankdata(x), rankdata(y))
    return float(np.corrcoef(*pair)[0, 1])


class RegressionScores(NamedTuple):
    """Cross-validated scores of `rsa_regress`.

    Attributes:
        pearson: Correlation of true and predicted distances, mean over the references.
        r2: Share of the variance of the distances that is explained, mean over the references.
        mse: Mean squared error, in squared cosine distances.
        alpha: The ridge penalty of least mean squared error, at which all these are taken.
    """

    pearson: float
    r2: float
    mse: float
    alpha: float


def rsa_regress(
    x: Float[Tensor, "examples features"],
    y: Float[Tensor, "examples others"],
    references: int | Sequence[int],
    seed: int = 0,
) -> RegressionScores:
    """How well the distances of examples to reference examples in x predict those in y.

    A ridge regression maps the cosine distances of an example to all references in x onto those in y. Unlike
    `rsa` it lets some references matter more than others; it is not symmetric.

    Args:
        x, y: Two representations of the same examples.
        references: Number of references to draw, or their row numbers. The other examples, at least 30, are
            predicted.
        seed: Of the draw and of the order in which the other examples are divided into folds.

    Returns:
        Means over 10 folds, each predicted from the nine others, at the best of the penalties .001 to 10. By
        chance the correlation is 0 and r2 at most that. All nan if the examples predicted are the same
        within rounding.

    Raises:
        ValueError: If the references do not fit; and as `rsa`.

    Source: Chrupała & Alishahi 2019, section 4 (RSA_regress).
    """
    x, y = _checked(x, y, least=3 * _FOLDS + 1, unit=True)
    chosen, rest = _split(len(x), references, seed)
    if _constant("examples to predict", x=x[rest], y=y[rest]):
        return RegressionScores(*[math.nan] * 4)
    distances = ((1 - rows[rest] @ rows[chosen].T).numpy() for rows in (x, y))
    scores = {"mse": "neg_mean_squared_error", "r2": "r2", "pearson": make_scorer(_mean_pearson)}
    search = GridSearchCV(Ridge(), {"alpha": _ALPHAS}, scoring=scores, refit=False, cv=KFold(_FOLDS))
    table = search.fit(*distances).cv_results_
    best = table["mean_test_mse"].argmax()  # sklearn's is negative
    pearson, r2, loss = (float(table[f"mean_test_{name}"][best]) for name in ("pearson", "r2", "mse"))
    return RegressionScores(pearson, r2, -loss, _ALPHAS[best])


def svcca(x: Float[Tensor, "examples features"], y: Float[Tensor, "examples others"], variance: float = 0.99) -> float:
    """Mean canonical correlation of the principal directions of x with those of y.

    Args:
        x, y: Two representations of the same examples, many more than there are directions. Of independent
            noise the mean squared correlation is k / (examples - 1), k being the larger number of directions.
        variance: Share of each side's variance that its principal directions are to hold; 1 keeps all.

    Returns:
        In [0, 1]; 1 for x and any rotation, scaling or shift of it. The mean is over as many correlations as
        the side with fewer directions has. Nan if a side is the same for all examples within rounding.

    Raises:
        ValueError: If `variance` is out of range, the examples do not match or are too few, a value is not
            finite, or the directions of a side can express anything, so that the result would always be 1.

    Source: Raghu et al. 2017, section 2.
    """
    x, y = _checked(x, y, least=3)
    if _constant("examples", x=x, y=y):
        return math.nan
    correlations, _ = _canonical(x, y, variance)
    return float(correlations.mean())


def pwcca(x: Float[Tensor, "examples features"], y: Float[Tensor, "examples others"], variance: float = 0.99) -> float:
    """Mean canonical correlation of x with y, weighted by how much of x each correlated direction accounts for.

    Args:
        x: The side whose features weigh the directions; `pwcca(y, x)` is another number.
        y, variance: As for `svcca`.

    Returns:
        In [0, 1]; see `svcca`.

    Raises:
        ValueError: As `svcca`.

    Source: Morcos et al. 2018, section 2.2: the weight of the variate h is Σ_j |<h, x_j>| over the features x_j.
    """
    x, y = _checked(x, y, least=3)
    if _constant("examples", x=x, y=y):
        return math.nan
    correlations, variates = _canonical(x, y, variance)
    return float(_projection_weights(variates, x) @ correlations)


def retrieval_accuracy(
    x: Float[Tensor, "examples features"], y: Float[Tensor, "examples others"], k: int = 4, margin: bool = True
) -> float:
    """Share of the rows of x that find their own translation, the same row of y, first among all of y.

    Args:
        x, y: Representations of parallel sentences in the same space; a sentence that occurs twice competes
            with itself.
        k: Number of neighbours on each side that the margin averages over; more than there are means all.
        margin: Whether the score of a pair is its cosine relative to the mean of the cosines of both to their
            k nearest neighbours on the other side, so that rows near to everything do not win; False takes
            the cosine alone.

    Returns:
        In [0, 1]; 1 / examples by chance. Nan if a side is the same for all examples within rounding, or
        neighbours point away from each other, so that a ratio means nothing.

    Raises:
        ValueError: If `k` is not positive, the features do not match; and as `rsa`.

    Source: Artetxe & Schwenk 2019, section 3.1 (ratio margin), with all of y as candidates; top 1, as in
        Foroutan et al. 2022, section 5.
    """
    if k < 1:
        raise ValueError(f"k={k}: there is no such neighbourhood; at least 1 would be right")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x, y: of {x.shape[1]} and {y.shape[1]} features; a cosine needs the same of both")
    x, y = _checked(x, y, least=2, unit=True)
    if _constant("examples", x=x, y=y):
        return math.nan
    scores = x @ y.T
    if margin:
        scores = scores / _neighbourhood(scores, k)
    found = scores.argmax(1) == torch.arange(len(x))
    return math.nan if scores.isnan().any() else float(found.double().mean())


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
        raise ValueError(f"references={references}: different row numbers from 0 to {count - 1} would be right")
    if not 0 < len(chosen) <= count - 3 * _FOLDS:
        raise ValueError(
            f"references: {len(chosen)} of {count} examples; at least 1 and, as {_FOLDS} folds of "
            f"the rest need {3 * _FOLDS}, at most {count - 3 * _FOLDS} would be right"
        )
    return chosen, order[~np.isin(order, chosen)]


def _mean_pearson(true: np.ndarray, predicted: np.ndarray) -> float:
    """Correlation over the examples, mean over the references."""
    true, predicted = true - true.mean(0), predicted - predicted.mean(0)
    lengths = np.linalg.norm(true, axis=0) * np.linalg.norm(predicted, axis=0)
    return float(((true * predicted).sum(0) / lengths).mean())


def _canonical(x: Tensor, y: Tensor, variance: float) -> tuple[Tensor, Float[Tensor, "examples variates"]]:
    """Canonical correlations, falling, and the canonical variates of x, orthonormal."""
    bases = {"x": _principal(x, variance), "y": _principal(y, variance)}
    for name, basis in bases.items():
        if basis.shape[1] >= len(x) - 1:
            raise ValueError(
                f"{name}: its {basis.shape[1]} directions are all that {len(x)} examples can differ in, so that "
                f"every correlation is 1; more examples or a variance below {variance} would be right"
            )
    left, correlations, _ = torch.linalg.svd(bases["x"].T @ bases["y"], full_matrices=False)
    return correlations.clamp(max=1), bases["x"] @ left


def _principal(rows: Tensor, variance: float) -> Float[Tensor, "examples directions"]:
    """Orthonormal scores of the examples in the fewest directions that hold the share of the variance."""
    if not 0 < variance <= 1:
        raise ValueError(f"variance={variance}: not a share of the variance; above 0 and at most 1 would be right")
    scores, values, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    held_from_here = values.square().flip(0).cumsum(0).flip(0)
    needed = held_from_here > (1 - variance) * held_from_here[0]
    # The root lets rows that are not constant keep a direction.
    return scores[:, needed & (values > _ROUNDING * rows.norm() / math.sqrt(len(values)))]


def _projection_weights(variates: Float[Tensor, "examples variates"], rows: Tensor) -> Float[Tensor, " variates"]:
    weights = (variates.T @ (rows - rows.mean(0))).abs().sum(1)
    return weights / weights.sum()


def _neighbourhood(cosines: Float[Tensor, "examples examples"], k: int) -> Float[Tensor, "examples examples"]:
    """Mean cosine of both rows of a pair to their nearest neighbours; nan if that is not positive for all."""
    k = min(k, len(cosines))
    of_x, of_y = cosines.topk(k, 1).values.mean(1), cosines.topk(k, 0).values.mean(0)
    means = (of_x.unsqueeze(1) + of_y) / 2
    if means.min() > 0:
        return means
    warnings.warn(
        "x, y: neighbours point away from each other, so that the margin is nan; margin=False needs no ratio",
        RuntimeWarning,
        stacklevel=3,
    )
    return torch.full_like(means, math.nan)


# Checks


def _checked(x: Tensor, y: Tensor, least: int, unit: bool = False) -> tuple[Tensor, Tensor]:
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


def _constant(what: str, **sides: Shaped[Tensor, "..."]) -> bool:
    """Whether all rows of a side are the same within rounding, which is then warned of."""
    names = [name for name, rows in sides.items() if (rows - rows.mean(0)).norm() <= _ROUNDING * rows.norm()]
    if names:
        message = f"{', '.join(names)}: all {what} are the same, so that the result is nan"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    return bool(names)
