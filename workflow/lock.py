"""One sweep at a time in a folder, by a lock that cannot outlive its process."""

import fcntl
import os
from pathlib import Path


def only_sweep(home: Path) -> None:
    """Take the lock of the sweeps in `home`, until this process ends, however it ends.

    Snakemake's own lock is a file that stays behind when the process is killed, and then wants `--unlock`;
    this one is given back by the kernel, so that the same command simply goes on.

    Raises:
        SystemExit: If another sweep is running there.
    """
    path = home / "runs" / ".sweep.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT)  # never closed: closing it would give the lock back
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 20).decode()
        raise SystemExit(f"a sweep is running in {home} (process {holder}); wait or stop it") from None
    os.truncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
