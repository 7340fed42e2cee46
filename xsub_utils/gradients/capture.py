"""Per-example gradients out of one ordinary backward pass.

A linear layer's weight gradient is an outer product of its input and the gradient of its output, both of which pass by
in the backward pass of the whole batch. Hooks take them there; no parameter needs a gradient of its own, so that the
pass costs less than a step of training and nothing is computed per example that is not a matrix product.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from xsub_utils._internal.validation import invalid
from xsub_utils.evaluation.forward import forward
from xsub_utils.gradients.factors import FactoredGradients, Outer, Rows, Vector, added, widened
from xsub_utils.heads.gates import head_gates
from xsub_utils.models.batches import IGNORED

GATES = "gates"  # of a batch, (examples, layers, heads): heads that each example runs through
Loss = Callable[[Tensor, Tensor], Tensor]  # logits, labels -> one value per example
Receiver = Callable[[str, FactoredGradients], None]  # name of a parameter, its gradients for the examples of a batch


def example_loss(logits: Tensor, labels: Tensor) -> Float[Tensor, " examples"]:
    """Cross-entropy of each example in nats: the mean over its own labels.

    The loss that transformers computes from `labels=` is a mean over all labels of a batch, so that the gradient of a
    sentence would depend on the length of the others.

    Args:
        logits: (examples, classes) or (examples, positions, classes).
        labels: (examples,) or (examples, positions); -100 where nothing is predicted.

    Raises:
        ValueError: If an example has no label.
    """
    if labels.dim() == 1:
        return nn.functional.cross_entropy(widened(logits), labels, reduction="none")
    counted = labels != IGNORED
    if not counted.any(1).all():
        example = int((~counted).all(1).nonzero()[0])
        raise invalid("batches", "a label in every example", f"none in example {example} of a batch", "leave it out")
    losses = nn.functional.cross_entropy(widened(logits).flatten(0, 1), labels.flatten(), reduction="none")
    return losses.view(labels.shape).sum(1) / counted.sum(1)


def losses_of(model: nn.Module, batch: Mapping[str, Tensor], loss: Loss) -> Float[Tensor, " examples"]:
    """Loss of each example, which runs through heads of its own if the batch says which.

    Raises:
        ValueError: If there is not one finite value for each example, or none depends on the model.
    """
    gates, examples = batch.get(GATES), len(next(iter(batch.values())))
    with nullcontext() if gates is None else head_gates(model, gates):
        labels, logits = forward(model, {name: values for name, values in batch.items() if name != GATES})
    losses = loss(logits, labels)
    if losses.shape != (examples,):
        raise invalid("loss", f"one value for each of the {examples} examples", f"shape {tuple(losses.shape)}")
    if not losses.requires_grad:
        raise invalid(
            "loss", "values that depend on the parameters", "constants", "is the model compiled or quantised?"
        )
    if not losses.isfinite().all():
        example = int((~losses.isfinite()).nonzero()[0])
        raise invalid(
            "loss",
            "a finite value for each example",
            f"{losses[example].item()} for example {example} of a batch",
            "did the training of this model diverge?",
        )
    return losses


class Capture:
    """Hooks in a model that hand over the gradients of each parameter, example by example, when they are complete.

    `example_gradients` is the easy way to use it.

    Args:
        model: In evaluation mode, its parameters without `requires_grad`.
        names: id of each parameter whose gradients are wanted -> its name.
    """

    def __init__(self, model: nn.Module, names: Mapping[int, str]):
        self.model, self.names = model, names
        self.owners = _owners(model, names)
        self.arrived: dict[str, list[FactoredGradients]] = defaultdict(list)  # of each use of a parameter
        self.uses: dict[str, int] = defaultdict(int)
        self.replaying = False

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """The hooks are in the model inside the `with` block."""
        handles = [module.register_forward_hook(self._passed) for module in self.owners]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def gradients(self, batch: Mapping[str, Tensor], loss: Loss, receive: Receiver) -> None:
        """Calls `receive(name, gradients)` once for each parameter that the loss of a batch depends on.

        Args:
            batch: Inputs and labels on the device of the model.
            loss: Logits and labels -> one value per example.
            receive: Takes the name of a parameter and its gradients for all examples of the batch, during the
                backward pass. What it does not keep is freed.

        Raises:
            ValueError: As in `losses_of`; or if a parameter acts on something that is not divided by example.
        """
        self.receive, self.examples = receive, len(next(iter(batch.values())))
        self.arrived.clear()
        self.uses.clear()
        with torch.enable_grad():
            losses_of(self.model, batch, loss).sum().backward()
        for name in [name for name, uses in self.arrived.items() if uses]:  # of several uses, some had no effect
            self._complete(name)

    def _passed(self, module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
        """Forward hook: from here on the graph is recorded, and the gradient of the output will be seen."""
        seen = inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
        if self.replaying or not torch.is_grad_enabled() or not seen:
            return None
        x = inputs[0].detach()
        if _is(module, nn.Embedding) and len(output) == 1:  # positions, the same for all
            x, output = (side.expand(self.examples, *side.shape[1:]) for side in (x, output))
        if len(output) != self.examples or len(x) != self.examples:
            raise invalid(
                "parameters",
                f"parameters that act on each of the {self.examples} examples",
                f"{', '.join(self.owners[module].values())}, which act on inputs of shape {tuple(x.shape)}",
                "leave them out by parameters=",
            )
        if not output.requires_grad:
            output = output.detach().requires_grad_().clone()  # cloned, lest what follows changes a leaf in place
        for name in self.owners[module].values():
            self.uses[name] += 1
        output.register_hook(lambda gradient: self._came_back(module, x, gradient.detach()))
        return output

    def _came_back(self, module: nn.Module, x: Tensor, gradient: Tensor) -> None:
        """Hook of an output: its gradient is there, so that those of the module's parameters can be had."""
        own = self.owners[module]
        for key, gradients in self._of_module(module, x, gradient, own):
            self.arrived[own[key]].append(gradients)
            if len(self.arrived[own[key]]) == self.uses[own[key]]:
                self._complete(own[key])

    def _complete(self, name: str) -> None:
        uses = self.arrived[name]
        self.arrived[name] = []
        gradients = added(uses)
        self.receive(name, gradients.compact() if isinstance(gradients, Outer) else gradients)

    @torch.no_grad()
    def _of_module(
        self, module: nn.Module, x: Tensor, gradient: Tensor, own: Mapping[str, str]
    ) -> Iterator[tuple[str, FactoredGradients]]:
        """Key of each parameter in its module, and its gradients."""
        if isinstance(module, nn.Embedding) and _is(module, nn.Embedding) and _is_plain(module):
            yield "weight", _rows(module, x, gradient)
        elif _is(module, nn.Linear) or _is(module, Conv1D):
            sides = [_positions(side) for side in (gradient, x)]
            if "weight" in own:
                yield "weight", Outer(*(sides if isinstance(module, nn.Linear) else sides[::-1]))
            if "bias" in own:
                yield "bias", Vector(sides[0].sum(1))
        elif isinstance(module, nn.LayerNorm) and _is(module, nn.LayerNorm):
            if "weight" in own:
                normal = nn.functional.layer_norm(x, module.normalized_shape, eps=module.eps)
                yield "weight", Vector(_summed(gradient * normal, module))
            if "bias" in own:
                yield "bias", Vector(_summed(gradient, module))
        else:
            yield from self._replayed(module, x, gradient, own)

    def _replayed(
        self, module: nn.Module, x: Tensor, gradient: Tensor, own: Mapping[str, str]
    ) -> Iterator[tuple[str, FactoredGradients]]:
        """Any other module: its own backward pass, example by example."""
        parameters = {key: module._parameters[key] for key in own}

        def backward(example: Tensor, seen: Tensor) -> dict[str, Tensor]:
            def run(values: dict[str, Tensor]) -> Tensor:
                return torch.func.functional_call(module, values, (example.unsqueeze(0),))[0]

            return torch.func.vjp(run, parameters)[1](seen)[0]

        self.replaying = True
        try:
            by_key = torch.func.vmap(backward)(x, gradient)
        finally:
            self.replaying = False
        yield from ((key, Vector(values.flatten(1))) for key, values in by_key.items())


