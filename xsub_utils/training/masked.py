"""Fine-tuning of a ticket: all weights outside of a mask are zero, and stay zero."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from xsub_utils.data.tasks import Task
from xsub_utils.training.finetune import Ways, ordinary, run
from xsub_utils.training.settings import Settings
from xsub_utils.weights.masks import WeightMask, check_weight_mask, mask_digest, require_weight_mask


def finetune_ticket(
    task: Task,
    encoder: str | Path | tuple[nn.Module, object],
    *,
    seed: int,
    out: str | Path,
    mask: WeightMask,
    languages: str | Sequence[str] | None = None,
    settings: Settings | None = None,
    progress: bool = True,
) -> Path:
    """Folder of an encoder fine-tuned on a task with all weights outside of a mask at zero, from start to end.

    All else is as in `finetune`: the same initial values, rewound for each mask, the same head, data, order and steps.

    Args:
        task, encoder, seed, out, languages, settings, progress: As in `finetune`.
        mask: Parameter name → True where a weight is kept; parameters that are not named are kept whole.

    Raises:
        ValueError: If the mask does not fit the model; and as in `finetune`.

    Source: Foroutan et al. 2022, section 3.

    Note:
        A weight that starts at zero and whose gradients are zero stays exactly zero in AdamW, moments and decay
        included; so it is the gradient that is masked, before it is clipped.
    """

    require_weight_mask(mask)

    def ways(model: nn.Module) -> Ways:
        masked(model, mask)
        return ordinary(model)

    return run(task, encoder, seed, out, languages, settings, progress, ways, {"ticket": mask_digest(mask)})


def masked(model: nn.Module, mask: WeightMask) -> None:
    """Sets the weights that are not kept to zero, and lets no gradient reach them from now on.

    Raises:
        ValueError: If the mask does not fit the model.
    """
    parameters = check_weight_mask(model, mask)
    for name, kept in mask.items():
        with torch.no_grad():
            parameters[name].masked_fill_(~kept.to(parameters[name].device), 0)
        parameters[name].register_hook(_without(kept))


def _without(kept: Tensor) -> Callable[[Tensor], Tensor]:
    """Hook that takes gradients where nothing is kept away; the mask follows them to their device."""
    on: dict[torch.device, Tensor] = {}

    def hook(gradient: Tensor) -> Tensor:
        if gradient.device not in on:
            on[gradient.device] = ~kept.to(gradient.device)
        return gradient.masked_fill(on[gradient.device], 0)

    return hook
