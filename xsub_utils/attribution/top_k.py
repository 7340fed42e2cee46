"""Where the training examples come from that speak most for, or most against, a prediction."""

from collections.abc import Hashable, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor


def top_shares(
    scores: Float[Tensor, "test train"], origins: Sequence[Hashable], *, count: int, lowest: bool = False
) -> pd.DataFrame:
    """Share of each origin, such as a language, among the training examples with the highest scores.

    Args:
        scores: From `influence`.
        origins: One label for each training example.
        count: How many examples to look at for each test example; 100 of 10,000 in the source.
        lowest: Look at the most negative scores instead.

    Returns:
        One row for each test example and a column for each origin, in order of first appearance; rows sum to 1. By
        chance a share is that of the origin among all training examples.

    Raises:
        ValueError: If there is not one label per training example, or `count` is below 1 or above their number.

    Source: Choenni et al. 2023, section 4; Choenni et al. 2024, section 4.
    """
    if len(origins) != scores.shape[1]:
        raise ValueError(f"origins: {len(origins)} labels for {scores.shape[1]} training examples; one each is needed")
    if not 1 <= count <= scores.shape[1]:
        raise ValueError(f"count={count}: between 1 and the {scores.shape[1]} training examples would be right")
    labels = list(dict.fromkeys(origins))
    codes = torch.tensor([labels.index(origin) for origin in origins])
    chosen = codes[top_examples(scores, count=count, lowest=lowest)]
    counts = torch.nn.functional.one_hot(chosen, len(labels)).sum(1)
    return pd.DataFrame((counts.double() / count).numpy(), columns=labels)


def top_examples(scores: Float[Tensor, "test train"], *, count: int, lowest: bool = False) -> Tensor:
    """Indices (test, count) of the training examples with the highest or lowest scores; of equal ones the first."""
    return scores.cpu().argsort(dim=1, descending=not lowest, stable=True)[:, :count]
