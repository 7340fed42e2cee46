"""The door to per-example gradients: of any model and batches, for whoever sums, squares or multiplies them."""

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor, nn

from xsub_utils.gradients.capture import Capture, Loss, Receiver, example_loss
from xsub_utils.gradients.prepared import prepared
from xsub_utils.models.batch_checks import listed_batches


def example_gradients(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    receive: Receiver,
    *,
    parameters: Collection[str] | None = None,
    gates: Tensor | None = None,
    weight_masks: Mapping[str, Tensor] | None = None,
    loss: Loss = example_loss,
    part: str = "encoder",
) -> int:
    """Number of examples, after the gradients of each of them were handed over, batch by batch.

    Gradients arrive parameter by parameter in the backward pass of a batch, so that they are never in memory all at
    once. They are exact where parameters act inside of their modules: `verification.verify` finds out.

    Args:
        model: With the head that fits the labels, on the device to compute on. It runs in evaluation mode, and is left
            as it was.
        batches: Labelled batches, on any device.
        receive: Called as `receive(name, gradients)` with the gradients of all examples of a batch in one parameter, in
            one of the forms of `factors`; `gradients.written_out()` are those of a matrix or vector as
            (examples, entries). Parameters that the loss of a batch does not depend on are left out.
        parameters: Names of those that are wanted, as in `model.named_parameters()`; None for all.
        gates: Head mask or gates `(layers, heads)`, in force meanwhile. Gradients of parameters that belong to heads
            are those of the heads that a bool mask keeps.
        weight_masks: Parameter name -> True where a weight is kept; the others are zero meanwhile.
        loss: Logits and labels of a batch -> one loss per example; by default cross-entropy in the mean over the labels
            of an example, in nats.
        part: Whose heads the gates are of, as in `head_gates`.

    Raises:
        ValueError: If a batch has no labels, a loss is not finite, or a parameter acts on something that is not divided
            by example.
    """
    count, device = 0, next(model.parameters()).device
    with prepared(model, gates, weight_masks or {}, part) as ready:
        named = ready.named_parameters()
        capture = Capture(ready, {id(value): name for name, value in named if parameters is None or name in parameters})
        with capture.hooked():
            for batch in listed_batches(batches):
                capture.gradients({name: values.to(device) for name, values in batch.items()}, loss, receive)
                count += capture.examples
    return count
