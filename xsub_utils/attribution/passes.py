"""One checkpoint: the gradients of test examples are kept, as many as memory holds; training examples pass by."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xsub_utils._internal.validation import invalid
from xsub_utils.attribution.options import InfluenceOptions
from xsub_utils.attribution.projection import Projection
from xsub_utils.attribution.slices import longest_example, sliced
from xsub_utils.gradients.capture import Capture
from xsub_utils.gradients.factors import FactoredGradients, Outer, inner, joined
from xsub_utils.gradients.parameter_groups import chosen_parameters, in_order
from xsub_utils.gradients.verification import verify
from xsub_utils.models.example_order import Batch, length

ALL = "all"
Gradients = Mapping[str, FactoredGradients]  # by the name of a parameter


class CheckpointPass:
    """Gradients of one prepared model, in the forms that cost least, and their inner products.

    Args:
        model: As `gradients.prepared` gives it.
        options: Of `influence`.
        trained: Names of the parameters that were not frozen when the model was given.
        weight_masks: Parameter name -> True where a weight is kept.
        grouped: Whether the gradients of test examples are averaged in groups.
        projection: Of the gradients, if there is to be one.
    """

    def __init__(
        self,
        model: nn.Module,
        options: InfluenceOptions,
        *,
        trained: Set[str],
        weight_masks: Mapping[str, Tensor],
        grouped: bool,
        projection: Projection | None,
    ):
        self.options, self.weight_masks, self.grouped, self.projection = options, weight_masks, grouped, projection
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
        tested, trained = self._gradients_of(longest_example(test)), self._gradients_of(longest_example(train))
        outer = {name: gradients for name, gradients in tested.items() if isinstance(gradients, Outer)}
        self.written = {name for name, gradients in outer.items() if self._is_written(name, gradients)}
        kept = sum(self._formed(name, gradients).size for name, gradients in tested.items())
        passing = sum(gradients.size for gradients in trained.values())
        return kept, length(train) * (3 * passing + max(map(self._written_size, trained, trained.values()), default=0))

    def verify(self, test: Batch) -> None:
        """Checks the gradients of the first examples of a batch against autograd."""
        verify(self.capture, sliced(test, 0, 4), self.options.loss)

    def _gradients_of(self, example: Batch) -> dict[str, FactoredGradients]:
        gradients: dict[str, FactoredGradients] = {}
        with self.capture.hooked():
            self.capture.gradients(example, self.options.loss, gradients.__setitem__)
        return gradients

    def _is_written(self, name: str, gradients: Outer) -> bool:
        forced = self.grouped or name in self.weight_masks or self.projection is not None
        return forced or not gradients.is_smaller(gradients.rows.shape[1])

    def _written_size(self, name: str, gradients: FactoredGradients) -> int:
        """Bytes of an example's matrix, if it is written out."""
        if not (isinstance(gradients, Outer) and name in self.written):
            return 0
        return gradients.rows.shape[2] * gradients.columns.shape[2] * gradients.rows.element_size()

    def _formed(self, name: str, gradients: FactoredGradients, buffered: bool = False) -> FactoredGradients:
        """The gradients of a parameter as they are multiplied."""
        if self.options.dtype is not None:
            gradients = gradients.to(self.options.dtype)
        if self.projection:
            gradients = self.projection(name, gradients)
        if isinstance(gradients, Outer) and name in self.written:
            gradients = gradients.written_out(self._space(gradients) if buffered else None)
        mask = self.weight_masks.get(name)
        return gradients if mask is None else gradients.masked(mask)

    def _space(self, gradients: Outer) -> Tensor:
        """Memory for a batch of matrices, used again and again: new pages cost more than the products."""
        entries, width = len(gradients), gradients.rows.shape[2] * gradients.columns.shape[2]
        if self.buffer is None or len(self.buffer) < entries * width:
            self.buffer = gradients.rows.new_empty(entries * width)
        return self.buffer[: entries * width].view(entries, width)

    def test_side(self, batches: Iterable[Batch]) -> tuple[dict[str, FactoredGradients], Float[Tensor, " examples"]]:
        """Gradients of test examples, and their norms."""
        by_name: dict[str, list[FactoredGradients]] = defaultdict(list)
        squares: list[Tensor] = []
        with self.capture.hooked():
            for batch in batches:
                squares.append(torch.zeros(length(batch), device=next(iter(batch.values())).device))

                def keep(name: str, gradients: FactoredGradients) -> None:
                    by_name[name].append(self._formed(name, gradients))
                    squares[-1] = squares[-1] + by_name[name][-1].squared_norms()

                self.capture.gradients(batch, self.options.loss, keep)
        norms = torch.cat([_finite(of_batch, "test") for of_batch in squares]).sqrt()
        return {name: joined(by_name.pop(name)) for name in list(by_name)}, norms

    def scores(self, batch: Batch, test: Gradients, norms: Tensor) -> Float[Tensor, "groups train test"]:
        """Inner products, or cosines, of the gradients of training examples with those of the test side."""
        block, squares = norms.new_zeros(len(self.groups), length(batch), len(norms)), norms.new_zeros(length(batch))

        def multiply(name: str, gradients: FactoredGradients) -> None:
            gradients = self._formed(name, gradients, buffered=True)
            squares.add_(gradients.squared_norms())
            if name in test:
                block[self.place[name]] += inner(gradients, test[name])

        with self.capture.hooked():
            self.capture.gradients(batch, self.options.loss, multiply)
        norms_of_batch = _finite(squares, "train").sqrt()
        return divided(block, norms_of_batch[:, None] * norms) if self.options.normalize else block


def divided(values: Tensor, norms: Tensor) -> Tensor:
    """Quotients, 0 where a norm is 0."""
    return torch.where(norms > 0, values / norms, 0)


def _finite(squares: Float[Tensor, " examples"], side: str) -> Tensor:
    """The squared norms of gradients, if all are finite."""
    if not squares.isfinite().all():
        example = int((~squares.isfinite()).nonzero()[0])
        got = f"nan or infinity in example {example} of a batch"
        raise invalid(side, "finite gradients", got, "did the training of this model diverge, or float16 overflow?")
    return squares
