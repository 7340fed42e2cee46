"""Retrieval of translations: which sentence of another language is nearest."""

import math
import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from xsub_utils.similarity.inputs import checked, constant


def retrieval_accuracy(
    x: Float[Tensor, "examples features"], y: Float[Tensor, "examples others"], *, k: int = 4, margin: bool = True
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
    x, y = checked(x, y, least=2, unit=True)
    if constant("examples", x=x, y=y):
        return math.nan
    scores = x @ y.T
    if margin:
        scores = scores / _neighbourhood(scores, k)
    found = scores.argmax(1) == torch.arange(len(x))
    return math.nan if scores.isnan().any() else float(found.double().mean())


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
