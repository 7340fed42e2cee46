"""A model made ready for gradients of single examples: in evaluation mode, frozen, heads and weights masked."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from xsub_utils.evaluation.scores import eval_mode
from xsub_utils.heads.gates import head_gates
from xsub_utils.heads.removal import remove_heads
from xsub_utils.models.architectures import REMOVABLE
from xsub_utils.weights.masks import check_weight_mask, masked_weights


@contextmanager
def prepared(
    model: nn.Module, gates: Tensor | None, weight_masks: Mapping[str, Tensor], part: str
) -> Iterator[nn.Module]:
    """The model in evaluation mode and without gradients of its own, heads and weights masked; restored afterwards.

    Where only whole heads are masked, they are cut out of a copy: their gradients are zero, so the scores are the same.
    """
    with ExitStack() as stack:
        stack.enter_context(eval_mode(model))
        check_weight_mask(model, weight_masks, "weight_masks")
        stack.enter_context(masked_weights(model, weight_masks))
        removable = getattr(getattr(model, "config", None), "model_type", None) in REMOVABLE
        if gates is not None and gates.dtype == torch.bool and part == "encoder" and removable and not weight_masks:
            model = remove_heads(model, gates, share=True)
        elif gates is not None:
            stack.enter_context(head_gates(model, gates, part=part))
        stack.enter_context(_frozen(model))
        yield model


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    required = [(value, value.requires_grad) for value in model.parameters()]
    try:
        model.requires_grad_(False)
        yield
    finally:
        for value, was in required:
            value.requires_grad_(was)
