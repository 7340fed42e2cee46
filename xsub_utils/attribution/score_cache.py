"""Blocks of scores on disk, so that a run that was killed goes on where it was."""

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xsub_utils._internal.io import replacing
from xsub_utils.attribution.options import InfluenceOptions

_APART = {"loss", "rescore", "memory"}  # named by its source, or of no effect on a block


class ScoreCache:
    """Blocks of scores of one checkpoint, each named by everything that decides it.

    Args:
        folder: Where they are kept; None keeps nothing.
        model: The checkpoint.
        options: Of `influence`.
        data: All else that decides the scores: nested lists and dicts of tensors and plain values.
    """

    def __init__(self, folder: Path | None, model: nn.Module, options: InfluenceOptions, data: Sequence[Any]):
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            loss = [options.loss.__module__, options.loss.__qualname__, inspect.getsource(options.loss)]
            kind = [type(model).__qualname__, str(getattr(model, "config", ""))]
            plain = {name: value for name, value in vars(options).items() if name not in _APART}
            self.name = _digest([list(model.state_dict().items()), kind, plain, loss, data])[:20]

    def load(self, turn: slice, first: int) -> Tensor | None:
        """The block of these test examples and the training batches from `first` on, if it is there."""
        path = self._path(turn, first)
        return torch.from_numpy(np.load(path, allow_pickle=False)) if path and path.exists() else None

    def save(self, turn: slice, first: int, block: Tensor) -> None:
        """Keeps a block for `load`."""
        if path := self._path(turn, first):
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, block.numpy())

    def _path(self, turn: slice, first: int) -> Path | None:
        return self.folder / f"{self.name}-{turn.start}-{turn.stop}-{first}.npy" if self.folder else None


def _digest(value: Any) -> str:
    """SHA-256 of nested lists and dicts with tensors in them."""
    hasher = hashlib.sha256()
    for leaf in _leaves(value):
        hasher.update(repr(leaf).encode() if not isinstance(leaf, Tensor) else _bytes(leaf))
        hasher.update(b"|")
    return hasher.hexdigest()


def _leaves(value: Any) -> Iterator[Any]:
    """What nested lists and dicts hold, with the length of each before its content."""
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, list | tuple):
        yield len(value)
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _bytes(values: Tensor) -> bytes:
    values = values.detach().cpu().contiguous()
    return f"{values.dtype}{tuple(values.shape)}".encode() + values.flatten().view(torch.uint8).numpy().tobytes()
