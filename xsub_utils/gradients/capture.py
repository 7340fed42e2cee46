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

from xsub_utils.evaluation.scores import forward
from xsub_utils.gradients.factors import Outer, Part, Rows, Vector, added, widened
from xsub_utils.heads.gates import head_gates
from xsub_utils.models.batches import IGNORED

GATES = "gates"  # of a batch, (examples, layers, heads): heads that each example runs through
Loss = Callable[[Tensor, Tensor], Tensor]  # logits, labels -> one value per example
_TOLERANCE = {torch.float16: 0.1, torch.bfloat16: 0.1}  # relative, of the sum of all per-example gradients; else 1e-3


def example_loss(logits: Tensor, labels: Tensor) -> Float[Tensor, " examples"]:
    """Cross-entropy of each example in nats: the mean over its own labels.

    The loss that transformers compute from `labels=` is a mean over all labels of a batch, so that the gradient of a
    sentence would depend on the length of the others.

    Raises:
        ValueError: If an example has no label.
    """
    if labels.dim() == 1:
        return nn.functional.cross_entropy(widened(logits), labels, reduction="none")
    counted = labels != IGNORED
    if not counted.any(1).all():
        raise ValueError(
            f"batches: example {int((~counted).all(1).nonzero()[0])} of a batch has no label, so it has no loss; "
            "leave it out"
        )
    losses = nn.functional.cross_entropy(widened(logits).flatten(0, 1), labels.flatten(), reduction="none")
    return losses.view(labels.shape).sum(1) / counted.sum(1)


