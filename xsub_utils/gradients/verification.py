"""Per-example gradients are checked against autograd, for what a model does outside of its modules escapes hooks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from xsub_utils._internal.validation import invalid
from xsub_utils.gradients.capture import Capture, Loss, losses_of
from xsub_utils.gradients.factors import FactoredGradients, Outer, Rows

_TOLERANCE = {torch.float16: 0.1, torch.bfloat16: 0.1}  # relative, of the sum of all per-example gradients; else 1e-3


def verify(capture: Capture, batch: Mapping[str, Tensor], loss: Loss) -> None:
    """Makes sure that nothing escapes the hooks, or goes to another example.

    The gradients of the first example, and those of all examples together, must be those of autograd.

    Args:
        capture: Of a model whose parameters are frozen.
        batch: A few labelled examples on its device.
        loss: Logits and labels -> one value per example.

    Raises:
        ValueError: If they are not, or not finite; it names the parameters.
    """
    parameters = {capture.names[id(value)]: value for value in capture.model.parameters() if id(value) in capture.names}
    captured: dict[str, tuple[Tensor, Tensor]] = {}

    def add(name: str, gradients: FactoredGradients) -> None:
        like = parameters[name]
        captured[name] = _summed_over(gradients, 1, like), _summed_over(gradients, len(gradients), like)

    with capture.hooked():
        capture.gradients(batch, loss, add)
    with _gradients_wanted(list(parameters.values())) as wanted:
        losses = losses_of(capture.model, batch, loss)
        first = torch.autograd.grad(losses[0], wanted, retain_graph=True, allow_unused=True)
        true = zip(first, torch.autograd.grad(losses.sum(), wanted, allow_unused=True), strict=True)
    by_autograd = dict(zip(parameters, true, strict=True))
    if wrong := _different(parameters, captured, by_autograd):
        if not all(map(_is_finite, by_autograd[wrong[0]])):
            got = f"nan or infinity in those of {wrong[0]}"
            raise invalid("model", "finite gradients", got, "did its training diverge?")
        raise invalid(
            "model",
            "parameters that act inside of their own modules",
            f"{type(capture.model).__name__} whose gradients of {', '.join(wrong)} are not the sum of those that its "
            "modules show",
            "leave these parameters out by parameters=",
        )


@contextmanager
def _gradients_wanted(parameters: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """Autograd computes the gradients of these parameters, which are frozen otherwise."""
    try:
        for parameter in parameters:
            parameter.requires_grad_()
        with torch.enable_grad():
            yield parameters
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


def _is_finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(gradient.isfinite().all())


def _different(
    parameters: Mapping[str, Tensor],
    captured: Mapping[str, tuple[Tensor, Tensor]],
    true: Mapping[str, tuple[Tensor | None, Tensor | None]],
) -> list[str]:
    """Parameters whose gradients, of the first example or of all, are not those of autograd."""
    wrong = []
    for view in (0, 1):
        known = [gradient for views in true.values() if (gradient := views[view]) is not None]
        scale = max((float(gradient.norm()) for gradient in known), default=0.0)
        for name, value in parameters.items():
            ours = captured[name][view] if name in captured else None
            if not _same(ours, true[name][view], value, scale):
                wrong.append(name)
    return list(dict.fromkeys(wrong))


def _summed_over(gradients: FactoredGradients, count: int, like: Tensor) -> Tensor:
    """The gradient of the first examples together."""
    if isinstance(gradients, Rows):
        first = gradients.example < count
        total = gradients.values.new_zeros(like.shape)
        return total.index_add_(0, gradients.token[first], gradients.values[first])
    if isinstance(gradients, Outer):
        return gradients.rows[:count].flatten(0, 1).T @ gradients.columns[:count].flatten(0, 1)
    return gradients.values[:count].sum(0)


def _same(ours: Tensor | None, true: Tensor | None, like: Tensor, scale: float) -> bool:
    zero = torch.zeros_like(like)
    ours, true = (zero if gradient is None else gradient.reshape(like.shape) for gradient in (ours, true))
    tolerance = _TOLERANCE.get(like.dtype, 1e-3)
    return float((ours - true).norm()) <= tolerance * max(float(true.norm()), 1e-3 * scale)
