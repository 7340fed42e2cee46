"""The weights of single heads: which they are, and models without them.

The rows of queries, keys and values lie in one of the layouts of the table of architectures. Where several heads share
a key and value head (grouped-query attention), a key and value head goes with the last head that asks it. Groups that
are of different sizes afterwards are no longer what attention can compute from shared heads: there the key and value
heads are repeated, as often as the greatest common divisor of the sizes demands, which is exact too.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator
from math import gcd
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import Cache
from transformers.pytorch_utils import Conv1D

from xsub_utils._internal.validation import invalid
from xsub_utils.models.architecture_table import TABLE, Architecture
from xsub_utils.models.architectures import (
    Attention,
    architecture_of,
    attentions_of,
    check_mask,
    check_shape,
    model_type_of,
)
from xsub_utils.models.wrapped import check_plain_weights


def remove_heads(model: nn.Module, mask: Bool[Tensor, "layers heads"], *, share: bool = False) -> nn.Module:
    """A smaller copy of the model without the pruned heads of its encoder; it computes what masking does.

    A layer may lose all its heads; the bias of its output projection stays. In a decoder that stands alone these are
    the heads of the decoder. Where heads share keys and values in groups, groups that lose different numbers of heads
    keep copies of their keys and values, so that the model may even grow. No configuration describes such layers: to
    keep the copy on disk, save the full model and the mask, and remove the heads again on loading.

    Args:
        model: As in `head_shape`; left as it was.
        mask: Of torch.bool, True where the head is kept.
        share: Whether the copy has the model's own parameters wherever nothing is cut out of them.

    Raises:
        ValueError: If the architecture allows no exact removal, hooks such as those of `head_gates` are in force on its
            attention, its weights are adapted, parametrised or quantised, or the mask does not fit; and as in
            `head_shape`.

    Source: Michel et al. 2019, section 4.

    Example:
        >>> import torch
        >>> import xsub_utils as xs
        >>> model, tokenizer = xs.load_encoder("minibabel-base", "sequence", labels=["no", "yes"])
        >>> mask = torch.ones(xs.head_shape(model), dtype=torch.bool)
        >>> mask[0, :4] = False
        >>> small = xs.remove_heads(model, mask)
        >>> small.num_parameters() < model.num_parameters()
        True
    """
    projections = _check_removable(model, "mask them instead: head_gates(model, mask)").projections
    attentions = attentions_of(model, "encoder")
    check_mask("mask", mask, attentions)
    if _hooked(attentions):
        remedy = "remove heads outside of head_gates, and add other hooks to the smaller model"
        raise invalid("model", "attention without hooks", "hooks in force on it, which would be lost", remedy)
    own = {id(values): values for values in (*model.parameters(), *model.buffers())} if share else {}
    pruned = copy.deepcopy(model, own)
    for attention, kept in zip(attentions_of(pruned, "encoder"), mask, strict=True):
        _keep_heads(attention, kept, projections)
        if not kept.any():
            pruned.set_submodule(attention.path, _headless(attention))
    return pruned


def removes_like_masking(model: nn.Module, mask: Bool[Tensor, "layers heads"]) -> bool:
    """Whether `remove_heads` may take the place of a mask in this model: it loses no hook, and copies no weight.

    Weights are copied where groups of heads that share keys and values become unequal.
    """
    architecture = TABLE.get(getattr(getattr(model, "config", None), "model_type", ""))
    if architecture is None or not architecture.projections:
        return False
    attentions = attentions_of(model, "encoder")
    check_shape("mask", mask, attentions)
    if _hooked(attentions) or not _plain(attentions):
        return False
    asked = [_heads_asked(attention, kept.cpu()) for attention, kept in zip(attentions, mask, strict=True)]
    return all(len(heads.unique()) == len(heads) for heads in asked)


def head_weights(model: nn.Module, mask: Bool[Tensor, "layers heads"]) -> dict[str, Bool[Tensor, "..."]]:
    """Which weights belong to the kept heads of an encoder: rows of query, key and value, columns of the output.

    A key and value head that several heads share belongs to each of them.

    Args:
        model: As in `head_shape`.
        mask: True where the head is kept.

    Returns:
        Parameter name -> True where a weight belongs to a kept head, in the shape of the parameter. Parameters that
        belong to no single head, such as the bias of the output projection, are not there.

    Raises:
        ValueError: If the weights of a head cannot be told apart, or the mask does not fit; and as in `head_shape`.
    """
    projections = _check_removable(model, "there is no telling which weights are those of a head").projections
    check_mask("mask", mask, attentions_of(model, "encoder"))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for attention, kept in zip(attentions_of(model, "encoder"), mask.cpu(), strict=True):
        for cut in _cuts(attention, kept, projections):
            for parameter, dim in cut.parameters():
                units = torch.zeros(parameter.shape[dim], dtype=torch.bool)
                units[cut.units] = True
                shape = [-1 if axis == dim else 1 for axis in range(parameter.dim())]
                found[names[id(parameter)]] = units.view(shape).expand(parameter.shape)
    return found


def parameter_count(model: nn.Module) -> int:
    """Number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _check_removable(model: nn.Module, remedy: str) -> Architecture:
    architecture, model_type = architecture_of(model), model_type_of(model)
    if not architecture.projections:
        removable = ", ".join(sorted(name for name, known in TABLE.items() if known.projections))
        raise invalid(
            "model", f"heads with weights of their own ({removable})", f"{model_type}: {architecture.obstacle}", remedy
        )
    check_plain_weights(_projections(attentions_of(model, "encoder")))
    return architecture