def run(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Labels and logits, each example through its own heads, if the batch says which."""
    gates = batch.get(GATES)
    with nullcontext() if gates is None else head_gates(model, gates):
        return forward(model, {name: values for name, values in batch.items() if name != GATES})


class Capture:
    """Hooks in a model that hand over the per-example gradient of each parameter as soon as it is complete.

    Args:
        model: In evaluation mode, its parameters without `requires_grad`.
        names: id of each parameter that is asked for -> its name.
    """

    def __init__(self, model: nn.Module, names: Mapping[int, str]):
        self.model, self.names = model, names
        self.owners = _owners(model, names)
        embeddings = [(module, own) for module, own in self.owners.items() if isinstance(module, nn.Embedding)]
        self.tokens = {own["weight"]: module.num_embeddings for module, own in embeddings}
        self.parts: dict[str, list[Part]] = defaultdict(list)
        self.uses: dict[str, int] = defaultdict(int)
        self.replaying = False

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = [module.register_forward_hook(self._passed) for module in self.owners]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def gradients(self, batch: Mapping[str, Tensor], loss: Loss, ready: Callable[[str, Part], None]) -> None:
        """Calls `ready(name, gradients of the batch's examples)` once for each parameter that the loss depends on."""
        self.ready, self.examples = ready, len(next(iter(batch.values())))
        self.parts.clear()
        self.uses.clear()
        with torch.enable_grad():
            labels, logits = run(self.model, batch)
            losses = loss(logits, labels)
            if losses.shape != (self.examples,):
                raise ValueError(f"loss: gives shape {tuple(losses.shape)}; one value per example would be right")
            if not losses.requires_grad:
                raise ValueError("loss: it depends on none of the parameters; is the model compiled or quantised?")
            losses.sum().backward()
        for name in [name for name, parts in self.parts.items() if parts]:  # of several uses some were without effect
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
            raise ValueError(
                f"parameters: {', '.join(self.owners[module].values())} act on something of shape {tuple(x.shape)} "
                f"that is not divided by the {self.examples} examples; leave them out to attribute to the others"
            )
        if not output.requires_grad:
            output = output.detach().requires_grad_().clone()  # cloned, lest what follows changes a leaf in place
        for name in self.owners[module].values():
            self.uses[name] += 1
        output.register_hook(lambda gradient: self._arrived(module, x, gradient.detach()))
        return output

    def _arrived(self, module: nn.Module, x: Tensor, gradient: Tensor) -> None:
        own = self.owners[module]
        for key, part in self._parts(module, x, gradient, own):
            self.parts[own[key]].append(part)
            if len(self.parts[own[key]]) == self.uses[own[key]]:
                self._complete(own[key])

    def _complete(self, name: str) -> None:
        parts = self.parts[name]
        self.parts[name] = []
        part = added(parts, self.tokens.get(name, 0))
        self.ready(name, part.compact() if isinstance(part, Outer) else part)

    @torch.no_grad()
    def _parts(self, module: nn.Module, x: Tensor, gradient: Tensor, own: Mapping[str, str]) -> Iterator[tuple]:
        """Key of the parameter in its module, and its gradients."""
        if _is(module, nn.Embedding) and not module.scale_grad_by_freq and module.max_norm is None:
            yield "weight", _rows(module, x, gradient)
        elif _is(module, nn.Linear) or _is(module, Conv1D):
            sides = [_positions(side) for side in (gradient, x)]
            if "weight" in own:
                yield "weight", Outer(*(sides if isinstance(module, nn.Linear) else sides[::-1]))
            if "bias" in own:
                yield "bias", Vector(sides[0].sum(1))
        elif _is(module, nn.LayerNorm):
            if "weight" in own:
                normal = nn.functional.layer_norm(x, module.normalized_shape, eps=module.eps)
                yield "weight", Vector(_summed(gradient * normal, module))
            if "bias" in own:
                yield "bias", Vector(_summed(gradient, module))
        else:
            yield from self._replayed(module, x, gradient, own)

    def _replayed(self, module: nn.Module, x: Tensor, gradient: Tensor, own: Mapping[str, str]) -> Iterator[tuple]:
        """Any other module: its own backward pass, example by example."""
        parameters = {key: module._parameters[key] for key in own}

        def backward(one: Tensor, seen: Tensor) -> dict[str, Tensor]:
            def run(values: dict[str, Tensor]) -> Tensor:
                return torch.func.functional_call(module, values, (one.unsqueeze(0),))[0]

            return torch.func.vjp(run, parameters)[1](seen)[0]

        self.replaying = True
        try:
            found = torch.func.vmap(backward)(x, gradient)
        finally:
            self.replaying = False
        yield from ((key, Vector(values.flatten(1))) for key, values in found.items())


def _owners(model: nn.Module, names: Mapping[int, str]) -> dict[nn.Module, dict[str, str]]:
    """Module -> key and name of its own parameters. Of a tied one, modules that only pass it on do not count."""
    found: dict[str, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for key, value in module._parameters.items():
            if id(value) in names:
                found[names[id(value)]].append((module, key))
    owners: dict[nn.Module, dict[str, str]] = defaultdict(dict)
    for name, places in found.items():
        leaves = [place for place in places if not any(place[0].children())]
        for module, key in leaves or places:
            owners[module][key] = name
    return dict(owners)


def verify(capture: Capture, batch: Mapping[str, Tensor], loss: Loss) -> None:
    """Makes sure that nothing escapes the hooks, or goes to another example.

    The gradients of the first example, and those of all examples together, must be those of autograd.

    Raises:
        ValueError: If they are not; it names the parameters.
    """
    parameters = {capture.names[id(value)]: value for value in capture.model.parameters() if id(value) in capture.names}
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def add(name: str, part: Part) -> None:
        found[name] = (_summed_over(part, 1, parameters[name]), _summed_over(part, len(part), parameters[name]))

    with capture.hooked():
        capture.gradients(batch, loss, add)
    for value in parameters.values():
        value.requires_grad_()
    try:
        with torch.enable_grad():
            labels, logits = run(capture.model, batch)
            losses = loss(logits, labels)
            options = {"inputs": list(parameters.values()), "allow_unused": True}
            first = torch.autograd.grad(losses[0], retain_graph=True, **options)
            true = zip(first, torch.autograd.grad(losses.sum(), **options), strict=True)
    finally:
        for value in parameters.values():
            value.requires_grad_(False)
    wrong = _different(parameters, found, dict(zip(parameters, true, strict=True)))
    if wrong:
        raise ValueError(
            f"model: the gradients of {', '.join(wrong)} cannot be taken apart by example, as "
            f"{type(capture.model).__name__} uses them outside of their modules; leave them out by parameters="
        )


def _different(parameters: Mapping[str, Tensor], found: Mapping[str, tuple], true: Mapping[str, tuple]) -> list[str]:
    """Parameters whose gradients, of the first example or of all, are not those of autograd."""
    wrong = []
    for view in (0, 1):
        known = [of[view] for of in true.values() if of[view] is not None]
        scale = max((float(one.norm()) for one in known), default=0.0)
        for name, value in parameters.items():
            if not _same(found[name][view] if name in found else None, true[name][view], value, scale):
                wrong.append(name)
    return list(dict.fromkeys(wrong))


def _summed_over(part: Part, count: int, like: Tensor) -> Tensor:
    """The gradient of the first examples together."""
    if isinstance(part, Rows):
        some = part.example < count
        return part.values.new_zeros(like.shape).index_add_(0, part.token[some], part.values[some])
    if isinstance(part, Outer):
        return part.rows[:count].flatten(0, 1).T @ part.columns[:count].flatten(0, 1)
    return part.values[:count].sum(0)


def _same(found: Tensor | None, true: Tensor | None, like: Tensor, scale: float) -> bool:
    zero = torch.zeros_like(like)
    found, true = (zero if one is None else one.reshape(like.shape) for one in (found, true))
    tolerance = _TOLERANCE.get(like.dtype, 1e-3)
    return float((found - true).norm()) <= tolerance * max(float(true.norm()), 1e-3 * scale)


def _is(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module computes what modules of a kind do; a subclass may not."""
    return isinstance(module, kind) and type(module).forward is kind.forward


def _rows(module: nn.Embedding, ids: Tensor, gradient: Tensor) -> Rows:
    example = torch.arange(len(ids), device=ids.device).view(-1, *[1] * (ids.dim() - 1)).expand_as(ids)
    values = gradient.flatten(0, -2)
    if module.padding_idx is not None:
        values = values.masked_fill((ids == module.padding_idx).flatten().unsqueeze(1), 0)
    return Rows.summed(example.flatten(), ids.flatten(), values, len(ids))


def _positions(side: Tensor) -> Tensor:
    """(examples, positions, features), whatever lies between."""
    return side.unsqueeze(1) if side.dim() == 2 else side.flatten(1, -2)


def _summed(values: Tensor, module: nn.LayerNorm) -> Tensor:
    """Over all positions: (examples, features)."""
    features = values.shape[values.dim() - len(module.normalized_shape) :].numel()
    return values.reshape(len(values), -1, features).sum(1)
