"""The weights of single heads: which they are, and models without them."""

import copy
from collections import OrderedDict
from collections.abc import Iterator

from jaxtyping import Bool
from torch import Tensor, nn

from xsub_utils.models.architectures import REMOVABLE, Attention, attentions_of, check_shape, model_type_of


def remove_heads(model: nn.Module, mask: Bool[Tensor, "layers heads"], *, share: bool = False) -> nn.Module:
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
    _check_removable(model, "its heads can only be masked, by head_gates(model, mask)")
    check_shape("mask", mask, attentions_of(model, "encoder"))
    own = {id(values): values for values in (*model.parameters(), *model.buffers())} if share else {}
    pruned = copy.deepcopy(model, own)
    for attention, kept in zip(attentions_of(pruned, "encoder"), mask, strict=True):
        _keep_heads(attention, kept)
        if not kept.any():
            pruned.set_submodule(attention.path, _headless(attention))
    return pruned


def head_weights(model: nn.Module, mask: Bool[Tensor, "layers heads"]) -> dict[str, Bool[Tensor, "..."]]:
    """Which weights belong to the kept heads of an encoder: rows of query, key and value, columns of the output.

    Args:
        model: As in `head_shape`.
        mask: True where the head is kept.

    Returns:
        Parameter name -> True where a weight belongs to a kept head, in the shape of the parameter. Parameters that
        belong to no single head, such as the bias of the output projection, are not there.

    Raises:
        ValueError: If the architecture computes queries, keys and values in one, or the mask does not fit; and as in
            `head_shape`.
    """
    _check_removable(model, "the weights of a head cannot be told apart")
    check_shape("mask", mask, attentions_of(model, "encoder"))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for attention, kept in zip(attentions_of(model, "encoder"), mask.cpu(), strict=True):
        units = kept.repeat_interleave(attention.head_size)
        for linear, dim in _projections(attention):
            found[names[id(linear.weight)]] = (units if dim else units[:, None]).expand(linear.weight.shape)
            if dim == 0 and linear.bias is not None:
                found[names[id(linear.bias)]] = units
    return found


def parameter_count(model: nn.Module) -> int:
    """Number of parameters; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _check_removable(model: nn.Module, why: str) -> None:
    if (model_type := model_type_of(model)) not in REMOVABLE:
        raise ValueError(f"model: of {model_type}, {why}; that can be done in {', '.join(REMOVABLE)} models")


class _Headless(nn.Sequential):
    """Attention without heads: an empty context, and the bias of the output projection if that is inside."""

    head_dim = 1  # of no head

    def forward(self, hidden_states: Tensor, *_args: object, **_options: object) -> tuple[Tensor, None]:
        return super().forward(hidden_states[..., :0]), None


def _headless(attention: Attention) -> _Headless:
    inside = [(name, child) for name, child in attention.core.named_children() if child is attention.output]
    return _Headless(OrderedDict(inside))


def _keep_heads(attention: Attention, kept: Bool[Tensor, " heads"]) -> None:
    """Cuts the other heads out of the projections."""
    attention.output._forward_pre_hooks.clear()  # gates in force while the model was copied
    if kept.all():
        return
    units = kept.repeat_interleave(attention.head_size).nonzero().flatten()
    for projection, dim in _projections(attention):
        _cut(projection, units, dim)
    heads = int(kept.sum())
    sizes = {"num_attention_heads": heads, "num_heads": heads, "n_heads": heads, "all_head_size": len(units)}
    for name in sizes.keys() & vars(attention.core).keys():
        setattr(attention.core, name, sizes[name])


def _projections(attention: Attention) -> Iterator[tuple[nn.Linear, int]]:
    """Each linear layer of an attention, and the dimension of its weights along which the heads lie."""
    for projection in attention.core.children():
        if isinstance(projection, nn.Linear) and projection is not attention.output:
            yield projection, 0
    yield attention.output, 1


def _cut(linear: nn.Linear, units: Tensor, dim: int) -> None:
    """Keeps only these outputs (dim 0) or inputs (dim 1)."""

    def cut(parameter: nn.Parameter) -> nn.Parameter:
        part = parameter.detach().index_select(dim, units.to(parameter.device))
        return nn.Parameter(part, requires_grad=parameter.requires_grad)

    linear.weight = cut(linear.weight)
    if dim == 0 and linear.bias is not None:
        linear.bias = cut(linear.bias)
    linear.out_features, linear.in_features = linear.weight.shape
