"""Run one notebook of the sweep, and leave a receipt beside it if it comes to its end."""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

import psutil
import yaml

from xsub_utils._internal.io import write_json

ROOT = Path(__file__).resolve().parents[1]
POLL_S = 0.5  # how often to look whether Snakemake is still there
STOPPED = "stopped"  # last line printed by a run that was stopped, which is no failure


def main() -> int:
    """Execute the notebook with the parameters among the facts; gives the exit status."""
    args = arguments()
    told = args.receipt.with_suffix(".yaml")
    told.write_text(yaml.safe_dump(args.facts["parameters"], sort_keys=False))
    args.executed.unlink(missing_ok=True)  # an earlier one must not be taken for this one
    begun = time.monotonic()
    command = [args.notebook, args.executed.resolve(), "--parameters", told.resolve()]
    with args.printed.open("w") as printed:
        status = execute([sys.executable, "-m", "xsub_utils._internal.notebooks", "execute", *command], printed)
    if status == 0:
        write_json(args.receipt, args.facts | {"seconds": round(time.monotonic() - begun, 1)})
    return status


def arguments() -> argparse.Namespace:
    """The command line, as the Snakefile gives it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("facts", type=json.loads, help="JSON: the parameters, and the fingerprints of the code")
    parser.add_argument("--executed", type=Path, required=True, help="the executed notebook")
    parser.add_argument("--printed", type=Path, required=True, help="what the process prints")
    parser.add_argument("--receipt", type=Path, required=True, help="JSON: the facts and the seconds it took")
    return parser.parse_args()


def execute(command: list, printed: TextIO) -> int:
    """Exit status of the command; it ends when this process is stopped, or Snakemake, even by `kill -9`.

    It runs in the repository, so that the package it imports is the one whose fingerprint the receipt holds.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    snakemake = os.getppid()
    child = subprocess.Popen(command, cwd=ROOT, stdout=printed, stderr=printed, start_new_session=True)
    try:
        while os.getppid() == snakemake:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(POLL_S)
    except KeyboardInterrupt:
        pass
    end(child.pid)
    printed.write(STOPPED)
    return 128 + signal.SIGTERM


def end(pid: int) -> None:
    """End a process and those that it started: the kernel, and the workers of its data loaders."""
    process = psutil.Process(pid)
    for one in [*process.children(recursive=True), process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


if __name__ == "__main__":
    sys.exit(main())
