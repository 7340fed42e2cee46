"""Which part of a transformer a parameter belongs to, by its name."""

import re
from collections.abc import Mapping, Sequence

from torch import nn

_LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks?|h)\.(\d+)\.")
_ATTENTION = re.compile(r"att(?:entio)?n|SelfAttention|EncDecAttention|\.sa_", re.IGNORECASE)
_EMBEDDINGS = re.compile(r"embed|(?:^|\.)(?:wte|wpe|shared)\.", re.IGNORECASE)


def parameter_group(name: str) -> str:
    """ "embeddings", "layer 3 attention", "layer 3 feed-forward" (with their LayerNorms) or "head": all that follows.

    Layers count from 1; those of a decoder beside an encoder are "decoder layer 3 …". Tied weights are named, and
    grouped, by where the model has them first: with the embeddings.
    """
    if layer := _LAYER.search(name):
        side = "decoder " if re.search(r"(?:^|\.)decoder\.", name[: layer.start() + 1]) else ""
        block = "attention" if _ATTENTION.search(name[layer.start() :]) else "feed-forward"
        return f"{side}layer {int(layer[1]) + 1} {block}"
    return "embeddings" if _EMBEDDINGS.search(name) else "head"


def chosen_parameters(model: nn.Module, parameters: str | Sequence[str] | None) -> dict[str, str]:
    """Name of each chosen parameter -> its group, in the order of the model.

    Args:
        model: Any module.
        parameters: Names of groups or layers ("layer 3" has both of its groups), or regular expressions that are
            found in the names of parameters; None for all.

    Raises:
        ValueError: If one of them chooses nothing.
    """
    groups = {name: parameter_group(name) for name, _ in model.named_parameters()}
    if parameters is None:
        return groups
    patterns = [parameters] if isinstance(parameters, str) else list(parameters)
    found = {pattern: [name for name in groups if _is_meant(pattern, name, groups[name])] for pattern in patterns}
    for pattern, names in found.items():
        if not names:
            raise ValueError(
                f"parameters: {pattern!r} is no group and is found in no name; groups are {', '.join(in_order(groups))}"
            )
    wanted = {name for names in found.values() for name in names}
    return {name: group for name, group in groups.items() if name in wanted}


def _is_meant(pattern: str, name: str, group: str) -> bool:
    return group == pattern or group.startswith(f"{pattern} ") or bool(re.search(pattern, name))


def in_order(groups: Mapping[str, str]) -> tuple[str, ...]:
    """The distinct groups of parameters from the embeddings to the head, in whatever order a model lists them."""
    return tuple(sorted(dict.fromkeys(groups.values()), key=lambda group: (group == "head") - (group == "embeddings")))
