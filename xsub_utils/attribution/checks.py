"""What `influence` refuses, before anything is computed."""

from collections.abc import Mapping, Sequence
from math import isfinite
from numbers import Real
from typing import Any

from torch import Tensor

from xsub_utils._internal.validation import invalid
from xsub_utils.attribution.options import InfluenceOptions
from xsub_utils.gradients.capture import GATES, Loss
from xsub_utils.models.example_order import Batch, length


def check_gates(gates: Tensor | None, batches: Sequence[Batch]) -> None:
    """Makes sure that gates leave heads, and are not given twice.

    Raises:
        ValueError: If they do not, or are.
    """
    if gates is None:
        return
    if any(GATES in batch for batch in batches):
        raise invalid(
            "gates", "either one mask for all examples or one in each batch", "both", "leave one of the two out"
        )
    if not isinstance(gates, Tensor):
        raise invalid("gates", "a tensor of shape (layers, heads)", f"a {type(gates).__name__}")
    if gates.dim() != 2:
        raise invalid("gates", "the shape (layers, heads)", tuple(gates.shape))
    if not gates.isfinite().all():
        raise invalid("gates", "finite numbers", "nan or infinity")
    if not gates.any():
        raise invalid("gates", "at least one head that is kept", "none")


def check_numbers(
    checkpoints: Sequence[Any], test: Sequence[Batch], weights: Sequence[float] | None, test_groups: Sequence | None
) -> None:
    """Makes sure that there is a weight for each checkpoint and a group for each test example.

    Raises:
        ValueError: If not, or a weight is not finite.
    """
    if weights is not None and len(weights) != len(checkpoints):
        raise invalid("weights", f"one for each of {len(checkpoints)} checkpoints", len(weights))
    for weight in weights or ():
        if not isinstance(weight, Real) or not isfinite(weight):
            raise invalid("weights", "finite numbers, such as learning rates", repr(weight))
    examples = sum(map(length, test))
    if test_groups is not None and len(test_groups) != examples:
        raise invalid("test_groups", f"one label for each of {examples} test examples", len(test_groups))


def check_options(options: InfluenceOptions, weight_masks: Mapping | None, out: object) -> None:
    """Makes sure that options fit the other arguments.

    Raises:
        ValueError: If gradients are to be projected and masked, or stored scores would not tell the loss from others.
    """
    if not isinstance(options, InfluenceOptions):
        remedy = "write options=InfluenceOptions(…)"
        raise invalid("options", "InfluenceOptions", f"a {type(options).__name__}", remedy)
    if options.projection and weight_masks:
        raise invalid(
            "projection",
            "None together with weight_masks, which act on single weights",
            options.projection,
            "leave one of the two out",
        )
    if out is not None and not _is_named(options.loss):
        name = getattr(options.loss, "__qualname__", repr(options.loss))
        raise invalid("out", "a loss that is a function of a module", name, "nothing tells results of others apart")


def _is_named(loss: Loss) -> bool:
    return "<" not in getattr(loss, "__qualname__", "<no function>")
