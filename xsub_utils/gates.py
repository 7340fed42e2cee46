"""Head gates: one factor per attention head, and the removal of the heads whose factor is zero.

The output projection of multi-head attention is linear in the contexts of the heads, so scaling a head's
slice of its input scales what the head contributes and nothing else; dropout, residual and attention kernel
stay as they are. A forward pre-hook on the projection does this in every architecture listed below.
"""

import copy
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn


class _Place(NamedTuple):
    """Path of a layer's attention, {} being the layer; in it, the output projection and what attends."""

    attention: str
    output: str
    core: str = ""
    removable: bool = False


# Heads are removable where only the linear layers of the attention count them. T5 shares its position bias
# between layers, Llama its keys between heads; ModernBERT and GPT-2 compute queries, keys and values at once.
_BERT = {"encoder": _Place("encoder.layer.{}.attention", "output.dense", core="self", removable=True)}
_T5 = {
    "encoder": _Place("encoder.block.{}.layer.0.SelfAttention", "o"),
    "decoder": _Place("decoder.block.{}.layer.0.SelfAttention", "o"),
    "cross": _Place("decoder.block.{}.layer.1.EncDecAttention", "o"),
}
_LLAMA = {"encoder": _Place("layers.{}.self_attn", "o_proj")}
_PLACES = {
    "bert": _BERT,
    "deberta-v2": _BERT,
    "distilbert": {"encoder": _Place("transformer.layer.{}.attention", "out_lin", removable=True)},
    "electra": _BERT,
    "eurobert": _LLAMA,
    "gpt2": {"encoder": _Place("h.{}.attn", "c_proj")},
    "llama": _LLAMA,
    "mbart": {
        "encoder": _Place("encoder.layers.{}.self_attn", "out_proj", removable=True),
        "decoder": _Place("decoder.layers.{}.self_attn", "out_proj"),
        "cross": _Place("decoder.layers.{}.encoder_attn", "out_proj"),
    },
    "modernbert": {"encoder": _Place("layers.{}.attn", "Wo")},
    "mt5": _T5,
    "rembert": _BERT,
    "roberta": _BERT,
    "t5": _T5,
    "xlm-roberta": _BERT,
    "xlm-roberta-xl": _BERT,
}
REMOVABLE = tuple(model_type for model_type, places in _PLACES.items() if places["encoder"].removable)


class _Attention(NamedTuple):
    """The attention of one layer: the module that attends, with its path, and the output projection."""

    path: str
    core: nn.Module
    output: nn.Module
    head_size: int
    heads: int


def head_shape(model: nn.Module, part: str = "encoder") -> tuple[int, int]:
    """Number of layers, and of attention heads in each.

    Args:
        model: A transformers model with or without a task head, or any module that holds one.
        part: `"encoder"` (self-attention of an encoder, or of a decoder that stands alone), `"decoder"`
            (self-attention of the decoder beside an encoder) or `"cross"` (its attention to that encoder).

    Raises:
        ValueError: If the architecture is not supported, the model lacks the part or holds it twice, or its
            layers differ in their number of heads, as after `remove_heads`.
    """
    return _shape(_attentions(model, part))


@contextmanager
def head_gates(model: nn.Module, gates: Shaped[Tensor, "*batch layers heads"], part: str = "encoder") -> Iterator[None]:
    """Scales what each attention head contributes by its gate, for as long as the context lasts.

    A gate of 1 leaves its head as it is, bit for bit; 0 masks it. The bias of the output projection stays.
    Gates of several parts can be nested; those of the same part multiply.

    Args:
        model: As in `head_shape`.
        gates: One gate per head, or per example and head, of any dtype and on any device. Gradients flow to
            them; the gates of each example receive the gradient of that example alone.
        part: As in `head_shape`.

    Raises:
        ValueError: If the gates do not fit the model or, in a forward pass, the batch (beam search multiplies
            the batch of a decoder); and as in `head_shape`.

    Note:
        Gradient checkpointing runs layers again in the backward pass, which then belongs inside the context.
        A model compiled beforehand may not heed gates at all; `check_gates` finds out.

    Source: Michel et al. 2019, section 2.3 (mask variables ξ_h).
    """
    attentions = _attentions(model, part)
    _check_shape("gates", gates, attentions, per_example=True)
    with ExitStack() as hooks:
        for layer, attention in enumerate(attentions):
            hooks.enter_context(attention.output.register_forward_pre_hook(_scaling(gates, layer)))
        yield


@torch.no_grad()
def check_gates(model: nn.Module, batch: Mapping[str, Tensor], part: str = "encoder") -> None:
    """Makes sure that gates act: masking the heads of any one layer must change the output of the model.

    Args:
        model: As in `head_shape`, in evaluation mode.
        batch: Inputs of the model; one example suffices.
        part: As in `head_shape`.

    Raises:
        ValueError: If the model is in training mode; and as in `head_shape`.
        RuntimeError: If masking some layers does not change the output; it names them.
    """
    if model.training:
        raise ValueError("model: in training mode dropout changes the output too; call model.eval() first")
    layers, heads = head_shape(model, part)
    plain = _output(model, batch)
    idle = []
    for layer in range(layers):
        others = torch.arange(layers) != layer
        with head_gates(model, others.unsqueeze(1).expand(layers, heads), part):
            if torch.equal(plain, _output(model, batch)):
                idle.append(layer)
    if idle:
        raise RuntimeError(
            f"masking the {part} heads of layers {idle} does not change the output of {type(model).__name__}: "
            "its forward pass skips the hooks (was it compiled before?) or does not use these layers"
        )


