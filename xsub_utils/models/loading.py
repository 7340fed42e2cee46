"""Weights are loaded by transformers, and shapes that do not fit are named."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from xsub_utils._internal.validation import invalid


@contextmanager
def readable(source: Path | str, argument: str) -> Iterator[None]:
    """Names the place of weights that cannot be read.

    Raises:
        ValueError: If so.
    """
    try:
        yield
    except SafetensorError as error:
        remedy = "were they cut off in copying, or are they a pointer of LFS?"
        raise invalid(argument, "weights that can be read", f"those of {str(source)!r} ({error})", remedy) from error


def from_pretrained(kind: Any, source: Path | str, argument: str, **options: Any) -> tuple[Any, Mapping[str, Any]]:
    """A model in float32, and what transformers reports of its weights.

    Args:
        kind: A class of transformers' models, or one of its `AutoModel…`.
        source: Folder or hub id.
        argument: What the caller calls it, for errors.
        **options: Of `from_pretrained`.

    Raises:
        ValueError: If weights cannot be read, or are of another shape than the configuration says, as after
            `remove_heads`.
        OSError: As transformers raises it.
    """
    options |= {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with readable(source, argument):
        model, report = kind.from_pretrained(source, **options)
    if other := sorted(report["mismatched_keys"]):
        name, stored, expected = other[0]
        more = f", and {len(other) - 1} more," * (len(other) > 1)
        raise invalid(
            argument,
            "weights of the shapes that config.json says",
            f"{name} of shape {tuple(stored)}{more} instead of {tuple(expected)} in {str(source)!r}",
            "were heads removed before it was saved? Then save the full model and the mask, and remove them on loading",
        )
    return model, report
