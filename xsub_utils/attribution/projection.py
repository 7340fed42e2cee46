"""Two-sided random projection of per-example gradients: what they cost no longer grows with the width of the model."""

import hashlib
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from xsub_utils._internal.validation import invalid
from xsub_utils.gradients.factors import FactoredGradients, Outer, Rows


class Projection:
    """Gaussian projections of rows and columns of gradients to `size` entries each; inner products stay, in the mean.

    A matrix depends on the seed, the name of the parameter and the side, and is drawn by NumPy: it is the same on
    every device. Vectors (biases, LayerNorms) and sides that are no wider stay as they are.

    Args:
        size: Entries of a side; the relative error of an inner product falls as 1 / size.
        seed: Of the draws.

    Raises:
        ValueError: If the size is below 1.

    Source: the two-sided form of Choe et al. 2024 (LoGra), section 3.2, with random matrices.
    """

    def __init__(self, size: int, seed: int = 0):
        if size < 1:
            raise invalid("projection", "at least 1 entry a side, such as 64", size)
        self.size, self.seed = size, seed
        self.matrix = lru_cache(maxsize=None)(self._matrix)

    def __call__(self, name: str, gradients: FactoredGradients) -> FactoredGradients:
        """The projected gradients of a parameter."""
        if isinstance(gradients, Outer):
            return Outer(self._narrow(gradients.rows, name, "rows"), self._narrow(gradients.columns, name, "columns"))
        if isinstance(gradients, Rows):
            return replace(gradients, values=self._narrow(gradients.values, name, "columns"))
        return gradients

    def _narrow(self, side: Tensor, name: str, which: str) -> Tensor:
        width = side.shape[-1]
        return side if width <= self.size else side @ self.matrix(name, which, width, side.device, side.dtype)

    def _matrix(self, name: str, which: str, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        digest = hashlib.sha256(f"{self.seed}|{name}|{which}".encode()).digest()
        rng = np.random.Generator(np.random.Philox(int.from_bytes(digest[:8], "big")))
        drawn = rng.standard_normal((width, self.size)) / np.sqrt(self.size)
        return torch.from_numpy(drawn).to(device, dtype)
