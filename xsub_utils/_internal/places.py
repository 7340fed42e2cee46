"""Places to write to: what stands in the way of a folder or a file is named before anything is written."""

import os
from pathlib import Path
from typing import Any

from xsub_utils._internal.validation import invalid, wrong_type


def folder_to_write(given: Any, argument: str = "out", expected: str = "a new or an empty folder") -> Path:
    """The path of a folder, if one can stand there.

    Args:
        given: A path; `~` is the user's home.
        argument: What the caller calls it, for the message.
        expected: What would have been right.

    Raises:
        TypeError: If it is no path.
        ValueError: If it is empty or has a null character, or a file or a dangling link stands there or above it.
    """
    path = _path(given, argument, expected)
    if obstacle := in_the_way(path):
        raise invalid(argument, expected, obstacle, "choose a new folder")
    return path


def file_to_write(given: Any, argument: str = "path") -> Path:
    """The path of a file, if it can be one.

    Raises:
        TypeError: If it is no path.
        ValueError: If it is empty or has a null character, or a folder stands there.
    """
    path = _path(given, argument, "the name of a file")
    if not path.name or path.is_dir():
        raise invalid(argument, "the name of a file", f"the folder {str(path)!r}", "name a file in it")
    return path


def in_the_way(folder: Path) -> str:
    """What keeps a folder from standing at a path; empty if nothing does."""
    for place in (folder, *folder.absolute().parents):
        if place.is_dir():
            return ""
        if os.path.lexists(place):
            what = f"the {'file' if place.exists() else 'dangling link'} {str(place)!r}"
            return what if place == folder else f"{str(folder)!r}, which lies in {what}"
    return ""


def _path(given: Any, argument: str, expected: str) -> Path:
    if not isinstance(given, str | os.PathLike):
        raise wrong_type(argument, f"{expected}, as a path", f"a {type(given).__name__}")
    if not str(given).strip() or "\0" in str(given):
        raise invalid(argument, expected, repr(str(given)))
    return Path(given).expanduser()
