"""Retrieval of translations: which sentence of another language is nearest."""

import math
import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from xsub_utils._internal.validation import invalid
from xsub_utils.similarity.inputs import checked, constant


def retrieval_accuracy(
    x: Float[Tensor, "examples features"], y: Float[Tensor, "examples others"], *, k: int = 4, margin: bool = True
) -> float:
    """Share of the rows of x that find their own translation, the same row of y, first among all of y.

    Args:
        x, y: Representations of parallel sentences in one space. A sentence that occurs twice competes with
            itself.
        k: Number of nearest neighbours on the other side whose cosines the margin averages; at most all of them.
        margin: Whether the score of a pair is its cosine divided by the mean cosine of both rows to their nearest
            neighbours, so that rows near to everything do not win. False takes the cosine alone.

    Returns:
        A share in [0, 1]; 1 / examples by chance. Nan, with a warning, if a side is the same for all examples within
        rounding, or if neighbours point away from each other, so that a ratio means nothing.

    Raises:
        ValueError: If `k` is not positive, the numbers of features differ, the examples do not match or are fewer
            than two, a value is not finite, or an example is all zero, which has no cosine.

    Source: Artetxe & Schwenk 2019, section 3.1 (ratio margin), with all of y as candidates; top 1, as in
        Foroutan et al. 2022, section 5.

    Example:
        >>> import xsub_utils as xs
        >>> import torch
        >>> x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
        >>> xs.retrieval_accuracy(x, 2 * x), xs.retrieval_accuracy(x, x.roll(1, 0))
        (1.0, 0.0)
    """
    if k < 1:
        raise invalid("k", "at least 1 neighbour", k)
    x, y = checked(x, y, least=2, unit=True)
    if x.shape[1] != y.shape[1]:
        raise invalid("x, y", "as many features of both, or there is no cosine", f"{x.shape[1]} and {y.shape[1]}")
    if constant("examples", x=x, y=y):
        return math.nan
    scores = x @ y.T
    if margin:
        scores = scores / _neighbourhood(scores, k)
    hits = scores.argmax(1) == torch.arange(len(x))
    return math.nan if scores.isnan().any() else float(hits.double().mean())


def _neighbourhood(cosines: Float[Tensor, "examples examples"], k: int) -> Float[Tensor, "examples examples"]:
    """Mean cosine of both rows of a pair to their nearest neighbours; nan if that is not positive for all."""
    k = min(k, len(cosines))
    means_x, means_y = cosines.topk(k, 1).values.mean(1), cosines.topk(k, 0).values.mean(0)
    means = (means_x.unsqueeze(1) + means_y) / 2
    if means.min() > 0:
        return means
    warnings.warn(
        "x, y: neighbours point away from each other, so that the margin is nan; margin=False needs no ratio",
        RuntimeWarning,
        stacklevel=3,
    )
    return torch.full_like(means, math.nan)
