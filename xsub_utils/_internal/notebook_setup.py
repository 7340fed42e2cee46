"""The Python process of a notebook: made quiet and repeatable."""

import os
import warnings

from xsub_utils._internal.validation import invalid

_ENVIRONMENT = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}


def setup() -> None:
    """Makes this process repeatable and quiet: a fixed number of threads, no progress bars of the libraries.

    The environment variable `XSUB_THREADS` gives the number of threads (default 1), since training amplifies the
    rounding by which two thread counts differ. Call this before `transformers` or `datasets` is imported.

    Raises:
        ValueError: If `XSUB_THREADS` is no such number.

    Example:
        >>> import xsub_utils as xs
        >>> xs.setup()
        >>> import torch
        >>> torch.get_num_threads()
        1
    """
    import torch

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", "IProgress not found")  # widgets that nothing here shows
    torch.set_num_threads(_threads(os.environ.get("XSUB_THREADS", "1")))


def _threads(given: str) -> int:
    if not given.strip().isdecimal() or int(given) < 1:
        raise invalid("XSUB_THREADS", "a whole number of at least 1", repr(given))
    return int(given)
