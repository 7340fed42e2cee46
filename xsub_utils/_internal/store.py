"""The artifact store: what was computed once is looked up, never computed again and never half there.

An artifact is a folder `artifacts/<kind>/<digest>/`. The digest covers everything that decides its content:
the kind, the key (parameters, identity of the data, digests of upstream artifacts) and the code of the stage.
The folder is filled under another name beside its place. Every file is hashed into `manifest.json`, which is written
last. Then the folder is renamed into place: a folder that stands under its name is complete, whenever a process was
killed. A file lock per artifact lets processes that ask for the same artifact at once build it once.

`python -m xsub_utils._internal.store` lists what is stored; with `--verify` it hashes every file again.
"""

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from filelock import FileLock, Timeout

from xsub_utils._internal.fingerprint import code_digests, digest, plain
from xsub_utils._internal.io import StoreError, explained, sweep, sync, write_json, write_text_atomic
from xsub_utils._internal.paths import artifacts
from xsub_utils._internal.places import in_the_way
from xsub_utils._internal.provenance import commit, hardware, versions
from xsub_utils._internal.validation import invalid, wrong_type
from xsub_utils._internal.whole import faults, listing

__all__ = ["StoreError", "describe", "digest", "get_or_build", "verify", "write_json", "write_text_atomic"]

MANIFEST = "manifest.json"
PATIENCE = 2.0  # seconds of silent waiting for another process


