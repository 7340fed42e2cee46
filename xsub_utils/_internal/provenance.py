"""Where a result comes from: versions, commit, machine."""

import functools
import platform
import re
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

_HEAD = "git --no-optional-locks describe --always --dirty --abbrev=40 --exclude=*"


def versions() -> dict[str, str]:
    """Versions of Python, this package and its direct dependencies, to report with a result.

    Returns:
        Name → version: "python", "xsub-utils", then the dependencies in alphabetical order.

    Example:
        >>> import xsub_utils as xs
        >>> list(xs.versions())[:2]
        ['python', 'xsub-utils']
        >>> {"numpy", "torch", "transformers"} <= xs.versions().keys()
        True
    """
    return {"python": platform.python_version(), **_installed()}


@functools.cache
def _installed() -> dict[str, str]:
    """Versions of this package and of its direct dependencies, as far as they are installed."""
    required = [line for line in metadata.requires("xsub-utils") or () if "extra ==" not in line]
    installed = {}
    for name in ("xsub-utils", *sorted(re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in required)):
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def commit() -> str | None:
    """Commit of the working tree that holds this package, ending in `-dirty` if edited; None outside git."""
    try:
        git = subprocess.run(_HEAD.split(), cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return git.stdout.strip()


def hardware() -> dict[str, str | int | None]:
    """Model of the processor, number of threads that torch uses, and model of the graphics card (None without one)."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _processor(), "threads": torch.get_num_threads(), "gpu": gpu}


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