def _owners(model: nn.Module, names: Mapping[int, str]) -> dict[nn.Module, dict[str, str]]:
    """Module -> key and name of its own parameters. Of a tied one, modules that only pass it on do not count."""
    holders: dict[str, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for key, value in module._parameters.items():
            if id(value) in names:
                holders[names[id(value)]].append((module, key))
    owners: dict[nn.Module, dict[str, str]] = defaultdict(dict)
    for name, places in holders.items():
        leaves = [place for place in places if not any(place[0].children())]
        for module, key in leaves or places:
            owners[module][key] = name
    return dict(owners)


def _is(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module computes what modules of a kind do; a subclass may not."""
    return isinstance(module, kind) and type(module).forward is kind.forward


def _is_plain(module: nn.Embedding) -> bool:
    """Whether an embedding's gradient is no more than the sum of what comes back to each token."""
    return not module.scale_grad_by_freq and module.max_norm is None


def _rows(module: nn.Embedding, ids: Tensor, gradient: Tensor) -> Rows:
    example = torch.arange(len(ids), device=ids.device).view(-1, *[1] * (ids.dim() - 1)).expand_as(ids)
    values = gradient.flatten(0, -2)
    if module.padding_idx is not None:
        values = values.masked_fill((ids == module.padding_idx).flatten().unsqueeze(1), 0)
    return Rows.summed(example.flatten(), ids.flatten(), values, len(ids), module.num_embeddings)


def _positions(side: Tensor) -> Tensor:
    """(examples, positions, features), whatever lies between."""
    return side.unsqueeze(1) if side.dim() == 2 else side.flatten(1, -2)


def _summed(values: Tensor, module: nn.LayerNorm) -> Tensor:
    """Over all positions: (examples, features)."""
    features = values.shape[values.dim() - len(module.normalized_shape) :].numel()
    return values.reshape(len(values), -1, features).sum(1)
