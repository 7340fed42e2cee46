"""What is pruned: the matrices of the transformer layers and of the pooler."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from torch import nn
from transformers.pytorch_utils import Conv1D

from xsub_utils._internal.validation import one_of

SCOPES = ("global", "stack", "matrix")
_LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks?|h)\.(\d+)\.(?:layer\.\d+\.)?(.+)\.weight$")
_STACK = re.compile(r"(?:^|\.)(encoder|decoder)\.")


class Matrix(NamedTuple):
    """Where a matrix stands.

    Attributes:
        stack: "encoder" or "decoder"; also a model of one stack has an encoder here, unless its names say decoder.
        layer: From 1; None for what belongs to no layer, such as the pooler.
        component: Its path in the layer, such as "attention.self.query".
    """

    stack: str
    layer: int | None
    component: str


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that lottery tickets are made of, by the names of the model's own parameters.

    These are the matrices of the linear layers within the transformer's layers (queries, keys, values, output
    projections and feed-forward layers of encoder and decoder) and of the pooler. Biases, LayerNorms, embeddings and
    their projections, and the task head, are not pruned.

    Raises:
        ValueError: If the model has none.

    Source: Foroutan et al. 2022, section 3 and the published code.
    """
    base, words = model.base_model if hasattr(model, "base_model") else model, set()
    for give in ("get_input_embeddings", "get_output_embeddings"):
        module = getattr(model, give, lambda: None)()
        words |= {id(parameter) for parameter in module.parameters()} if module is not None else set()
    inside = {id(module.weight) for module in base.modules() if isinstance(module, nn.Linear | Conv1D)} - words
    found = {
        name: parameter
        for name, parameter in model.named_parameters()
        if id(parameter) in inside and (_LAYER.search(name) or "pooler" in name)
    }
    if not found:
        raise ValueError(
            f"model: {type(model).__name__} has no linear layers within transformer layers, so nothing to prune"
        )
    return found


def matrix(name: str) -> Matrix:
    """Where the matrix of this name stands."""
    stack = match[1] if (match := _STACK.search(name)) else "encoder"
    if found := _LAYER.search(name):
        return Matrix(stack, int(found[1]) + 1, found[2])
    return Matrix(stack, None, name.removesuffix(".weight").split(".", 1)[-1])


def groups(names: Iterable[str], scope: str) -> list[list[str]]:
    """The names among which a threshold is common: all ("global"), those of a stack, or each "matrix" alone."""
    key = {"global": lambda name: "", "stack": lambda name: matrix(name).stack, "matrix": lambda name: name}
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(key[one_of("scope", scope, SCOPES)](name), []).append(name)
    return list(found.values())