def get_or_build(
    kind: str, key: dict, build: Callable[[Path], None], *, code: Sequence[ModuleType] = (), resume: bool = False
) -> Path:
    """Folder of the artifact, complete and verified; built first if it is absent or damaged.

    Args:
        kind: What the artifact is, such as `"checkpoint"`; names a folder of the store.
        key: Everything besides the code that decides the content, as plain values. Values that `build` closes over
            belong here, for the store cannot see them.
        build: Fills the empty folder that it is given. It may ask the store for its own inputs.
        code: Modules whose code decides the content, besides the module that defines `build`; modules of this package
            that they import count too. Comments, docstrings and layout do not. A `build` from a notebook or script
            counts by its own source.
        resume: Whether to keep the files of a build that is killed or fails, and hand them to the next build. For long
            builds that can go on from there; other builds start from an empty folder.

    Raises:
        TypeError: If `key` is not made of plain values, or a source cannot be read.
        ValueError: If `kind` cannot name a folder, or `build` wrote no file or one called `manifest.json`.
        StoreError: If the disk is full or the store not writable, or something that is no folder stands in the place of
            the artifact. Nothing half-made is left behind.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", kind):
        raise invalid("kind", "a plain folder name such as 'checkpoint'", repr(kind))
    if not isinstance(key, dict):
        raise wrong_type("key", "a dict of plain values", repr(key))
    identity = {"kind": kind, "key": plain(key, "key"), "code": code_digests(build, code)}
    folder = artifacts() / kind / digest(identity)
    if os.path.lexists(folder) and (obstacle := in_the_way(folder)):
        raise StoreError(str(invalid("artifact", "a folder", obstacle, "move it away")))
    if verify(folder):
        with _locked(folder):
            wrong = verify(folder)  # again, for another process may have built it meanwhile
            if wrong and folder.exists():
                _say(f"{kind}/{folder.name} is damaged and will be built again: {'; '.join(wrong)}")
            if wrong:
                _build(folder, identity, build, resume)
    return folder


def describe(folder: Path) -> dict:
    """Manifest of an artifact: kind, digest, key, code, files, versions, commit, seconds, hardware.

    Raises:
        FileNotFoundError: If the folder or its manifest is absent.
        ValueError: If the manifest was truncated or edited.
    """
    path = Path(folder) / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{MANIFEST} is missing in {folder}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        checksum = manifest.pop("checksum", None)
        intact = checksum == digest(manifest)
    except (ValueError, TypeError, AttributeError):  # not JSON, not plain, not a dict
        intact = False
    if not intact:
        raise ValueError(f"{MANIFEST} was changed in {folder}")
    return manifest


def verify(folder: Path) -> list[str]:
    """Faults of an artifact, each naming its file; empty if all of it is there as it was built.

    Sizes are always compared; a file is hashed once per process and again when its time stamps move. Hidden
    files that the artifact does not list are no fault: file managers and network disks leave them anywhere.
    """
    folder = Path(folder)
    try:
        manifest = describe(folder)
        if manifest["digest"] != folder.name:
            return [f"{MANIFEST} belongs to artifact {manifest['digest']}"]
        return list(_file_faults(folder, manifest["files"]))
    except (OSError, ValueError) as error:
        return [str(error)]


def _file_faults(folder: Path, listed: dict[str, dict]) -> Iterator[str]:
    for name in _files(folder):
        if name not in listed and not any(part.startswith(".") for part in name.split("/")):
            yield f"{name} does not belong to it"
    yield from faults(folder, listed)


def _files(folder: Path) -> list[str]:
    """Names of all files of an artifact, relative to it, but for the manifest."""
    paths = (path for path in folder.rglob("*") if not path.is_dir() and path != folder / MANIFEST)
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _build(folder: Path, identity: dict, build: Callable[[Path], None], resume: bool) -> None:
    """Builds the artifact beside its place and moves it there; the caller holds its lock."""
    partial = folder.with_name(f".{folder.name}.{'resume' if resume else 'partial'}")
    left = partial.exists() and resume
    try:
        with explained(folder):
            _sweep()
            for stale in (folder, *([] if resume else [partial])):
                if stale.exists():
                    shutil.rmtree(stale)
            partial.mkdir(exist_ok=resume)
        if left:
            (partial / MANIFEST).unlink(missing_ok=True)  # killed after it was written, before the last step
            _say(f"going on with {identity['kind']}/{folder.name}, which was interrupted")
        start = time.perf_counter()
        with explained(folder, full_only=True):
            build(partial)
        with explained(folder):
            _seal(partial, identity, time.perf_counter() - start)
            partial.rename(folder)
            sync(folder.parent)
    finally:
        if not resume:
            shutil.rmtree(partial, ignore_errors=True)


def _seal(partial: Path, identity: dict, seconds: float) -> None:
    """Brings every file to the disk and lists it in the manifest."""
    for below in (partial, *partial.rglob("*")):
        sweep(below)
    names = _files(partial)
    if (partial / MANIFEST).exists():
        raise invalid("build", "files of other names", f"{MANIFEST} of a {identity['kind']}", "the store writes that")
    if not names:
        raise invalid("build", "at least one file", f"none of a {identity['kind']} with key {identity['key']}")
    for path in partial.rglob("*"):
        sync(path)
    manifest = {
        **identity,
        "digest": digest(identity),
        "files": listing(partial, names),
        "versions": versions(),
        "commit": commit(),
        "seconds": round(seconds, 3),
        "hardware": hardware(),
    }
    write_json(partial / MANIFEST, {**manifest, "checksum": digest(manifest)})


def _sweep() -> None:
    """Removes what killed builds left behind; a build that still runs holds its lock."""
    for partial in artifacts().glob("*/.*.partial"):
        folder = partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))
        with suppress(OSError), _lock(folder).acquire(timeout=0):
            shutil.rmtree(partial)


def _lock(folder: Path) -> FileLock:
    return FileLock(folder.with_name(f".{folder.name}.lock"))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of an artifact, and says so if another process makes this one wait."""
    lock = _lock(folder)
    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            _say(f"waiting for another process that builds {folder.parent.name}/{folder.name}")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _say(message: str) -> None:
    print(f"xsub_utils._internal.store: {message}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the stored artifacts; returns 1 if one is damaged, else 0."""
    parser = argparse.ArgumentParser("python -m xsub_utils._internal.store", description="List the stored artifacts.")
    parser.add_argument("--verify", action="store_true", help="hash every file and name what is damaged")
    check = parser.parse_args(arguments).verify
    folders = sorted(artifacts().glob("[!.]*/[!.]*"))
    if not folders:
        print(f"no artifacts in {artifacts()}")
    damaged = [folder for folder in folders if _list(folder, check)]
    return 1 if damaged else 0


def _list(folder: Path, check: bool) -> list[str]:
    """Prints the line of an artifact and of each fault; returns the faults."""
    name = f"{folder.parent.name:<16} {folder.name}"
    try:
        manifest = describe(folder)
        faults = verify(folder) if check else []
        megabytes = sum(entry["size"] for entry in manifest["files"].values()) / 1e6
        print(f"{name} {megabytes:9.2f} MB {manifest['seconds']:9.1f} s  {json.dumps(manifest['key'])}")
    except (OSError, ValueError) as error:
        faults = [str(error)]
        print(name)
    for fault in faults:
        print(f"    damaged: {fault}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
