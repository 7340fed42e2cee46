"""Files that are complete or absent, and one clear error when the disk refuses them."""

import errno
import fcntl
import functools
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xsub_utils._internal.places import file_to_write
from xsub_utils._internal.whole import sha256 as sha256

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_SPACE = 2**20  # bytes
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)


class StoreError(OSError):
    """Something cannot be written: the disk is full or the folder is not writable."""


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, in full or not at all.

    Raises:
        StoreError: If the file cannot be written.
        ValueError: If `value` holds nan or an infinity, which JSON cannot express.
    """
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text_atomic(path: Path, text: str) -> None:
    """Writes a UTF-8 text file as `write_bytes_atomic` does."""
    write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: str | Path, content: bytes) -> None:
    """Writes a file in full or not at all: whoever reads it, also after a crash, sees the old file or the new one.

    Raises:
        StoreError: If the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path to write a file to, which takes the place of `path` when the block ends without an error.

    What a killed process left of such files in the folder is swept away first.

    Raises:
        TypeError: If `path` is none.
        ValueError: If `path` is empty or has a null character, or a folder stands there.
        StoreError: If the file cannot be written.
    """
    path = file_to_write(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(path.parent.absolute())
        try:
            with _in_use(temporary):
                yield temporary
                sync(temporary)
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


def sweep(folder: Path) -> None:
    """Removes temporary files in a folder that no process writes any more."""
    for stray in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(stray.name):
            with suppress(OSError), _in_use(stray) as abandoned:
                if abandoned:
                    stray.unlink()


@functools.lru_cache(maxsize=1024)
def _sweep_once(folder: Path) -> None:
    """Sweeps a folder the first time that this process writes there."""
    sweep(folder)


@contextmanager
def _in_use(temporary: Path) -> Iterator[bool]:
    """Holds the lock of a temporary file, by which a sweep tells it from one that a killed process left.

    It gives False if another process holds the lock, or the disk knows none.
    """
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sync(path: Path) -> None:
    """Waits until a file or folder has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(target: Path, *, full_only: bool = False) -> Iterator[None]:
    """Turns a failure to write `target` into a `StoreError` that names it, the cause and the remedy.

    Args:
        target: The file or folder that is being written.
        full_only: Whether all errors but those of a full disk pass unchanged, as errors of the caller.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        full = _disk_full(error, target)
        if not full and (full_only or not isinstance(error, OSError)):
            raise
        cause = f"the disk is full ({error})" if full else error
        remedy = "Free space there, choose another folder, or set XSUB_HOME to one that can be written."
        raise StoreError(f"cannot write {target}: {cause}. {remedy}") from error


def _disk_full(error: Exception, target: Path) -> bool:
    """Whether a full disk is the cause; libraries in Rust and C++ have errors of their own for it."""
    if getattr(error, "errno", None) in _FULL or "No space left" in str(error):
        return True
    if not isinstance(error, OSError | RuntimeError) or not os.path.exists(target.parent):
        return False
    return shutil.disk_usage(target.parent).free < _NO_SPACE