def remove_heads(model: nn.Module, mask: Bool[Tensor, "layers heads"], share: bool = False) -> nn.Module:
    """A smaller copy of the model without the pruned heads of its encoder; it computes what masking does.

    A layer may lose all its heads; the bias of its output projection stays. No configuration describes such
    layers: to keep the copy on disk, save the full model and the mask, and remove the heads again on loading.

    Args:
        model: As in `head_shape`; left as it was.
        mask: True where the head is kept.
        share: Whether the copy has the model's own parameters wherever nothing is cut out of them.

    Raises:
        ValueError: If the architecture allows no exact removal or the mask does not fit; and as in `head_shape`.

    Source: Michel et al. 2019, section 4.
    """
    if (model_type := _model_type(model)) not in REMOVABLE:
        raise ValueError(
            f"model: heads of {model_type} models can only be masked, by head_gates(model, mask); "
            f"they can be removed from {', '.join(REMOVABLE)} models"
        )
    _check_shape("mask", mask, _attentions(model, "encoder"))
    own = {id(values): values for values in (*model.parameters(), *model.buffers())} if share else {}
    pruned = copy.deepcopy(model, own)
    for attention, kept in zip(_attentions(pruned, "encoder"), mask, strict=True):
        _keep_heads(attention, kept)
        if not kept.any():
            pruned.set_submodule(attention.path, _headless(attention))
    return pruned


def parameter_count(model: nn.Module) -> int:
    """Number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


# Finding the heads


def _attentions(model: nn.Module, part: str) -> list[_Attention]:
    """The attention of every layer, in order."""
    model_type = _model_type(model)
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


def _model_type(model: nn.Module) -> str:
    """The supported architecture that the model is, or holds."""
    for module in model.modules():
        model_type = getattr(getattr(module, "config", None), "model_type", None)
        if model_type in _PLACES:
            return model_type
    raise ValueError(f"model: no heads known in {type(model).__name__}; supported are {', '.join(_PLACES)}")


def _attention(model: nn.Module, path: str, place: _Place) -> _Attention:
    core_path = f"{path}.{place.core}" if place.core else path
    core = model.get_submodule(core_path)
    output = model.get_submodule(f"{path}.{place.output}")
    names = ("attention_head_size", "head_dim", "key_value_proj_dim")
    head_size = next(getattr(core, name) for name in names if hasattr(core, name))
    width = output.nx if hasattr(output, "nx") else output.in_features  # nx in GPT-2's Conv1D
    return _Attention(core_path, core, output, head_size, width // head_size)


def _shape(attentions: list[_Attention]) -> tuple[int, int]:
    heads = [attention.heads for attention in attentions]
    if len(set(heads)) > 1:
        raise ValueError(f"model: its layers have {heads} heads, some were removed; use the full model")
    return len(heads), heads[0]


def _check_shape(name: str, values: Tensor, attentions: list[_Attention], per_example: bool = False) -> None:
    layers, heads = _shape(attentions)
    if values.shape[-2:] != (layers, heads) or values.ndim > 2 + per_example:
        right = f"({layers}, {heads})" + f" or (batch, {layers}, {heads})" * per_example
        raise ValueError(f"{name}: the shape is {tuple(values.shape)}; this model takes {right}")


# Scaling


def _scaling(gates: Tensor, layer: int) -> Callable[[nn.Module, tuple[Tensor]], Tensor]:
    """A pre-hook that scales each head's slice of what enters an output projection."""

    def scale(_projection: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        (context,) = inputs
        gate = gates[..., layer, :]
        if gate.ndim == 2:
            if len(gate) != len(context):
                raise ValueError(f"gates: given for {len(gate)} examples, but the batch has {len(context)}")
            gate = gate.unsqueeze(1)  # the same at every position
        by_head = context.unflatten(-1, (gate.shape[-1], -1))
        return (by_head * gate.unsqueeze(-1).to(context)).flatten(-2)

    return scale


def _output(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The logits of a task model, else the first tensor that the model returns."""
    output = model(**batch)
    logits = getattr(output, "logits", None)
    return output[0] if logits is None else logits


# Removing heads


class _Headless(nn.Sequential):
    """Attention without heads: an empty context, and the bias of the output projection if that is inside."""

    head_dim = 1  # of no head

    def forward(self, hidden_states: Tensor, *_args: object, **_options: object) -> tuple[Tensor, None]:
        return super().forward(hidden_states[..., :0]), None


def _headless(attention: _Attention) -> _Headless:
    inside = [(name, child) for name, child in attention.core.named_children() if child is attention.output]
    return _Headless(OrderedDict(inside))


def _keep_heads(attention: _Attention, kept: Bool[Tensor, " heads"]) -> None:
    """Cuts the other heads out of the projections."""
    attention.output._forward_pre_hooks.clear()  # gates in force while the model was copied
    if kept.all():
        return
    units = kept.repeat_interleave(attention.head_size).nonzero().flatten()
    for projection in attention.core.children():
        if isinstance(projection, nn.Linear) and projection is not attention.output:
            _cut(projection, units, dim=0)
    _cut(attention.output, units, dim=1)
    heads = int(kept.sum())
    sizes = {"num_attention_heads": heads, "num_heads": heads, "n_heads": heads, "all_head_size": len(units)}
    for name in sizes.keys() & vars(attention.core).keys():
        setattr(attention.core, name, sizes[name])


def _cut(linear: nn.Linear, units: Tensor, dim: int) -> None:
    """Keeps only these outputs (dim 0) or inputs (dim 1)."""

    def cut(parameter: nn.Parameter) -> nn.Parameter:
        part = parameter.detach().index_select(dim, units.to(parameter.device))
        return nn.Parameter(part, requires_grad=parameter.requires_grad)

    linear.weight = cut(linear.weight)
    if dim == 0 and linear.bias is not None:
        linear.bias = cut(linear.bias)
    linear.out_features, linear.in_features = linear.weight.shape
