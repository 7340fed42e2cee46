"""A run's folder while it is being written: by one process at a time, and nobody's again if nothing came of it."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from xsub_utils._internal.io import explained, write_json
from xsub_utils._internal.validation import invalid
from xsub_utils._internal.whole import listing
from xsub_utils.training.folders import LOGS, RECORD, RESUME, has_begun, is_complete, numbered_folders, published_in

LOCK = ".lock"


@contextmanager
def claimed(out: Path, record: Mapping[str, Any]) -> Iterator[bool]:
    """Has a run's folder for this process alone; the run is complete when the block ends without an error.

    In the block it gives False if another process has completed the run meanwhile. If nothing was trained, the folder
    is as it was before. Where several processes train one model together, the first of them holds the folder for all.

    Args:
        out: Folder of the run.
        record: What decides it.

    Raises:
        ValueError: If another process writes there, or the folder is not this run's to write.
        StoreError: If nothing can be written there.
    """
    if os.environ.get("RANK", "0") != "0":
        yield True
        return
    existed = out.exists()
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(out):
            try:
                if missing := not is_complete(out, record):
                    write_json(out / RECORD, record)
                yield missing
                if missing:
                    _finish(out, record)
            finally:
                _release(out)
    finally:
        if not existed:
            with suppress(OSError):
                out.rmdir()  # if it is empty


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Holds the lock of a folder, which the system gives back when a process ends, however it ends."""
    lock = FileLock(out / LOCK)
    with explained(out):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            got = f"{str(out)!r}, in which another process trains"
            remedy = "wait until that is done, or choose a new folder"
            raise invalid("out", "a folder in which nobody writes", got, remedy) from None
    try:
        yield
    finally:
        lock.release()


def _finish(out: Path, record: Mapping[str, Any]) -> None:
    """Marks a run as complete and lists its files, then drops what it would have needed to go on."""
    epochs = [folder.name for folder in numbered_folders(out, "epoch").values()]
    published = published_in(out)
    files = {f"{epoch}/{name}": entry for epoch in epochs for name, entry in published[epoch].items()}
    write_json(out / RECORD, {**record, "epochs": len(epochs), "files": files | listing(out, LOGS)})
    shutil.rmtree(out / RESUME, ignore_errors=True)


def _release(out: Path) -> None:
    """Leaves nothing behind where nothing was trained; the lock goes with the need for it."""
    if not has_begun(out):
        shutil.rmtree(out / RESUME, ignore_errors=True)
        (out / RECORD).unlink(missing_ok=True)
    if not (out / RESUME).exists():
        (out / LOCK).unlink(missing_ok=True)
