"""What the folder of a training run holds: a record of what decides the run, and a checkpoint for each epoch."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xsub_utils._internal.io import write_json
from xsub_utils._internal.validation import invalid

RECORD = "finetuning.json"
RESUME = "_resume"  # what a run needs to go on, there until it is complete


def checkpoints(folder: str | Path) -> list[Path]:
    """Folders of the checkpoints of a training run, earliest first.

    Args:
        folder: Of a run of `finetune`, with `epoch-1`, `epoch-2`, …, or of transformers' Trainer, with
            `checkpoint-500`, `checkpoint-1000`, ….

    Returns:
        The folders in the order of their epochs or steps. `influence` takes them.

    Raises:
        FileNotFoundError: If there are none.

    Example:
        >>> from pathlib import Path
        >>> import xsub_utils as xs
        >>> for step in (20, 100):
        ...     Path(f"trainer/checkpoint-{step}").mkdir(parents=True)
        >>> [path.name for path in xs.checkpoints("trainer")]
        ['checkpoint-20', 'checkpoint-100']
    """
    numbered = numbered_folders(folder, "epoch") or numbered_folders(folder, "checkpoint")
    if not numbered:
        got = f"{str(folder)!r}, which {'holds none' if Path(folder).is_dir() else 'does not exist'}"
        remedy = "give the folder of a run of finetune or of transformers' Trainer"
        raise FileNotFoundError(str(invalid("folder", "one with epoch-1, … or checkpoint-500, …", got, remedy)))
    return list(numbered.values())


def numbered_folders(folder: str | Path, name: str) -> dict[int, Path]:
    """Number -> folder, of all folders called `name-number` in another one, smallest number first."""
    matches = ((re.fullmatch(rf"{name}-(\d+)", path.name), path) for path in Path(folder).glob(f"{name}-*"))
    return dict(sorted((int(match[1]), path) for match, path in matches if match and path.is_dir()))


def read_record(folder: str | Path) -> dict[str, Any]:
    """The record of a run of `finetune`.

    Raises:
        FileNotFoundError: If the folder is of no such run.
    """
    file = Path(folder) / RECORD
    if not file.is_file():
        got = f"{str(folder)!r}, which has no {RECORD}" if file.parent.is_dir() else f"no folder {str(folder)!r}"
        remedy = "load_encoder and influence take any folder that transformers can load"
        raise FileNotFoundError(str(invalid("folder", "the folder of a run of finetune", got, remedy)))
    return json.loads(file.read_text(encoding="utf-8"))


def is_complete(out: Path, record: Mapping[str, Any]) -> bool:
    """Whether a run is complete already.

    Args:
        out: Folder of the run.
        record: What decides it.

    Raises:
        ValueError: If the folder is not this run's to write: it is a file, holds something else or another run, or
            lies inside of a run.
    """
    if not (out / RECORD).is_file():
        _check_free(out)
        return False
    stored = read_record(out)
    complete = bool(stored.pop("epochs", None))
    if other := [key for key in {**stored, **record} if stored.get(key) != record.get(key)]:
        there, given = ({key: run.get(key) for key in other} for run in (stored, record))
        got = f"{str(out)!r}, which holds another run, with {there} instead of {given}"
        raise invalid("out", "a new folder, or that of this run", got, "choose a new folder")
    return complete


def finish(out: Path, record: Mapping[str, Any]) -> None:
    """Marks a run as complete, then drops what it would have needed to go on."""
    write_json(out / RECORD, {**record, "epochs": len(numbered_folders(out, "epoch"))})
    shutil.rmtree(out / RESUME, ignore_errors=True)


def _check_free(out: Path) -> None:
    """Raises unless a new run can have the folder for itself; hidden files do not count."""
    expected, remedy = "a new or an empty folder", "choose a new folder"
    if out.exists() and not out.is_dir():
        raise invalid("out", expected, f"the file {str(out)!r}", remedy)
    if outer := next((parent for parent in out.absolute().parents if (parent / RECORD).is_file()), None):
        raise invalid("out", expected, f"{str(out)!r}, which lies inside of the run {str(outer)!r}", remedy)
    if content := sorted(path.name for path in out.glob("*") if not path.name.startswith(".")):
        raise invalid("out", expected, f"{str(out)!r}, which holds {', '.join(content[:3])}", remedy)
