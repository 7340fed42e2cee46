"""What the folder of a training run holds: a record of what decides the run, and a checkpoint for each epoch."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xsub_utils._internal.validation import invalid
from xsub_utils._internal.whole import Listing, faults

RECORD = "finetuning.json"
RESUME = "_resume"  # what a run needs to go on, there until it is complete
PUBLISHED = "published.json"  # there: which epochs were written, and their files
LOGS = ("log.csv", "scores.csv")


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
    matches = (
        (re.fullmatch(rf"{name}-(\d+)", path.name), path) for path in Path(folder).expanduser().glob(f"{name}-*")
    )
    return dict(sorted((int(match[1]), path) for match, path in matches if match and path.is_dir()))


def read_record(folder: str | Path) -> dict[str, Any]:
    """The record of a run of `finetune`.

    Raises:
        FileNotFoundError: If the folder is of no such run.
        ValueError: If the record is damaged.
    """
    file = Path(folder).expanduser() / RECORD
    if not file.is_file():
        got = f"{str(folder)!r}, which has no {RECORD}" if file.parent.is_dir() else f"no folder {str(folder)!r}"
        remedy = "load_encoder and influence take any folder that transformers can load"
        raise FileNotFoundError(str(invalid("folder", "the folder of a run of finetune", got, remedy)))
    record = _read(file)
    if not record.keys() >= {"kind", "labels"}:
        got = f"{str(folder)!r}, whose {RECORD} is damaged"
        raise invalid("folder", "the folder of a run of finetune", got, "delete the folder and train again")
    return record


def published_in(out: Path) -> dict[str, Listing]:
    """Name of each epoch that an unfinished run has written -> the files of its folder, as they were written."""
    return _read(out / RESUME / PUBLISHED)


def has_begun(out: Path) -> bool:
    """Whether an epoch of a run was completed."""
    return (out / RESUME / PUBLISHED).exists() or bool(numbered_folders(out, "epoch"))


def is_complete(out: Path, record: Mapping[str, Any]) -> bool:
    """Whether a run is complete already, and all of it is there as it was written.

    Args:
        out: Folder of the run.
        record: What decides it.

    Raises:
        ValueError: If the folder is not this run's to write, as it holds something else or another run, or lies inside
            of a run; or if files of the complete run are damaged.
    """
    if not (out / RECORD).is_file():
        _check_free(out)
        return False
    stored = read_record(out)
    complete, files = bool(stored.pop("epochs", None)), stored.pop("files", {})
    other = [key for key in {**stored, **record} if stored.get(key) != record.get(key)]
    if other and (complete or has_begun(out)):
        there, given = ({key: run.get(key) for key in other} for run in (stored, record))
        got = f"{str(out)!r}, which holds another run, with {there} instead of {given}"
        raise invalid("out", "a new folder, or that of this run", got, "choose a new folder")
    if complete:
        check_files(out, files)
        shutil.rmtree(out / RESUME, ignore_errors=True)  # it may have been killed while it did that
    else:
        _check_own(out)
    return complete


def check_files(folder: str | Path, files: Listing, epoch: int | None = None) -> None:
    """Raises unless the files of a run are as they were written; epochs before the last may have been deleted.

    Args:
        folder: Of the run.
        files: As its record lists them.
        epoch: To check alone.

    Raises:
        ValueError: If one is not.
    """
    there = numbered_folders(folder, "epoch")
    deleted = {number for name in files if (number := _epoch_of(name)) and number not in there}
    deleted -= {max(map(_epoch_of, files), default=0)}
    chosen = {
        name: entry
        for name, entry in files.items()
        if _epoch_of(name) not in deleted and epoch in (None, _epoch_of(name))
    }
    if fault := next(faults(Path(folder), chosen), None):
        remedy = "put that file back, or delete the folder and train again"
        raise invalid(
            "out" if epoch is None else "folder", "a run as it was written", f"{str(folder)!r}: {fault}", remedy
        )


def _epoch_of(name: str) -> int:
    """Number of the epoch whose folder a file of a run lies in; 0 for none."""
    match = re.match(r"epoch-(\d+)/", name)
    return int(match[1]) if match else 0


def _read(file: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it is damaged or absent."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _check_free(out: Path) -> None:
    """Raises unless a new run can have the folder for itself; hidden files do not count."""
    expected, remedy = "a new or an empty folder", "choose a new folder"
    if outer := next((parent for parent in out.absolute().parents if (parent / RECORD).is_file()), None):
        raise invalid("out", expected, f"{str(out)!r}, which lies inside of the run {str(outer)!r}", remedy)
    if content := sorted(path.name for path in out.glob("*") if not path.name.startswith(".")):
        raise invalid("out", expected, f"{str(out)!r}, which holds {', '.join(content[:3])}", remedy)


def _check_own(out: Path) -> None:
    """Raises if a run would write over what it has not written itself."""
    published = published_in(out)
    logs = [] if published else [name for name in LOGS if (out / name).exists()]
    epochs = [path.name for path in numbered_folders(out, "epoch").values() if path.name not in published]
    if foreign := [*epochs, *logs]:
        got = f"{str(out)!r}, which holds {', '.join(foreign[:3])} of something else"
        raise invalid("out", "a new folder, or that of this run", got, "choose a new folder")
