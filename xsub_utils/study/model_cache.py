"""Loaded models, the last few of them, to be used again."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

from torch import nn


class ModelCache:
    """Loaded models by what they are; the least recently used goes first.

    Args:
        size: Number of models in memory.
    """

    def __init__(self, size: int):
        self._size, self._models = size, OrderedDict[Hashable, nn.Module]()

    def get(self, key: Hashable, load: Callable[[], nn.Module]) -> nn.Module:
        """The model of a key, or a list of models (`nn.ModuleList`); loaded if it is not there."""
        if key not in self._models:
            model = load()  # may ask for other models itself
            self._models[key] = model
            while self._count() > self._size and len(self._models) > 1:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key]

    def clear(self) -> None:
        """Give the memory of all models back."""
        self._models.clear()

    def _count(self) -> int:
        """Number of models; a list of checkpoints counts as many."""
        return sum(len(model) if isinstance(model, nn.ModuleList) else 1 for model in self._models.values())
