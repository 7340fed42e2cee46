"""Head gates: one factor per attention head.

The output projection of multi-head attention is linear in the contexts of the heads, so scaling a head's
slice of its input scales what the head contributes and nothing else; dropout, residual and attention kernel
stay as they are. A forward pre-hook on the projection does this in every architecture of the table.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from xsub_utils._internal.validation import invalid
from xsub_utils.models.architectures import attentions_of, check_shape, head_shape


@contextmanager
def head_gates(
    model: nn.Module, gates: Shaped[Tensor, "*batch layers heads"], *, part: str = "encoder"
) -> Iterator[None]:
    """Scales what each attention head contributes by its gate, for as long as the context lasts.

    A gate of 1 leaves its head as it is, bit for bit; 0 masks it. The bias of the output projection stays.
    Gates of several parts can be nested; those of the same part multiply. Where layers share their weights (ALBERT),
    each layer has gates of its own all the same: the modules know how often they were called in a forward pass.

    Args:
        model: As in `head_shape`.
        gates: One gate per head, or per example and head, of any dtype and on any device. Gradients flow to
            them; the gates of each example receive the gradient of that example alone.
        part: As in `head_shape`.

    Raises:
        ValueError: If the gates do not fit the model or, in a forward pass, the batch (beam search multiplies
            the batch of a decoder); if the model ran inside the context and passed its gates by; and as in
            `head_shape`.

    Note:
        Gradient checkpointing runs layers again in the backward pass, which then belongs inside the context.
        A compiled model would pass gates by, and is refused; `check_gates` tries them layer by layer.

    Source: Michel et al. 2019, section 2.3 (mask variables ξ_h).

    Example:
        >>> import torch
        >>> import xsub_utils as xs
        >>> model, tokenizer = xs.load_encoder("minibabel-base", "sequence", labels=["no", "yes"])
        >>> batch = {"input_ids": torch.arange(5, 10).unsqueeze(0)}
        >>> mask = torch.ones(xs.head_shape(model), dtype=torch.bool)
        >>> full = model(**batch).logits
        >>> with xs.head_gates(model, mask):
        ...     torch.equal(model(**batch).logits, full)
        True
        >>> mask[2, 7] = False
        >>> with xs.head_gates(model, mask):
        ...     torch.equal(model(**batch).logits, full)
        False
    """
    attentions = attentions_of(model, part)
    check_shape("gates", gates, attentions, per_example=True)
    layers = defaultdict(list)
    for layer, attention in enumerate(attentions):
        layers[attention.output].append(layer)
    scalings, runs = [_Scaling(gates, own) for own in layers.values()], _Runs()
    with ExitStack() as hooks:
        for output, scaling in zip(layers, scalings, strict=True):
            hooks.enter_context(output.register_forward_pre_hook(scaling))
            if len(scaling.layers) > 1:
                stack = model.get_submodule(attentions[scaling.layers[0]].stack)
                hooks.enter_context(stack.register_forward_pre_hook(scaling.begin))
        for runner in {model, getattr(model, "base_model", model)}:
            hooks.enter_context(runner.register_forward_hook(runs))
        yield
    if runs.count and (idle := [layer for scaling in scalings if not scaling.calls for layer in scaling.layers]):
        raise _idle(model, part, idle)


@torch.no_grad()
def check_gates(model: nn.Module, batch: Mapping[str, Tensor], *, part: str = "encoder") -> None:
    """Makes sure that gates act: masking the heads of any one layer must change the output of the model.

    Args:
        model: As in `head_shape`, in evaluation mode.
        batch: Inputs of the model; one example suffices.
        part: As in `head_shape`.

    Raises:
        ValueError: If the model is in training mode; if masking some layers does not change the output, which it
            names; and as in `head_shape`.

    Example:
        >>> import torch
        >>> import xsub_utils as xs
        >>> model, tokenizer = xs.load_encoder("minibabel-base", "sequence", labels=["no", "yes"])
        >>> xs.check_gates(model.eval(), {"input_ids": torch.arange(5, 10).unsqueeze(0)})  # raises if gates do nothing
    """
    if model.training:
        raise invalid(
            "model",
            "one in evaluation mode",
            "one in training mode, where dropout changes the output too",
            "call model.eval() first",
        )
    if not isinstance(batch, Mapping):
        raise invalid("batch", "one batch, a dict of tensors", f"a {type(batch).__name__}", "take the first of a list")
    layers, heads = head_shape(model, part=part)
    plain = _output(model, batch)
    idle = []
    for layer in range(layers):
        others = torch.arange(layers) != layer
        with head_gates(model, others.unsqueeze(1).expand(layers, heads), part=part):
            if torch.equal(plain, _output(model, batch)):
                idle.append(layer)
    if idle:
        raise _idle(model, part, idle)


def check_for_all(gates: object) -> None:
    """Raises unless gates are those of all examples, whose batches may come in any order.

    Raises:
        ValueError: If they are not a tensor (layers, heads).
    """
    if gates is not None and not (isinstance(gates, Tensor) and gates.ndim == 2):
        got = f"shape {tuple(gates.shape)}" if isinstance(gates, Tensor) else f"a {type(gates).__name__}"
        remedy = "a Subnetwork has it as .mask" if hasattr(gates, "mask") else ""
        raise invalid("gates", "a tensor of shape (layers, heads), the same for all examples", got, remedy)


class _Runs:
    """A forward hook that counts; a copy of the model counts for itself."""

    count = 0

    def __call__(self, *_passed: object) -> None:
        self.count += 1


class _Scaling:
    """A pre-hook that scales each head's slice of what enters an output projection, in layer after layer."""

    def __init__(self, gates: Tensor, layers: Sequence[int]):
        self.gates, self.layers, self.calls = gates, layers, 0

    def begin(self, _stack: nn.Module, _inputs: tuple) -> None:
        """A pre-hook: the first of the layers comes next."""
        self.calls = 0

    def __call__(self, _projection: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        (context,) = inputs
        gate = self.gates[..., self.layers[self.calls % len(self.layers)], :]
        self.calls += 1
        if gate.ndim == 2:
            if len(gate) != len(context):
                raise invalid("gates", f"those of the {len(context)} examples of the batch", f"those of {len(gate)}")
            gate = gate.unsqueeze(1)  # the same at every position
        by_head = context.unflatten(-1, (gate.shape[-1], -1))
        return (by_head * gate.unsqueeze(-1).to(context)).flatten(-2)


def _idle(model: nn.Module, part: str, layers: Sequence[int]) -> ValueError:
    expected = f"an output that depends on the gates of all {part} heads"
    got = f"a {type(model).__name__} whose output does not depend on those of layers {list(layers)}"
    return invalid("model", expected, got, "does its forward pass call the output projections of these layers?")


def _output(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The logits of a task model, else the first tensor that the model returns."""
    output = model(**batch)
    logits = getattr(output, "logits", None)
    return output[0] if logits is None else logits
