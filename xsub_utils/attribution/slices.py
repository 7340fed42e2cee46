"""Examples out of batches: some of one, those between two numbers, those that a mask chooses."""

from collections.abc import Iterator, Sequence

from jaxtyping import Bool
from torch import Tensor, nn

from xsub_utils.models.example_order import Batch, length


def sliced(batch: Batch, start: int, stop: int) -> Batch:
    """Examples `start` to `stop` of a batch."""
    return {name: values[start:stop] for name, values in batch.items()}


def longest_example(batch: Batch) -> Batch:
    """The example of a batch with the fewest padded positions."""
    used = batch.get("attention_mask")
    place = 0 if used is None else int(used.flatten(1).sum(1).argmax())
    return sliced(batch, place, place + 1)


def examples_between(batches: Sequence[Batch], start: int, stop: int, most: int) -> Iterator[Batch]:
    """Examples `start` to `stop` of all batches in a row, in batches of at most `most`."""
    first = 0
    for batch in batches:
        low, high = max(start - first, 0), min(stop - first, length(batch))
        yield from (sliced(batch, place, min(place + most, high)) for place in range(low, high, most))
        first += length(batch)


def chosen_examples(batches: Sequence[Batch], chosen: Bool[Tensor, " examples"]) -> list[Batch]:
    """The chosen examples, batch by batch."""
    first, smaller = 0, list[Batch]()
    for batch in batches:
        kept = chosen[first : first + length(batch)].nonzero().flatten()
        first += length(batch)
        if len(kept):
            smaller.append({name: values[kept.to(values.device)] for name, values in batch.items()})
    return smaller


def on_device_of(model: nn.Module, batches: Sequence[Batch]) -> list[Batch]:
    """The batches where the parameters of a model are."""
    device = next(model.parameters()).device
    return [{name: values.to(device) for name, values in batch.items()} for batch in batches]
