"""Blocks of scores on disk, so that a run that was killed goes on where it was."""

import hashlib
import inspect
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xsub_utils._internal.io import explained
from xsub_utils.attribution.passes import Options


class Pieces:
    """Blocks of scores on disk, each named by everything that decides it."""

    def __init__(self, options: Options, model: nn.Module, rest: list):
        self.folder = options.out
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            projection = options.projection and [options.projection.size, options.projection.seed]
            loss = [options.loss.__module__, options.loss.__qualname__, inspect.getsource(options.loss)]
            named = {"loss", "projection", "memory", "out"}  # named here, or of no effect
            plain = [(name, value) for name, value in vars(options).items() if name not in named]
            kind = [type(model).__qualname__, str(getattr(model, "config", ""))]
            state = [*model.state_dict().items()]
            self.name = _digest([state, kind, plain, projection, loss, rest])[:20]

    def load(self, turn: slice, first: int) -> Tensor | None:
        path = self._path(turn, first)
        return torch.from_numpy(np.load(path, allow_pickle=False)) if path and path.exists() else None

    def save(self, turn: slice, first: int, block: Tensor) -> None:
        if path := self._path(turn, first):
            temporary = path.with_name(f".{secrets.token_hex(4)}.tmp")
            with explained(path), temporary.open("wb") as file:
                np.save(file, block.numpy())
            temporary.replace(path)

    def _path(self, turn: slice, first: int) -> Path | None:
        return self.folder / f"{self.name}-{turn.start}-{turn.stop}-{first}.npy" if self.folder else None


def _digest(value: Any) -> str:
    """SHA-256 of nested lists and dicts with tensors in them."""
    hasher = hashlib.sha256()
    for one in _flat(value):
        hasher.update(repr(one).encode() if not isinstance(one, Tensor) else _bytes(one))
        hasher.update(b"|")
    return hasher.hexdigest()


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, list | tuple):
        yield len(value)
        for one in value:
            yield from _flat(one)
    else:
        yield value


def _bytes(values: Tensor) -> bytes:
    values = values.detach().cpu().contiguous()
    return f"{values.dtype}{tuple(values.shape)}".encode() + values.flatten().view(torch.uint8).numpy().tobytes()
