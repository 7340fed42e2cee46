"""How influence is computed: what stays the same from one call to the next."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from xsub_utils._internal.amounts import amount, check_seed
from xsub_utils._internal.validation import invalid, one_of, whole
from xsub_utils.gradients.capture import Loss, example_loss

_PARTS = ("encoder", "decoder", "cross")


@dataclass(frozen=True)
class InfluenceOptions:
    """Options of `influence`.

    Attributes:
        normalize: Whether scores are cosines of gradients, or their inner products.
        parameters: Which parameters count: groups such as "embeddings", "layer 3", "layer 3 attention", "head", or
            regular expressions for names; None for all: embeddings, norms, biases and tied weights included. Frozen
            ones (`requires_grad=False`) never count, as no step moves them, unless all are frozen.
        by_group: Whether the contributions of the groups of parameters are kept apart.
        loss: Logits and labels of a batch -> one loss per example; by default cross-entropy in nats, in the mean over
            the labels of an example.
        dtype: Of the gradients that are multiplied; `torch.bfloat16` halves memory, at an error of about 1e-3. None
            leaves them as the model computes them.
        projection: Entries that each side of a matrix is projected to, for many or long test examples; scores become
            estimates. None computes exact scores.
        rescore: With a projection, all training examples among these many highest or lowest of any test example
            are scored again, exactly.
        seed: Of the projection.
        memory: Bytes that the gradients of test examples and the pass of a training batch may take; test examples are
            done in as many turns as that needs. By default 4 GB, or on a GPU half of what is free.
        part: Whose heads the gates are of: "encoder" (also of a decoder that stands alone), "decoder" or "cross", as in
            `head_gates`.

    Raises:
        TypeError, ValueError: If an option is of another type or out of its range, or `rescore` is given without a
            projection.

    Example:
        >>> import xsub_utils as xs
        >>> options = xs.InfluenceOptions(normalize=False, projection=64, rescore=100)
        >>> options.projection, options.memory
        (64, None)
        >>> xs.InfluenceOptions(rescore=100)
        Traceback (most recent call last):
        ValueError: rescore: expected 0 without a projection, got 100; give projection too, such as 64
    """

    normalize: bool = True
    parameters: str | Sequence[str] | None = None
    by_group: bool = False
    loss: Loss = example_loss
    dtype: torch.dtype | None = None
    projection: int | None = None
    rescore: int = 0
    seed: int = 0
    memory: float | None = None
    part: str = "encoder"

    def __post_init__(self) -> None:
        if self.parameters is not None and not self.parameters:
            raise invalid("parameters", "at least one group or name", repr(self.parameters), "None stands for all")
        if not callable(self.loss):
            raise invalid("loss", "a function of logits and labels", repr(self.loss))
        if self.dtype is not None and not (isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point):
            raise invalid("dtype", "a type of real numbers, such as torch.bfloat16", repr(self.dtype))
        if self.projection is not None:
            whole("projection", self.projection, 1, remedy="it is a number of entries, such as 64, or None")
        whole("rescore", self.rescore, 0)
        check_seed(self.seed)
        if self.rescore and self.projection is None:
            raise invalid("rescore", "0 without a projection", self.rescore, "give projection too, such as 64")
        if self.memory is not None:
            amount("memory", self.memory, above=0)
        one_of("part", self.part, _PARTS)
