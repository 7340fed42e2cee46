"""Which part of a transformer a parameter belongs to."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import nn

from xsub_utils._internal.validation import invalid
from xsub_utils.models.architecture_table import Architecture
from xsub_utils.models.architectures import known_architecture, place_in_layers

# Names as transformers gives them, for models of types that are in no table.
_LAYER = re.compile(r"(?:^|\.)(?:\w*layers?|\w*layer_groups|blocks?|h|attentions|layer_norm[12]|ffns)\.(\d+)\.")
_ATTENTION = re.compile(
    r"(?<!post_)att(?:entio)?n|SelfAttention|EncDecAttention|\.sa_|\.ln_1\.|input_layernorm|\.layer\.0\.layer_norm|layer_norm1\.",
    re.IGNORECASE,
)
_EMBEDDINGS = re.compile(r"embed|(?:^|\.)(?:wte|wpe|shared)\.", re.IGNORECASE)


def parameter_group(name: str, architecture: Architecture | None = None) -> str:
    """ "embeddings", "layer 3 attention", "layer 3 feed-forward" (with their norms) or "head": all that follows.

    Layers count from 1; those of a decoder beside an encoder are "decoder layer 3 …".

    Args:
        name: Of a parameter.
        architecture: That of its model, which says what belongs where; by default names decide, as transformers gives
            them.
    """
    if architecture is None:
        return _group_by_name(name)
    if place := place_in_layers(architecture, name):
        part, number, inner = place
        side = "decoder " if part == "decoder" else ""
        return f"{side}layer {number + 1} {'attention' if inner.startswith(architecture.attention) else 'feed-forward'}"
    beginnings = "|".join(map(re.escape, architecture.embeddings))
    return "embeddings" if beginnings and re.search(rf"(?:^|\.)(?:{beginnings})", name) else "head"


def _group_by_name(name: str) -> str:
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
        raise invalid("parameters", "at least one group or name", "an empty list", "None stands for all")
    meant = {pattern: _meant(pattern, groups) for pattern in patterns}
    for pattern, names in meant.items():
        if not names:
            known = ", ".join(in_order(groups))
            raise invalid("parameters", f"a group ({known}) or what is found in a name", repr(pattern))
    wanted = {name for names in meant.values() for name in names}
    return {name: group for name, group in groups.items() if name in wanted}


def _groups(model: nn.Module) -> dict[str, str]:
    """Group of every parameter; a tied one belongs to the embeddings if one of its names does."""
    architecture, names = known_architecture(model), defaultdict(list)
    for name, value in model.named_parameters(remove_duplicate=False):
        names[id(value)].append(name)
    groups = {tied[0]: [parameter_group(name, architecture) for name in tied] for tied in names.values()}
    return {name: "embeddings" if "embeddings" in tied else tied[0] for name, tied in groups.items()}


def _meant(pattern: str, groups: Mapping[str, str]) -> list[str]:
    """Parameters of the group or layer of that name; if there is none, those in whose names the pattern is found."""
    exact = [name for name, group in groups.items() if group == pattern or group.startswith(f"{pattern} ")]
    try:
        return exact or [name for name in groups if re.search(pattern, name)]
    except re.error as error:
        raise invalid("parameters", "a group or a regular expression", f"{pattern!r} ({error})") from error


def in_order(groups: Mapping[str, str]) -> tuple[str, ...]:
    """The distinct groups of parameters from the embeddings to the head, in whatever order a model lists them."""
    return tuple(sorted(dict.fromkeys(groups.values()), key=lambda group: (group == "head") - (group == "embeddings")))
