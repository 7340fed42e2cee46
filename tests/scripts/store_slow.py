"""Builds an artifact file by file, announcing each."""

import time

from xsub_utils._internal.store import get_or_build


def build(folder):
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"number {number}")
        print(number, flush=True)
        time.sleep(0.01)


get_or_build("model", {}, build)
