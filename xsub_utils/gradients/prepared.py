"""A model made ready for gradients of single examples: in evaluation mode, frozen, heads and weights masked."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from xsub_utils.heads.gates import head_gates
from xsub_utils.heads.removal import remove_heads, removes_like_masking
from xsub_utils.models.architectures import attentions_of, check_shape
from xsub_utils.models.modes import eval_mode, frozen
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
        if gates is not None:
            check_shape("gates", gates, attentions_of(model, part))
        whole_heads = gates is not None and gates.dtype == torch.bool and part == "encoder" and not weight_masks
        if gates is not None and whole_heads and removes_like_masking(model, gates):
            model = remove_heads(model, gates, share=True)
        elif gates is not None:
            stack.enter_context(head_gates(model, gates, part=part))
        stack.enter_context(frozen(model))
        yield model
