"""What a model is made of, looked up in the one table of architectures."""

import re
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from xsub_utils._internal.validation import invalid
from xsub_utils.models.architecture_table import TABLE, Architecture, AttentionPaths
from xsub_utils.models.wrapped import check_hooks_act

_HEAD_SIZES = ("attention_head_size", "head_dim", "head_size", "key_value_proj_dim")


class Attention(NamedTuple):
    """The attention of one layer.

    Attributes:
        path: Of the module that attends, in the model.
        core: The module that attends.
        output: The output projection.
        head_size: Width of a head.
        heads: Number of heads that query; several of them may share a key and value.
        stack: Path of the module that runs the layers one after another.
    """

    path: str
    core: nn.Module
    output: nn.Module
    head_size: int
    heads: int
    stack: str


def architecture_of(model: nn.Module) -> Architecture:
    """What the model, or the one that it holds, is made of.

    Raises:
        ValueError: If its model type is not known; says which are, and how to add one.
    """
    return TABLE[model_type_of(model)]


def known_architecture(model: nn.Module) -> Architecture | None:
    """What the model, or the first that it holds, is made of; None if its model type is not known."""
    model_type = next((found for _, _, found in _models(model)), None)
    return None if model_type is None else TABLE[model_type]


def model_type_of(model: nn.Module) -> str:
    """The known model type that the model is, or the first that it holds."""
    return _model_in(model)[2]


def head_shape(model: nn.Module, *, part: str = "encoder") -> tuple[int, int]:
    """Number of layers, and of attention heads in each.

    Where several heads share a key and value (grouped-query attention), it is those that query that count.

    Args:
        model: A transformers model with or without a task head, or any module that holds one.
        part: `"encoder"` (self-attention of an encoder, or of a decoder that stands alone), `"decoder"`
            (self-attention of the decoder beside an encoder) or `"cross"` (its attention to that encoder).

    Raises:
        ValueError: If the architecture is not supported, the model lacks the part or holds it twice, or its
            layers differ in their number of heads, as after `remove_heads`.

    Example:
        >>> import xsub_utils as xs
        >>> model, tokenizer = xs.load_encoder("minibabel-base", "sequence", labels=["no", "yes"])
        >>> xs.head_shape(model)
        (4, 12)
    """
    return _shape(attentions_of(model, part))


def attentions_of(model: nn.Module, part: str) -> list[Attention]:
    """The attention of every layer, in order; layers that share weights share a module.

    Raises:
        ValueError: As in `head_shape`, or if the table has paths that the model does not have.
    """
    prefix, inner, model_type = _model_in(model)
    architecture = TABLE[model_type]
    if part not in architecture.parts:
        raise invalid(
            "part", f"one of those that {model_type} models have ({', '.join(architecture.parts)})", repr(part)
        )
    paths = architecture.parts[part]
    pattern = re.compile(r"(?:.*\.)?" + _layer_pattern(paths.layer) + re.escape(f".{paths.attends}"))
    matches = [match for name, _ in inner.named_modules() if (match := pattern.fullmatch(name))]
    if not matches:
        raise _missing(f"{part} attention at {paths.layer}.{paths.attends}", inner, model_type)
    if [int(match[1]) for match in matches] != list(range(len(matches))):
        raise invalid("model", f"one model with {part} attention", f"several in one {type(model).__name__}", "pass one")
    attentions = [_attention(inner, match[0], paths, architecture.head_size, model_type) for match in matches]
    attentions = [
        one._replace(path=f"{prefix}{one.path}", stack=f"{prefix}{one.stack}".removesuffix(".")) for one in attentions
    ]
    if architecture.calls is None:
        return attentions
    return [attentions[number] for number in architecture.calls(cast(PreTrainedConfig, inner.config))]


def reads_first_token_only(model: nn.Module) -> bool:
    """Whether this is one of transformers' own classifiers of that kind, its head not exchanged."""
    kind = type(model)
    if not (kind.__module__.startswith("transformers.") and kind.__name__.endswith("ForSequenceClassification")):
        return False
    architecture = known_architecture(model)
    readers = getattr(model.base_model, "pooler", None), getattr(model, "classifier", None)
    return architecture is not None and any(
        type(reader).__name__ in architecture.first_token_heads for reader in readers
    )


