"""Which part of a transformer a parameter belongs to, by its name."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import nn

_LAYER = re.compile(r"(?:^|\.)(?:\w*layers?|\w*layer_groups|blocks?|h|attentions|layer_norm[12]|ffns)\.(\d+)\.")
_ATTENTION = re.compile(
    r"(?<!post_)att(?:entio)?n|SelfAttention|EncDecAttention|\.sa_|\.ln_1\.|input_layernorm|\.layer\.0\.layer_norm|layer_norm1\.",
    re.IGNORECASE,
)
_EMBEDDINGS = re.compile(r"embed|(?:^|\.)(?:wte|wpe|shared)\.", re.IGNORECASE)


def parameter_group(name: str) -> str:
    """ "embeddings", "layer 3 attention", "layer 3 feed-forward" (with their LayerNorms) or "head": all that follows.

    Names decide, as transformers gives them. Layers count from 1; those of a decoder beside an encoder are "decoder
    layer 3 …".
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
    groups = _groups(model)
    if parameters is None:
        return groups
    patterns = [parameters] if isinstance(parameters, str) else list(parameters)
    if not patterns:
        raise ValueError("parameters: the list is empty; None would be right for all")
    found = {pattern: _meant(pattern, groups) for pattern in patterns}
    for pattern, names in found.items():
        if not names:
            raise ValueError(
                f"parameters: {pattern!r} is no group and is found in no name; groups are {', '.join(in_order(groups))}"
            )
    wanted = {name for names in found.values() for name in names}
    return {name: group for name, group in groups.items() if name in wanted}


def _groups(model: nn.Module) -> dict[str, str]:
    """Group of every parameter; a tied one belongs to the embeddings if one of its names does."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, value in model.named_parameters(remove_duplicate=False):
        names[id(value)].append(name)
    found = {of[0]: [parameter_group(name) for name in of] for of in names.values()}
    return {name: "embeddings" if "embeddings" in groups else groups[0] for name, groups in found.items()}


def _meant(pattern: str, groups: Mapping[str, str]) -> list[str]:
    """Parameters of the group or layer of that name; if there is none, those in whose names the pattern is found."""
    exact = [name for name, group in groups.items() if group == pattern or group.startswith(f"{pattern} ")]
    try:
        return exact or [name for name in groups if re.search(pattern, name)]
    except re.error as error:
        raise ValueError(f"parameters: {pattern!r} is no group and no regular expression ({error})") from error


def in_order(groups: Mapping[str, str]) -> tuple[str, ...]:
    """The distinct groups of parameters from the embeddings to the head, in whatever order a model lists them."""
    return tuple(sorted(dict.fromkeys(groups.values()), key=lambda group: (group == "head") - (group == "embeddings")))
