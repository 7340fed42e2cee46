"""Proponents and opponents of a prediction: the training examples with its highest and lowest scores."""

from collections.abc import Hashable, Sequence

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xsub_utils._internal.validation import invalid, whole


def top_shares(
    scores: Float[Tensor, "test train"], origins: Sequence[Hashable], *, count: int, lowest: bool = False
) -> pd.DataFrame:
    """Share of each origin, such as a language, among the strongest proponents of each test example.

    The share of a test example's own language is its in-language share.

    Args:
        scores: From `influence`.
        origins: One label for each training example.
        count: How many proponents to look at for each test example; 100 of 10,000 in the source.
        lowest: Look at opponents instead: the most negative scores.

    Returns:
        One row for each test example and a column for each origin, in order of first appearance; rows sum to 1. By
        chance a share is that of the origin among all training examples.

    Raises:
        ValueError: If the scores are not finite or not (test, train), there is not one label per training example, or
            `count` is below 1 or above their number.

    Source: Choenni et al. 2023, section 4; Choenni et al. 2024, section 4.

    Example:
        >>> import torch
        >>> import xsub_utils as xs
        >>> scores = torch.tensor([[0.9, 0.1, 0.5, -0.2], [0.0, 0.3, -0.1, 0.8]])  # two test, four training examples
        >>> xs.top_shares(scores, ["de", "de", "sw", "sw"], count=2)
            de   sw
        0  0.5  0.5
        1  0.5  0.5
    """
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise invalid("scores", "a tensor of shape (test, train), as from influence", got)
    if not scores.isfinite().all():
        raise invalid("scores", "finite numbers", "nan or infinity", "an order would mean nothing")
    examples = scores.shape[1]
    if len(origins) != examples:
        raise invalid("origins", f"one label for each of {examples} training examples", len(origins))
    whole("count", count, 1, examples, f"there are {examples} training examples")
    labels = list(dict.fromkeys(origins))
    codes = torch.tensor([labels.index(origin) for origin in origins])
    proponents = codes[top_examples(scores, count=count, lowest=lowest)]
    counts = torch.nn.functional.one_hot(proponents, len(labels)).sum(1)
    return pd.DataFrame((counts.double() / count).numpy(), columns=labels)


def top_examples(scores: Float[Tensor, "test train"], *, count: int, lowest: bool = False) -> Int[Tensor, "test count"]:
    """Indices of the strongest proponents of each test example, or of its strongest opponents.

    Args:
        scores: From `influence`.
        count: How many.
        lowest: Opponents, which have the lowest scores, instead of proponents, which have the highest.

    Returns:
        (test, count); the strongest first, of equal ones the first in the order of the training examples.
    """
    return scores.cpu().argsort(dim=1, descending=not lowest, stable=True)[:, :count]
