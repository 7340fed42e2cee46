"""Where a result comes from: versions, commit, machine."""

import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

_PACKAGES = ("xsub-utils", "torch", "transformers", "numpy")
_HEAD = "git --no-optional-locks describe --always --dirty --abbrev=40 --exclude=*"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def commit() -> str | None:
    """Commit of the working tree that holds this package, ending in `-dirty` if edited; None outside git."""
    try:
        git = subprocess.run(_HEAD.split(), cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return git.stdout.strip()


def hardware() -> dict[str, str | int | None]:
    """Model of the processor, threads that torch uses, and model of the graphics card (None without one)."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _processor(), "threads": torch.get_num_threads(), "gpu": gpu}


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
