"""Canonical correlations of two representations of the same examples: SVCCA and PWCCA, in float64."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from xsub_utils._internal.validation import invalid
from xsub_utils.similarity.inputs import ROUNDING, checked, constant


class CanonicalScores(NamedTuple):
    """Mean canonical correlations of two representations, from one decomposition of each.

    Attributes:
        svcca: Every correlated direction has the same weight.
        pwcca: Every direction is weighted by how much of x it accounts for.
        pwcca_reversed: Every direction is weighted by how much of y it accounts for.
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
        variance: Share of each side's variance that its principal directions hold; 1 keeps all directions.

    Returns:
        Three numbers in [0, 1]; 1 for x and any rotation, scaling or shift of it. The means are over as many
        correlations as the side with fewer directions has. All nan, with a warning, if a side is the same for all
        examples within rounding.

    Raises:
        ValueError: If `variance` is out of range, the examples do not match or are too few, a value is not
            finite, or the directions of a side can express anything, so that the result would always be 1.

    Source: Raghu et al. 2017, section 2 (SVCCA); Morcos et al. 2018, section 2.2 (PWCCA): the weight of the
        variate h is Σ_j |<h, x_j>| over the features x_j.
    """
    x, y = checked(x, y, least=3)
    if constant("examples", x=x, y=y):
        return CanonicalScores(*[math.nan] * 3)
    correlations, variates_x, variates_y = _canonical(x, y, variance)
    sides = ((variates_x, x), (variates_y, y))
    weighted = (float(_projection_weights(variates, rows) @ correlations) for variates, rows in sides)
    return CanonicalScores(float(correlations.mean()), *weighted)


def svcca(
    x: Float[Tensor, "examples features"], y: Float[Tensor, "examples others"], *, variance: float = 0.99
) -> float:
    """Mean canonical correlation of the principal directions of x with those of y.

    Args:
        x, y, variance: As for `canonical_scores`.

    Returns:
        A number in [0, 1]; nan, with a warning, if a side is the same for all examples within rounding.

    Raises:
        ValueError: As `canonical_scores`.

    Source: Raghu et al. 2017, section 2.

    Example:
        >>> import xsub_utils as xs
        >>> import torch
        >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> y = 3 * x.flip(1) + 1  # another order of the features, another scale, a shift
        >>> round(xs.svcca(x, y), 3)
        1.0
    """
    return canonical_scores(x, y, variance=variance).svcca


def pwcca(
    x: Float[Tensor, "examples features"], y: Float[Tensor, "examples others"], *, variance: float = 0.99
) -> float:
    """Mean canonical correlation of x with y, weighted by how much of x each correlated direction accounts for.

    `pwcca(y, x)` is another number; `canonical_scores` has both.
    """
    return canonical_scores(x, y, variance=variance).pwcca


def _canonical(x: Tensor, y: Tensor, variance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Canonical correlations, falling, and the canonical variates of x and of y, (examples, variates), orthonormal."""
    bases = {"x": _principal(x, variance), "y": _principal(y, variance)}
    for name, basis in bases.items():
        if basis.shape[1] >= len(x) - 1:
            raise invalid(
                name,
                "fewer directions than the examples can differ in, or every correlation is 1",
                f"{basis.shape[1]} directions of {len(x)} examples",
                f"give more examples, or a variance below {variance}",
            )
    left, correlations, right = torch.linalg.svd(bases["x"].T @ bases["y"], full_matrices=False)
    return correlations.clamp(max=1), bases["x"] @ left, bases["y"] @ right.T


def _principal(rows: Tensor, variance: float) -> Float[Tensor, "examples directions"]:
    """Orthonormal scores of the examples in the fewest directions that hold the share of the variance."""
    if not 0 < variance <= 1:
        raise invalid("variance", "a share above 0 and at most 1", variance)
    scores, values, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    held_from_here = values.square().flip(0).cumsum(0).flip(0)
    needed = held_from_here > (1 - variance) * held_from_here[0]
    # The root lets rows that are not constant keep a direction.
    return scores[:, needed & (values > ROUNDING * rows.norm() / math.sqrt(len(values)))]


def _projection_weights(variates: Float[Tensor, "examples variates"], rows: Tensor) -> Float[Tensor, " variates"]:
    weights = (variates.T @ (rows - rows.mean(0))).abs().sum(1)
    return weights / weights.sum()
