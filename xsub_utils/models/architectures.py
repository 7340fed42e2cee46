"""Where the attention heads are in each architecture."""

import re
from typing import NamedTuple

from torch import Tensor, nn


class Place(NamedTuple):
    """Path of a layer's attention, {} being the layer; in it, the output projection and what attends."""

    attention: str
    output: str
    core: str = ""
    removable: bool = False


# Heads are removable where only the linear layers of the attention count them. T5 shares its position bias
# between layers, Llama its keys between heads; ModernBERT and GPT-2 compute queries, keys and values at once.
_BERT = {"encoder": Place("encoder.layer.{}.attention", "output.dense", core="self", removable=True)}
_T5 = {
    "encoder": Place("encoder.block.{}.layer.0.SelfAttention", "o"),
    "decoder": Place("decoder.block.{}.layer.0.SelfAttention", "o"),
    "cross": Place("decoder.block.{}.layer.1.EncDecAttention", "o"),
}
_LLAMA = {"encoder": Place("layers.{}.self_attn", "o_proj")}
_PLACES = {
    "bert": _BERT,
    "deberta-v2": _BERT,
    "distilbert": {"encoder": Place("transformer.layer.{}.attention", "out_lin", removable=True)},
    "electra": _BERT,
    "eurobert": _LLAMA,
    "gpt2": {"encoder": Place("h.{}.attn", "c_proj")},
    "llama": _LLAMA,
    "mbart": {
        "encoder": Place("encoder.layers.{}.self_attn", "out_proj", removable=True),
        "decoder": Place("decoder.layers.{}.self_attn", "out_proj"),
        "cross": Place("decoder.layers.{}.encoder_attn", "out_proj"),
    },
    "modernbert": {"encoder": Place("layers.{}.attn", "Wo")},
    "mt5": _T5,
    "rembert": _BERT,
    "roberta": _BERT,
    "t5": _T5,
    "xlm-roberta": _BERT,
    "xlm-roberta-xl": _BERT,
}
REMOVABLE = tuple(model_type for model_type, places in _PLACES.items() if places["encoder"].removable)


class Attention(NamedTuple):
    """The attention of one layer: the module that attends, with its path, and the output projection."""

    path: str
    core: nn.Module
    output: nn.Module
    head_size: int
    heads: int


def head_shape(model: nn.Module, *, part: str = "encoder") -> tuple[int, int]:
    """Number of layers, and of attention heads in each.

    Args:
        model: A transformers model with or without a task head, or any module that holds one.
        part: `"encoder"` (self-attention of an encoder, or of a decoder that stands alone), `"decoder"`
            (self-attention of the decoder beside an encoder) or `"cross"` (its attention to that encoder).

    Raises:
        ValueError: If the architecture is not supported, the model lacks the part or holds it twice, or its
            layers differ in their number of heads, as after `remove_heads`.
    """
    return _shape(attentions_of(model, part))


def attentions_of(model: nn.Module, part: str) -> list[Attention]:
    """The attention of every layer, in order."""
    model_type = model_type_of(model)
    if part not in _PLACES[model_type]:
        raise ValueError(f"part: {model_type} models have {', '.join(_PLACES[model_type])}, not {part!r}")
    place = _PLACES[model_type][part]
    pattern = re.compile(r"(?:.*\.)?" + re.escape(place.attention).replace(r"\{\}", r"(\d+)"))
    found = [match for name, _ in model.named_modules() if (match := pattern.fullmatch(name))]
    if not found:
        raise ValueError(f"part: this {type(model).__name__} has no {part} attention")
    if [int(match[1]) for match in found] != list(range(len(found))):
        raise ValueError(f"model: {type(model).__name__} has {part} attention of several models; pass one of them")
    return [_attention(model, match[0], place) for match in found]


def model_type_of(model: nn.Module) -> str:
    """The supported architecture that the model is, or holds."""
    for module in model.modules():
        model_type = getattr(getattr(module, "config", None), "model_type", None)
        if model_type in _PLACES:
            return model_type
    raise ValueError(f"model: no heads known in {type(model).__name__}; supported are {', '.join(_PLACES)}")


def _attention(model: nn.Module, path: str, place: Place) -> Attention:
    core_path = f"{path}.{place.core}" if place.core else path
    core = model.get_submodule(core_path)
    output = model.get_submodule(f"{path}.{place.output}")
    names = ("attention_head_size", "head_dim", "key_value_proj_dim")
    head_size = next(getattr(core, name) for name in names if hasattr(core, name))
    width = output.nx if hasattr(output, "nx") else output.in_features  # nx in GPT-2's Conv1D
    return Attention(core_path, core, output, head_size, width // head_size)


def _shape(attentions: list[Attention]) -> tuple[int, int]:
    heads = [attention.heads for attention in attentions]
    if len(set(heads)) > 1:
        raise ValueError(f"model: its layers have {heads} heads, some were removed; use the full model")
    return len(heads), heads[0]


def check_shape(name: str, values: Tensor, attentions: list[Attention], per_example: bool = False) -> None:
    layers, heads = _shape(attentions)
    if not isinstance(values, Tensor):
        raise ValueError(f"{name}: a {type(values).__name__}; one tensor of shape ({layers}, {heads}) would be right")
    if values.shape[-2:] != (layers, heads) or values.ndim > 2 + per_example:
        right = f"({layers}, {heads})" + f" or (batch, {layers}, {heads})" * per_example
        raise ValueError(f"{name}: the shape is {tuple(values.shape)}; this model takes {right}")
