"""Fine-tuning of a ticket: all weights outside of a mask are zero, and stay zero."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from xsub_utils.data.tasks import Task
from xsub_utils.training.run import Encoder, Variant, ordinary, run
from xsub_utils.training.settings import Settings
from xsub_utils.weights.masks import WeightMask, check_weight_mask, mask_digest, require_weight_mask


def finetune_ticket(
    task: Task,
    encoder: Encoder,
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
        mask: Parameter name -> True where a weight is kept; parameters that are not named are kept in full. A ticket
            of `find_tickets` has it as `.mask`; from its file, `load_masks(path)[0]` reads it.

    Returns:
        `out`, as in `finetune`. In every checkpoint the weights outside of the mask are zero.

    Raises:
        ValueError: If the mask does not fit the model; and as in `finetune`.

    Source: Foroutan et al. 2022, section 3.

    Note:
        A weight that starts at zero and whose gradients are zero stays exactly zero in AdamW, moments and decay
        included; so it is the gradient that is masked, before it is clipped.

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.load_task("reviews", ["qaa"], sizes={"train": 4})
        >>> model, tokenizer = xs.load_encoder("minibabel-base", task.kind, labels=task.labels)
        >>> name = "roberta.encoder.layer.0.attention.self.query.weight"
        >>> mask = xs.largest({name: model.get_parameter(name)}, count=1000)
        >>> settings = xs.Settings(epochs=1, batch_size=4)
        >>> folder = xs.finetune_ticket(
        ...     task, (model, tokenizer), seed=0, out="run", mask=mask, settings=settings, progress=False
        ... )
        >>> int(xs.load_finetuned(folder)[0].get_parameter(name).count_nonzero())
        1000
    """
    require_weight_mask(mask)

    def variant(model: nn.Module) -> Variant:
        mask_permanently(model, mask)
        return ordinary(model)

    return run(
        task,
        encoder,
        seed=seed,
        out=out,
        languages=languages,
        settings=settings,
        progress=progress,
        variant=variant,
        further={"ticket": mask_digest(mask)},
    )


def mask_permanently(model: nn.Module, mask: WeightMask) -> None:
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
    """Hook that sets gradients to zero where nothing is kept; the mask follows them to their device."""
    dropped: dict[torch.device, Tensor] = {}

    def hook(gradient: Tensor) -> Tensor:
        if gradient.device not in dropped:
            dropped[gradient.device] = ~kept.to(gradient.device)
        return gradient.masked_fill(dropped[gradient.device], 0)

    return hook
