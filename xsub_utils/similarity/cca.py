"""Canonical correlations of two representations of the same examples: SVCCA and PWCCA, in float64."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from xsub_utils.similarity.inputs import ROUNDING, checked, constant


class CanonicalScores(NamedTuple):
    """Mean canonical correlations of two representations, from one decomposition of each.

    Attributes:
        svcca: Every correlated direction counts the same.
        pwcca: Each counts by how much of x it accounts for.
        pwcca_reversed: By how much of y.
    """

    svcca: float
    pwcca: float
    pwcca_reversed: float


def canonical_scores(
    x: Float[Tensor, "examples features"], y: Float[Tensor, "examples others"], *, variance: float = 0.99
) -> CanonicalScores:
    """Mean canonical correlations of the principal directions of x with those of y, weighted in three ways.

    Args:
        x, y: Two representations of the same examples, many more than there are directions. Of independent
            noise the mean squared correlation is k / (examples - 1), k being the larger number of directions.
        variance: Share of each side's variance that its principal directions are to hold; 1 keeps all.

    Returns:
        Each in [0, 1]; 1 for x and any rotation, scaling or shift of it. The means are over as many correlations
        as the side with fewer directions has. All nan if a side is the same for all examples within rounding.

    Raises:
        ValueError: If `variance` is out of range, the examples do not match or are too few, a value is not
            finite, or the directions of a side can express anything, so that the result would always be 1.

    Source: Raghu et al. 2017, section 2 (SVCCA); Morcos et al. 2018, section 2.2 (PWCCA): the weight of the
        variate h is Σ_j |<h, x_j>| over the features x_j.
    """
    x, y = checked(x, y, least=3)
    if constant("examples", x=x, y=y):
        return CanonicalScores(*[math.nan] * 3)
    correlations, of_x, of_y = _canonical(x, y, variance)
    weighted = (float(_projection_weights(variates, rows) @ correlations) for variates, rows in ((of_x, x), (of_y, y)))
    return CanonicalScores(float(correlations.mean()), *weighted)


def svcca(
    x: Float[Tensor, "examples features"], y: Float[Tensor, "examples others"], *, variance: float = 0.99
) -> float:
    """Mean canonical correlation of the principal directions of x with those of y; see `canonical_scores`."""
    return canonical_scores(x, y, variance=variance).svcca


def pwcca(
    x: Float[Tensor, "examples features"], y: Float[Tensor, "examples others"], *, variance: float = 0.99
) -> float:
    """Mean canonical correlation of x with y, weighted by how much of x each correlated direction accounts for.

    `pwcca(y, x)` is another number; see `canonical_scores`, which has both.
    """
    return canonical_scores(x, y, variance=variance).pwcca


def _canonical(x: Tensor, y: Tensor, variance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Canonical correlations, falling, and the canonical variates of x and of y, (examples, variates), orthonormal."""
    bases = {"x": _principal(x, variance), "y": _principal(y, variance)}
    for name, basis in bases.items():
        if basis.shape[1] >= len(x) - 1:
            raise ValueError(
                f"{name}: its {basis.shape[1]} directions are all that {len(x)} examples can differ in, so that "
                f"every correlation is 1; more examples or a variance below {variance} would be right"
            )
    left, correlations, right = torch.linalg.svd(bases["x"].T @ bases["y"], full_matrices=False)
    return correlations.clamp(max=1), bases["x"] @ left, bases["y"] @ right.T


def _principal(rows: Tensor, variance: float) -> Float[Tensor, "examples directions"]:
    """Orthonormal scores of the examples in the fewest directions that hold the share of the variance."""
    if not 0 < variance <= 1:
        raise ValueError(f"variance={variance}: not a share of the variance; above 0 and at most 1 would be right")
    scores, values, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    held_from_here = values.square().flip(0).cumsum(0).flip(0)
    needed = held_from_here > (1 - variance) * held_from_here[0]
    # The root lets rows that are not constant keep a direction.
    return scores[:, needed & (values > ROUNDING * rows.norm() / math.sqrt(len(values)))]


def _projection_weights(variates: Float[Tensor, "examples variates"], rows: Tensor) -> Float[Tensor, " variates"]:
    weights = (variates.T @ (rows - rows.mean(0))).abs().sum(1)
    return weights / weights.sum()
