"""Training that has diverged stops at once: a loss or a weight that is no finite number."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from transformers import TrainerState

from xsub_utils._internal.validation import invalid
from xsub_utils.models.batches import IGNORED
from xsub_utils.training.folders import numbered_folders

REMEDY = "lower lr, raise warmup, or take precision 'fp32'; an encoder may also hold nan itself"


def check_loss(loss: Tensor, inputs: Mapping[str, Tensor], out: Path, state: TrainerState) -> None:
    """Raises unless the loss of a step is finite.

    Args:
        loss: Mean over the batch.
        inputs: The batch, with its labels.
        out: Folder of the run.
        state: How far the training has come.

    Raises:
        ValueError: If not; names the step and the last checkpoint.
    """
    if loss.isfinite().all():
        return
    remedy = REMEDY
    if (inputs["labels"] == IGNORED).all():
        remedy = "no label of this batch counts: raise batch_size or max_length, or leave such examples out"
    got = f"{loss.mean().item()} in step {state.global_step + 1} of {state.max_steps}, {_reached(out)}"
    raise invalid("loss", "a finite number", got, remedy)


def check_weights(model: nn.Module, out: Path, state: TrainerState) -> None:
    """Raises unless all weights are finite after an epoch, whose last step had no further loss.

    Raises:
        ValueError: If not; names the first, the step and the last checkpoint.
    """
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            got = f"nan or infinity in {name!r} after step {state.global_step} of {state.max_steps}, {_reached(out)}"
            raise invalid("weights", "finite numbers", got, REMEDY)


def _reached(out: Path) -> str:
    epochs = numbered_folders(out, "epoch")
    return f"the last checkpoint is {str(epochs[max(epochs)])!r}" if epochs else "before the first checkpoint"
