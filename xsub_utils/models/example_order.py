"""Which example each row of a batch is, so that results come back in the order of the examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

Batch = Mapping[str, Tensor]


class NumberedBatch(dict[str, Tensor]):
    """A batch, a dict of tensors, that knows which example each of its rows is.

    Args:
        tensors: Name -> values of all examples of the batch.
        rows: Number of each example among those that the batches were made of, from 0.
        source: What all batches of the same examples have in common, and no others.
    """

    def __init__(self, tensors: Batch, rows: Int[Tensor, " examples"], source: object):
        super().__init__(tensors)
        self.rows, self.source = rows, source

    def __or__(self, other: Mapping[str, Any]) -> "NumberedBatch":  # type: ignore[override]
        return NumberedBatch({**self, **other}, self.rows, self.source)

    def __ror__(self, other: Mapping[str, Any]) -> "NumberedBatch":  # type: ignore[override]
        return NumberedBatch({**other, **self}, self.rows, self.source)

    def copy(self) -> "NumberedBatch":
        """A batch of the same tensors."""
        return self | {}

    def to(self, device: str | torch.device) -> "NumberedBatch":
        """The batch on a device."""
        return self | {name: values.to(device) for name, values in self.items()}


def length(batch: Batch) -> int:
    """Examples in a batch."""
    return len(next(iter(batch.values())))


def example_order(batches: Sequence[Batch]) -> Int[Tensor, " examples"]:
    """Where each example stands in the batches, for results that are to come in the order of the examples.

    Args:
        batches: In any order, also some of them only. Those without row numbers keep their order; examples of several
            calls of `make_batches` stay apart, in the order in which the first batch of each comes.

    Returns:
        Positions in the concatenation of the batches: `torch.cat(results)[example_order(batches)]` has the examples in
        their order; of an example that comes twice both stand side by side.
    """
    sources: dict[object, int] = {}
    rows = [_rows(batch) for batch in batches]
    span = 1 + max(int(numbers.max()) for numbers in rows)
    keys = []
    for place, (batch, numbers) in enumerate(zip(batches, rows, strict=True)):
        source = batch.source if isinstance(batch, NumberedBatch) else place
        keys.append(sources.setdefault(source, len(sources)) * span + numbers)
    return torch.cat(keys).argsort(stable=True)


def _rows(batch: Batch) -> Int[Tensor, " examples"]:
    return batch.rows if isinstance(batch, NumberedBatch) else torch.arange(length(batch))
