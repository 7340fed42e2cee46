"""Training examples as a few large tensors, out of which batches are cut."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from xsub_utils._internal.validation import invalid
from xsub_utils.models.batches import IGNORED, make_batches, token_masker


class Rows(Dataset):
    """Training examples, tokenised once.

    Args:
        examples: In the columns of the kind, see `make_batches`.
        tokenizer: A transformers tokenizer.
        kind: "sequence", "token", "mlm", "clm" or "text2text".
        max_length: Longest input in sub-words.

    Attributes:
        tensors: Name -> values of all examples, padded to the longest.
        languages: Language of each example.
        lengths: Sub-words of each example.

    Raises:
        ValueError: As `make_batches`.
    """

    _uncut: tuple[str, ...] = ()  # what is not as long as the inputs

    def __init__(self, examples: pd.DataFrame, tokenizer: Any, kind: str, max_length: int) -> None:
        if kind == "mlm" and tokenizer.mask_token_id is None:
            raise invalid("tokenizer", "one with a mask token for kind 'mlm'", f"a {type(tokenizer).__name__} without")
        self._mask = token_masker(tokenizer) if kind == "mlm" else None
        unmasked = "text" if kind == "mlm" else kind
        (self.tensors,) = make_batches(
            examples, tokenizer, unmasked, batch_size=len(examples), max_length=max_length, bucket=False
        )
        self._uncut = ("labels",) if kind == "text2text" else ()
        self.languages = examples["language"].tolist()
        self.lengths = self.tensors["attention_mask"].sum(1).numpy()
        self._ids = self.tensors["input_ids"].numpy()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitems__(self, chosen: list[int]) -> dict[str, Tensor]:
        """One batch, no longer than its longest input; for masked language modelling, one token at least is masked."""
        longest = int(self.lengths[chosen].max())
        batch = {
            name: tensor[chosen] if tensor.ndim == 1 or name in self._uncut else tensor[chosen, :longest]
            for name, tensor in self.tensors.items()
        }
        if self._mask and (batch["labels"] == IGNORED).all():
            masked = self._mask(self._ids[chosen, :longest], np.random.default_rng(chosen))
            batch |= dict(zip(("input_ids", "labels"), map(torch.from_numpy, masked), strict=True))
        return batch

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Mask the texts anew for masked language modelling; other kinds stay as they are."""
        if self._mask:
            masked = self._mask(self._ids, rng)
            self.tensors |= dict(zip(("input_ids", "labels"), map(torch.from_numpy, masked), strict=True))