def _projections(attentions: list[Attention]) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of all that may hold weights of heads."""
    for attention in attentions:
        yield from ((f"{attention.path}.{name}", child) for name, child in attention.core.named_children())
        yield f"the output of {attention.path}", attention.output


def _plain(attentions: list[Attention]) -> bool:
    try:
        check_plain_weights(_projections(attentions))
    except ValueError:
        return False
    return True


def _hooked(attentions: list[Attention]) -> bool:
    """Whether a hook acts on an attention module or one of its projections."""
    modules = [module for _, module in _projections(attentions)] + [attention.core for attention in attentions]
    hooks = [
        hook
        for module in modules
        for kind in (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks)
        for hook in kind.values()
    ]  # those by which transformers hands out states change nothing
    return not all(getattr(hook, "__module__", "").startswith("transformers.") for hook in hooks)


class Headless(nn.Sequential):
    """Attention without heads: an empty context, and the bias of the output projection if that is inside."""

    head_dim = 1  # of no head
    layer_idx: int

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, *_args: object, **options: object
    ) -> tuple[Tensor, None]:
        for cache in (options.get("past_key_values"), options.get("layer_past")):
            if isinstance(cache, Cache):  # it takes its length from the states of the first layer
                nothing = hidden_states[:, None, :, :1].detach()
                cache.update(nothing, nothing, self.layer_idx)
        return super().forward(hidden_states[..., :0]), None


def _headless(attention: Attention) -> Headless:
    children = list(attention.core.named_children())
    inside = [(name, child) for name, child in children if child is attention.output]
    if inside and isinstance(attention.output, Conv1D):  # which cannot do without inputs
        inside = [(inside[0][0], _linear(attention.output))]
    after = [(name, child) for name, child in children if inside and name in ("out_drop", "resid_dropout")]
    headless = Headless(OrderedDict(inside + after))
    headless.training, headless.layer_idx = attention.core.training, getattr(attention.core, "layer_idx", 0)
    return headless


def _linear(layer: Conv1D) -> nn.Linear:
    linear = nn.Linear(1, 1, device="meta")
    linear.weight = nn.Parameter(layer.weight.detach().T, requires_grad=layer.weight.requires_grad)
    linear.bias, linear.in_features, linear.out_features = layer.bias, layer.nx, layer.nf
    return linear


class _Cut(NamedTuple):
    """What stays of a module.

    Attributes:
        module: A linear layer, or a norm with a row of weights for each head.
        inputs: Whether inputs are cut, not outputs.
        units: Those that stay, in order.
    """

    module: nn.Module
    inputs: bool
    units: Int[Tensor, " units"]

    def parameters(self) -> Iterator[tuple[nn.Parameter, int]]:
        """Each parameter that is cut, and the dimension along which the heads lie."""
        transposed = isinstance(self.module, Conv1D)
        yield self.module.weight, int(self.inputs != transposed)  # type: ignore[misc]
        if not self.inputs and getattr(self.module, "bias", None) is not None:
            yield self.module.bias, 0  # type: ignore[misc]


def _keep_heads(attention: Attention, kept: Bool[Tensor, " heads"], projections: str) -> None:
    """Cuts the other heads out of the projections."""
    if kept.all():
        return
    heads, width, group_size = int(kept.sum()), int(kept.sum()) * attention.head_size, _group_size(attention, kept)
    for cut in list(_cuts(attention, kept, projections)):
        _apply(cut)
    sizes = {"num_attention_heads": heads, "num_heads": heads, "n_heads": heads, "num_key_value_groups": group_size}
    sizes |= {"all_head_size": width, "split_size": width, "embed_dim": width}
    for name in sizes.keys() & vars(attention.core).keys():
        setattr(attention.core, name, sizes[name])


def _cuts(attention: Attention, kept: Bool[Tensor, " heads"], projections: str) -> Iterator[_Cut]:
    """What stays of every module in which heads have weights of their own."""
    size, heads = attention.head_size, kept.nonzero().flatten()
    for module in attention.core.children():
        if module is attention.output:
            continue
        if isinstance(module, nn.Linear | Conv1D):
            yield _Cut(module, False, _rows(attention, module, kept, projections))
        elif isinstance(weight := getattr(module, "weight", None), Tensor) and weight.dim() == 2:  # a norm of each head
            yield _Cut(module, False, heads if len(weight) == attention.heads else _heads_asked(attention, kept))
    yield _Cut(attention.output, True, _spread(heads, size))


def _rows(attention: Attention, module: nn.Module, kept: Bool[Tensor, " heads"], projections: str) -> Tensor:
    """Outputs of a projection that stay."""
    size, heads = attention.head_size, kept.nonzero().flatten()
    if projections == "interleaved":
        return _spread(heads, 3 * size)
    if projections == "stacked":
        return torch.cat([_spread(heads + block * attention.heads, size) for block in range(3)])
    shared = _outputs(module) < attention.heads * size
    return _spread(_heads_asked(attention, kept) if shared else heads, size)


def _heads_asked(attention: Attention, kept: Bool[Tensor, " heads"]) -> Int[Tensor, " keys"]:
    """Key and value heads that stay, each as often as it takes for them to be asked by equally many heads."""
    sizes = _group_sizes(attention, kept)
    return torch.arange(len(sizes), device=kept.device).repeat_interleave(sizes // _group_size(attention, kept))


def _group_size(attention: Attention, kept: Bool[Tensor, " heads"]) -> int:
    """How many heads will ask each key and value head."""
    return gcd(*_group_sizes(attention, kept).tolist()) or 1


def _group_sizes(attention: Attention, kept: Bool[Tensor, " heads"]) -> Int[Tensor, " groups"]:
    """How many of the heads that ask the same key and value head are kept."""
    group = getattr(attention.core, "num_key_value_groups", 1)
    return kept.view(-1, group).sum(1)


def _spread(heads: Int[Tensor, " heads"], size: int) -> Int[Tensor, " units"]:
    """The units of these heads."""
    return (heads[:, None] * size + torch.arange(size, device=heads.device)).flatten()


def _outputs(module: nn.Module) -> int:
    return module.nf if isinstance(module, Conv1D) else module.out_features  # type: ignore[return-value]


def _apply(cut: _Cut) -> None:
    for parameter, dim in list(cut.parameters()):
        part = parameter.detach().index_select(dim, cut.units.to(parameter.device))
        name = "weight" if parameter is cut.module.weight else "bias"
        setattr(cut.module, name, nn.Parameter(part, requires_grad=parameter.requires_grad))
    if isinstance(cut.module, nn.Linear):
        cut.module.out_features, cut.module.in_features = cut.module.weight.shape
    elif isinstance(cut.module, Conv1D):
        cut.module.nx, cut.module.nf = cut.module.weight.shape
