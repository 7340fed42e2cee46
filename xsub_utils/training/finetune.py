"""Fine-tuning of an encoder on a task, jointly over its languages or on some, with a checkpoint per epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from xsub_utils._internal.validation import invalid
from xsub_utils.data.schema import LABELLED
from xsub_utils.data.tasks import Task
from xsub_utils.models.encoders import load_encoder
from xsub_utils.training.folders import check_files, numbered_folders, read_record
from xsub_utils.training.folders import checkpoints as checkpoints
from xsub_utils.training.run import Encoder, run
from xsub_utils.training.settings import Settings


def finetune(
    task: Task,
    encoder: Encoder,
    *,
    seed: int,
    out: str | Path,
    languages: str | Sequence[str] | None = None,
    settings: Settings | None = None,
    progress: bool = True,
) -> Path:
    """Folder of an encoder fine-tuned on a task, with one loadable checkpoint per epoch.

    A run that was killed goes on after its last complete epoch when it is called again with the same arguments, and
    ends with the same weights as if nothing had happened; checkpoints that are damaged are passed over. A complete run
    is left as it is, once its files are found as they were written.

    Args:
        task: A built-in task or one of your own, of any kind but "text". Its split "train" is learnt; its split
            "validation", if it has one, is scored after each epoch, for the learning curves and `patience`.
        encoder: As for `load_encoder` (hub id, folder or shipped name), or a pair of a model and its tokenizer, which
            stay as they are. A folder is known by its files: it may be moved, but not exchanged between two calls.
        seed: Decides the weights of a new head, the order of the examples, dropout and masking.
        out: Folder to write, which belongs to this run alone: a new or empty one, or that of the same run. One process
            at a time writes there.
        languages: To train on; by default all of the task, jointly. All are scored.
        settings: By default `preset("minibabel", task)`, for small encoders.
        progress: Show a bar on stderr.

    Returns:
        `out`, with `epoch-1`, `epoch-2`, … (model and tokenizer, see `checkpoints` and `load_finetuned`),
        `log.csv` (step, epoch, loss in nats, lr), `scores.csv` (epoch, language, score on the validation split) and
        `finetuning.json`, the record of what decided the run.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there is nothing to learn, a language is not in the task or has no examples, the model has no
            head for the task or one with other classes, `out` holds something else, or another process trains there.
            Nothing is written then. Also if the loss or a weight is no finite number any more, or files of the complete
            run are damaged.
        FileNotFoundError: If there is no such encoder.
        StoreError: If the disk is full or not writable.

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.load_task("reviews", ["qaa", "qba"], sizes={"train": 4, "validation": 2})
        >>> settings = xs.Settings(epochs=1, batch_size=4)
        >>> folder = xs.finetune(task, "minibabel-base", seed=0, out="run", settings=settings, progress=False)
        >>> sorted(path.name for path in folder.iterdir())
        ['epoch-1', 'finetuning.json', 'log.csv', 'scores.csv']
    """
    return run(task, encoder, seed=seed, out=out, languages=languages, settings=settings, progress=progress)


def load_finetuned(folder: str | Path, epoch: int | None = None) -> tuple[nn.Module, Any]:
    """The model and its tokenizer after an epoch of fine-tuning.

    Args:
        folder: From `finetune`, `sparse_finetune` or `finetune_ticket`, or the `folder` of a ticket. For any other
            folder that transformers can load there is `load_encoder`; `influence` takes it as it is.
        epoch: Number of the epoch, from 1; the last by default.

    Returns:
        The model, in eval mode on the CPU, and the tokenizer.

    Raises:
        FileNotFoundError: If the folder is of no such run, or the run has no checkpoints yet.
        ValueError: If the run is not complete and no epoch is named, there is no such epoch, or its files are not as
            they were written.

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.load_task("reviews", ["qaa"], sizes={"train": 4})
        >>> settings = xs.Settings(epochs=1, batch_size=4)
        >>> folder = xs.finetune(task, "minibabel-base", seed=0, out="run", settings=settings, progress=False)
        >>> model, tokenizer = xs.load_finetuned(folder)
        >>> model.config.id2label
        {0: 'negative', 1: 'positive'}
    """
    record = read_record(folder)
    checkpoints(folder)
    epochs = numbered_folders(folder, "epoch")
    if epoch is None and not record.get("epochs"):
        got = f"{str(folder)!r}, which was interrupted after epoch {max(epochs)}"
        remedy = "the same call of finetune goes on with it; epoch= takes a checkpoint of it"
        raise invalid("folder", "a complete run", got, remedy)
    chosen = max(epochs) if epoch is None else epoch
    if chosen not in epochs:
        raise invalid("epoch", f"one of {', '.join(map(str, epochs))}, which {str(folder)!r} holds", epoch)
    check_files(folder, record.get("files", {}), chosen)
    labels = record["labels"] if record["kind"] in LABELLED else None
    return load_encoder(epochs[chosen], record["kind"], labels)
