"""The Python process of a notebook: made quiet and repeatable, and described."""

import os
import platform
import re
import warnings
from importlib import metadata

import pandas as pd

_ENVIRONMENT = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}


def setup() -> None:
    """Make this kernel repeatable and quiet: a fixed number of threads, no progress widgets of the libraries.

    The environment variable `XSUB_THREADS` gives the number of threads (default 1): training amplifies the
    rounding in which two thread counts differ. Call this before `transformers` or `datasets` is imported.
    """
    import torch

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", "IProgress not found")  # widgets that nothing here shows
    torch.set_num_threads(int(os.environ.get("XSUB_THREADS", "1")))


def versions() -> pd.DataFrame:
    """Versions of Python, this package and its direct dependencies: what a result should be reported with.

    Returns:
        One row each, columns `package` and `version`.
    """
    requirements = [r for r in metadata.requires("xsub-utils") if "extra ==" not in r]
    names = ["xsub-utils", *sorted(re.match(r"[\w-]+", r)[0] for r in requirements)]
    rows = [("python", platform.python_version()), *((name, metadata.version(name)) for name in names)]
    return pd.DataFrame(rows, columns=["package", "version"])
