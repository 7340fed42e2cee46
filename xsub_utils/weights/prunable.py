"""What is pruned: the matrices of the transformer layers and of the pooler."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, cast

from torch import nn
from transformers.pytorch_utils import Conv1D

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.models.architecture_table import TABLE
from xsub_utils.models.architectures import known_architecture, place_in_layers
from xsub_utils.models.modes import require_model
from xsub_utils.models.wrapped import check_plain_weights

SCOPES = ("global", "stack", "matrix")
# Layers as transformers names them, in models of types that are in no table too.
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
        TypeError: If something else than a model is given.
        ValueError: If the model has none, layers share them, or some are adapted, parametrised or quantised.

    Source: Foroutan et al. 2022, section 3 and the published code.
    """
    require_model(model)
    check_plain_weights(model.named_modules())
    base, words = cast(nn.Module, getattr(model, "base_model", model)), set()
    for give in ("get_input_embeddings", "get_output_embeddings"):
        module = getattr(model, give, lambda: None)()
        words |= {id(parameter) for parameter in module.parameters()} if module is not None else set()
    inside = {id(module.weight) for module in base.modules() if isinstance(module, nn.Linear | Conv1D)} - words
    architecture = known_architecture(model)
    if architecture is not None and architecture.calls is not None:
        got = f"a {type(model).__name__}, whose layers share them"
        raise invalid("model", "layers with weights of their own", got, "masks of heads tell its layers apart")
    in_layer: Callable[[str], object] = (
        _LAYER.search if architecture is None else partial(place_in_layers, architecture)
    )
    weights = {
        name: parameter
        for name, parameter in model.named_parameters()
        if id(parameter) in inside and (in_layer(name) or "pooler" in name)
    }
    if not weights:
        raise invalid(
            "model",
            "linear layers within transformer layers, to be pruned",
            f"{type(model).__name__} without any",
            "if its layers have other names, register_architecture names them",
        )
    return weights


def matrix(name: str) -> Matrix:
    """Where the matrix of this name stands."""
    stack = match[1] if (match := _STACK.search(name)) else "encoder"
    if match := _LAYER.search(name):
        return Matrix(stack, int(match[1]) + 1, match[2])
    for architecture in TABLE.values():  # layers of registered architectures
        if place := place_in_layers(architecture, name):
            return Matrix(
                "decoder" if place[0] == "decoder" else "encoder", place[1] + 1, place[2].removesuffix(".weight")
            )
    return Matrix(stack, None, name.removesuffix(".weight").split(".", 1)[-1])


def groups(names: Iterable[str], scope: str) -> list[list[str]]:
    """The names among which a threshold is common: all ("global"), those of a stack, or each "matrix" alone."""
    key = {"global": lambda name: "", "stack": lambda name: matrix(name).stack, "matrix": lambda name: name}
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(key[one_of("scope", scope, SCOPES)](name), []).append(name)
    return list(grouped.values())
