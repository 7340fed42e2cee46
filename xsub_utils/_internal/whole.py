"""Whether files are as they were written: by their sizes and digests, which were listed then."""

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Listing = dict[str, dict[str, Any]]  # name of a file, relative to its folder -> size and sha256


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """SHA-256 of a file, remembered in this process for as long as its size and time stamps stay the same."""
    stat = path.stat()
    return _remembered(path.absolute(), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def listing(folder: Path, names: Iterable[str] | None = None) -> Listing:
    """Size and digest of files.

    Args:
        folder: That they lie in.
        names: Of the files, relative to it; by default all that lie directly in it.
    """
    chosen = sorted(path.name for path in folder.iterdir() if path.is_file()) if names is None else names
    return {name: {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in chosen}


def faults(folder: Path, listed: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What is wrong with listed files, each fault naming its file; nothing if all are as they were."""
    for name, entry in listed.items():
        file = folder / name
        if not file.is_file():
            yield f"{name} is missing"
        elif (size := file.stat().st_size) != entry["size"]:
            yield f"{name} has {size} bytes instead of {entry['size']}"
        elif sha256_once(file) != entry["sha256"]:
            yield f"{name} was changed"


@functools.lru_cache(maxsize=65536)
def _remembered(path: Path, *state: int) -> str:
    return sha256(path)
