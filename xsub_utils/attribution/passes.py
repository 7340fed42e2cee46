"""One checkpoint: the gradients of test examples are kept, as many as memory holds; training examples pass by."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xsub_utils.attribution.projection import Projection
from xsub_utils.gradients.capture import Capture, Loss, verify
from xsub_utils.gradients.factors import Outer, Part, inner, joined
from xsub_utils.gradients.parameter_groups import chosen_parameters, in_order

Batch = Mapping[str, Tensor]
ALL = "all"
SHARD = 16  # batches of training examples between two saves
AT_ONCE = 64  # test examples in a backward pass


@dataclass(frozen=True)
class Options:
    """What is the same at all checkpoints; see `influence`."""

    loss: Loss
    normalize: bool
    parameters: str | Sequence[str] | None
    by_group: bool
    weight_masks: Mapping[str, Tensor]
    test_groups: tuple | None
    dtype: torch.dtype | None
    projection: Projection | None
    memory: float
    out: Path | None


class Checkpoint:
    """Gradients of one prepared model, in the forms that cost least, and their inner products."""

    def __init__(self, model: nn.Module, options: Options, trained: Set[str]):
        """`trained` are the parameters that were not frozen when the model was given."""
        self.options = options
        chosen = {
            name: group for name, group in chosen_parameters(model, options.parameters).items() if name in trained
        }
        self.groups = in_order(chosen) if options.by_group else (ALL,)
        self.place = {name: self.groups.index(group) if options.by_group else 0 for name, group in chosen.items()}
        named = {id(value): name for name, value in model.named_parameters() if name in chosen}
        self.capture = Capture(model, named)
        self.buffer: Tensor | None = None
        self.written: Set[str] = frozenset()

    def choose_forms(self, test: Batch, train: Batch) -> tuple[int, int]:
        """Decides which matrices are written out, by the longest test batch and the largest training batch.

        Returns:
            Bytes of the gradients of a test example; and about what the backward pass of the training batch takes
            beside the model, with its largest matrix written out.
        """
        tested, trained = self._of(longest_example(test)), self._of(longest_example(train))
        outer = {name: part for name, part in tested.items() if isinstance(part, Outer)}
        self.written = {name for name, part in outer.items() if self._is_written(name, part)}
        kept = sum(self._formed(name, part).size for name, part in tested.items())
        matrices = [trained[name] for name in self.written & trained.keys()]
        sizes = [part.rows.shape[2] * part.columns.shape[2] * part.rows.element_size() for part in matrices]
        return kept, length(train) * (3 * sum(part.size for part in trained.values()) + max(sizes, default=0))

    def verify(self, test: Batch) -> None:
        """Checks the gradients of the first examples of a batch against autograd."""
        verify(self.capture, sliced(test, 0, 4), self.options.loss)

    def _of(self, example: Batch) -> dict[str, Part]:
        found: dict[str, Part] = {}
        with self.capture.hooked():
            self.capture.gradients(example, self.options.loss, found.__setitem__)
        return found

    def _is_written(self, name: str, part: Outer) -> bool:
        options = self.options
        forced = options.test_groups is not None or name in options.weight_masks or options.projection is not None
        return forced or not part.is_smaller(part.rows.shape[1])

    def _formed(self, name: str, part: Part, buffered: bool = False) -> Part:
        """The gradients of a parameter as they are multiplied."""
        if self.options.dtype is not None:
            part = part.to(self.options.dtype)
        if self.options.projection:
            part = self.options.projection(name, part)
        if isinstance(part, Outer) and name in self.written:
            part = part.written_out(self._space(part) if buffered else None)
        mask = self.options.weight_masks.get(name)
        return part if mask is None else part.masked(mask.to(part.values.device))

    def _space(self, part: Outer) -> Tensor:
        """Memory for a batch of matrices, used again and again: new pages cost more than the products."""
        entries, width = len(part), part.rows.shape[2] * part.columns.shape[2]
        if self.buffer is None or len(self.buffer) < entries * width:
            self.buffer = part.rows.new_empty(entries * width)
        return self.buffer[: entries * width].view(entries, width)

    def test_side(self, batches: Iterator[Batch]) -> tuple[dict[str, Part], Float[Tensor, " examples"]]:
        """Gradients of test examples, and their norms."""
        found, squares = defaultdict(list), []
        with self.capture.hooked():
            for batch in batches:
                squares.append(0.0)

                def keep(name: str, part: Part) -> None:
                    found[name].append(self._formed(name, part))
                    squares[-1] = squares[-1] + found[name][-1].squared_norms()

                self.capture.gradients(batch, self.options.loss, keep)
        return {name: joined(found.pop(name)) for name in list(found)}, torch.cat(squares).sqrt()

    def scores(self, batch: Batch, test: Mapping[str, Part], norms: Tensor) -> Float[Tensor, "groups train test"]:
        """Inner products, or cosines, of the gradients of training examples with those of the test side."""
        block, squares = norms.new_zeros(len(self.groups), length(batch), len(norms)), norms.new_zeros(length(batch))

        def multiply(name: str, part: Part) -> None:
            part = self._formed(name, part, buffered=True)
            squares.add_(part.squared_norms())
            if name in test:
                block[self.place[name]] += inner(part, test[name])

        with self.capture.hooked():
            self.capture.gradients(batch, self.options.loss, multiply)
        return divided(block, squares.sqrt()[:, None] * norms) if self.options.normalize else block


def divided(values: Tensor, norms: Tensor) -> Tensor:
    """Quotients, 0 where a norm is 0."""
    return torch.where(norms > 0, values / norms, 0)


def length(batch: Batch) -> int:
    """Examples in a batch."""
    return len(next(iter(batch.values())))


def sliced(batch: Batch, start: int, stop: int) -> dict[str, Tensor]:
    """Some examples of a batch."""
    return {name: values[start:stop] for name, values in batch.items()}


def longest_example(batch: Batch) -> dict[str, Tensor]:
    """The example of a batch with the fewest padded positions."""
    used = batch.get("attention_mask")
    place = 0 if used is None else int(used.flatten(1).sum(1).argmax())
    return sliced(batch, place, place + 1)


def taken(batches: Sequence[Batch], start: int, stop: int, most: int = AT_ONCE) -> Iterator[dict[str, Tensor]]:
    """Examples `start` to `stop` of all batches in a row, in batches of at most `most`."""
    first = 0
    for batch in batches:
        low, high = max(start - first, 0), min(stop - first, length(batch))
        yield from (sliced(batch, one, min(one + most, high)) for one in range(low, high, most))
        first += length(batch)