def check_shape(name: str, values: Tensor, attentions: list[Attention], per_example: bool = False) -> None:
    """Raises a ValueError unless there is a value for every head or, if that is allowed, every example and head."""
    layers, heads = _shape(attentions)
    right = f"({layers}, {heads})" + f" or (batch, {layers}, {heads})" * per_example
    if not isinstance(values, Tensor):
        raise invalid(name, f"a tensor of shape {right}", f"a {type(values).__name__}")
    if values.shape[-2:] != (layers, heads) or values.ndim > 2 + per_example:
        raise invalid(name, f"the shape {right} of this model's heads", tuple(values.shape))
    if not values.isfinite().all():
        raise invalid(name, "finite numbers", "nan or an infinity")


def check_mask(name: str, mask: Tensor, attentions: list[Attention]) -> None:
    """Raises a ValueError unless there is True or False for every head."""
    check_shape(name, mask, attentions)
    if mask.dtype != torch.bool:
        raise invalid(name, "a mask of torch.bool", f"gates of {mask.dtype}", "mask.bool(), or head_gates for factors")


def place_in_layers(architecture: Architecture, name: str) -> tuple[str, int, str] | None:
    """Part, number of the layer from 0, and name within the layer of a parameter; None outside of the layers."""
    for part, paths in architecture.parts.items():
        if match := re.search(rf"(?:^|\.){_layer_pattern(paths.layer)}\.(.+)", name):
            return part, int(match[1]), match[2]
    return None


def _layer_pattern(path: str) -> str:
    """Regular expression of the path of a layer, with its number as a group."""
    return re.escape(path).replace(r"\{\}", r"(\d+)")


def _models(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module, str]]:
    """Outermost models of known types: path with a dot at its end, model, and type."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type in TABLE:
        yield prefix, model, model_type
    else:
        for name, child in model.named_children():
            yield from _models(child, f"{prefix}{name}.")


def _model_in(model: nn.Module) -> tuple[str, nn.Module, str]:
    """The only model of a known type: path with a dot at its end, model, and type."""
    check_hooks_act(model)
    models = list(_models(model))
    if not models:
        kind = getattr(getattr(model, "config", None), "model_type", "")
        raise invalid(
            "model",
            f"a model of a type whose heads are known ({', '.join(sorted(TABLE))})",
            type(model).__name__ + f" ({kind})" * bool(kind),
            "add its type with register_architecture",
        )
    if len(models) > 1:
        kinds = ", ".join(type(inner).__name__ for _, inner, _ in models)
        raise invalid("model", "one model", f"{type(model).__name__} of several ({kinds})", "pass one of them")
    return models[0]


def _missing(what: str, model: nn.Module, model_type: str) -> ValueError:
    remedy = f"if the paths are wrong, register_architecture({model_type!r}, …, replace=True) corrects them"
    return invalid("model", f"a {model_type} model with {what}", f"{type(model).__name__} without it", remedy)


def _attention(model: nn.Module, path: str, paths: AttentionPaths, head_size: str, model_type: str) -> Attention:
    core, layer = model.get_submodule(path), path.removesuffix(f".{paths.attends}")
    output_path = f"{layer}.{paths.output}"
    try:
        output = model.get_submodule(output_path)
    except AttributeError:
        raise _missing(f"an output projection at {output_path}", model, model_type) from None
    names = (head_size,) if head_size else _HEAD_SIZES
    size = next((getattr(core, name) for name in names if hasattr(core, name)), None)
    if size is None:
        raise _missing(f"the width of a head in {path} (as {' or '.join(names)})", model, model_type)
    width = output.nx if hasattr(output, "nx") else output.in_features  # nx in GPT-2's Conv1D
    return Attention(path, core, output, size, width // size, stack=".".join(layer.split(".")[:-2]))


def _shape(attentions: list[Attention]) -> tuple[int, int]:
    heads = [attention.heads for attention in attentions]
    if len(set(heads)) > 1:
        raise invalid("model", "as many heads in each layer", f"{heads}, as some were removed", "use the full model")
    return len(heads), heads[0]
