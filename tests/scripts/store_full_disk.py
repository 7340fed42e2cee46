"""Builds artifacts that do not fit on the disk that holds XSUB_HOME, then one that does."""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from xsub_utils._internal.store import StoreError, get_or_build


def python(folder):
    with (folder / "file").open("wb") as file:
        for _ in range(100):
            file.write(bytes(10_000))


def rust(folder):
    save_file({"weights": np.zeros(1_000_000)}, folder / "model.safetensors")


def brimful(folder):
    """Leaves no room for the manifest."""
    with suppress(OSError):
        python(folder)


def small(folder):
    (folder / "file").write_bytes(bytes(1000))


def left():
    found = Path(os.environ["XSUB_HOME"]).rglob("*")
    return [path.name for path in found if path.suffix != ".lock"]


for build in (python, rust, brimful):
    try:
        get_or_build("model", {"build": build.__name__}, build)
    except StoreError as error:
        assert "disk is full" in str(error) and "XSUB_HOME" in str(error), error
    else:
        raise AssertionError(build)
    assert left() == ["artifacts", "model"], left()

get_or_build("model", {}, small)
