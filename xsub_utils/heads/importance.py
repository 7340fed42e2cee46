"""How much a model needs each attention head, and how widely the head looks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm import tqdm

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.evaluation.forward import check_finite, forward, split_labels
from xsub_utils.evaluation.metrics import losses, metric_named
from xsub_utils.evaluation.scores import Batches, predict, predicted
from xsub_utils.heads.gates import head_gates
from xsub_utils.heads.removal import Headless
from xsub_utils.models.architectures import head_shape
from xsub_utils.models.batch_checks import listed_batches
from xsub_utils.models.batches import IGNORED
from xsub_utils.models.modes import eval_mode, frozen, require_model

# How the gradients of a pass, (examples or batches, layers, heads), become one number per head.
_AGGREGATES = {
    "example": lambda gradients: gradients.abs().mean(0),
    "batch": lambda gradients: gradients.abs().sum(0),
    "cumulative": lambda gradients: gradients.cumsum(0).abs().sum(0),
}


def head_importance(
    model: nn.Module,
    batches: Batches,
    *,
    gates: Bool[Tensor, "layers heads"] | Float[Tensor, "layers heads"] | None = None,
    per: str = "example",
    norm: str | None = "layer",
    part: str = "encoder",
) -> Float[Tensor, "layers heads"]:
    """Sensitivity of the loss to each attention head.

    Args:
        model: Anything whose output has `.logits`; it is left as it was and gathers no gradients.
        batches: Dicts with `labels`. The loss of an example is the cross-entropy of its label or, where tokens are
            labelled, masked or (in decoder-only language models) predicted, the mean over those.
        gates: Where the slope is taken: a head mask, for the importance in the masked model; None is the
            full model. Removed heads have an importance too: the slope at 0.
        per: "example", the mean over examples of |∂ loss of the example / ∂ gate|, whatever the batches.
            Only to replicate others: "batch", the sum over batches of |∂ mean loss of the batch / ∂ gate|,
            in which the examples of a batch cancel; "cumulative", the sum of |running sum of these
            gradients|, the result of never resetting them, in which early batches count most.
        norm: "layer" divides every layer by its L2 norm; None does not.
        part: Whose heads: "encoder", "decoder" or "cross", as in `head_shape`.

    Returns:
        Float64 on the CPU, at least 0; with `norm=None` in nats.

    Raises:
        ValueError: If `per` or `norm` is unknown, there is no batch, a batch has no labels, or the loss is
            not finite.

    Source: Michel et al. 2019, section 4.1; the norm from Molchanov et al. 2017, section 2.2.

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.load_task("mlm", ["qaa"], sizes={"train": 2, "importance": 4})
        >>> model, tokenizer = xs.load_encoder("minibabel-base", "mlm")
        >>> batches = xs.make_batches(task.examples("importance", "qaa"), tokenizer, task.kind)
        >>> xs.head_importance(model, batches).shape
        torch.Size([4, 12])
    """
    check_options(per, norm)
    passes = gate_gradients(model, batches, gates=gates, per=per, part=part)
    return aggregate([gradients for gradients, _, _ in passes], per, norm)


def gate_gradients(
    model: nn.Module,
    batches: Batches,
    *,
    gates: Bool[Tensor, "layers heads"] | Float[Tensor, "layers heads"] | None = None,
    per: str = "example",
    metric: str = "perplexity",
    part: str = "encoder",
) -> list[tuple[Float[Tensor, "_ layers heads"], Tensor, Tensor]]:
    """Gradients of the loss in the gates, with the predictions and labels of the same pass.

    Args:
        model, batches, gates, per, part: As for `head_importance`.
        metric: Decides what a prediction is, as in `predictions`.

    Returns:
        For each batch its gradients on the CPU (one row per example or, unless `per` is "example", one row
        for the batch), its predictions and its labels.

    Raises:
        ValueError: If `metric` is unknown, there is no batch or a batch has no labels.
    """
    require_model(model)
    weight = next(model.parameters())
    # Gates in the precision of the model, but never in half: it is in them that gradients add up.
    precision = torch.promote_types(weight.dtype, torch.float32)
    shape = head_shape(model, part=part)
    if gates is not None and tuple(gates.shape) != shape:
        raise invalid("gates", f"one for every head, of shape {shape}", tuple(gates.shape))
    start = (torch.ones(shape) if gates is None else gates.detach()).to(weight.device, precision)
    with eval_mode(model), frozen(model), torch.enable_grad():
        bar = tqdm(listed_batches(batches), desc="head importance", delay=5, leave=False)
        return [_batch_gradients(model, batch, start, per, metric, part) for batch in bar]


def aggregate(
    gradients: Sequence[Float[Tensor, "_ layers heads"]], per: str, norm: str | None
) -> Float[Tensor, "layers heads"]:
    """Importance from the gradients of all batches, as `head_importance` returns it.

    Raises:
        ValueError: If a gradient is not finite.
    """
    importance = _AGGREGATES[per](torch.cat(tuple(gradients)).double())
    if not importance.isfinite().all():
        raise invalid("model", "finite gradients of its loss", "nan or infinity", "look for nan in its weights")
    return importance / (importance.norm(dim=1, keepdim=True) + 1e-20) if norm else importance


def check_options(per: str, norm: str | None) -> None:
    """Raises unless `head_importance` knows these options.

    Raises:
        ValueError: If not; names those that it knows.
    """
    one_of("per", per, _AGGREGATES)
    if norm is not None:
        one_of("norm", norm, ["layer"])


def attention_entropy(
    model: nn.Module,
    batches: Batches,
    *,
    gates: Bool[Tensor, "layers heads"] | Float[Tensor, "layers heads"] | None = None,
    part: str = "encoder",
) -> Float[Tensor, "layers heads"]:
    """Entropy of the attention of each head: how widely it looks.

    In a decoder-only model a token attends to itself and the tokens before it, so that the first one has entropy 0.

    Args:
        model: A transformers model, run with eager attention meanwhile.
        batches: Dicts of tensors; labels are needed only by models that generate text.
        gates: Head mask or gates; None is the full model.
        part: Whose heads, both gated and measured: "encoder", "decoder" or "cross", as in `head_shape`.

    Returns:
        Float64 on the CPU, in nats, averaged over all tokens that are not padding and attend: from 0, where all
        attention goes to one token, to the logarithm of the sequence length, where it is spread evenly.

    Raises:
        ValueError: If there is no batch, or the model lacks the part, has lost all heads of a layer or does not hand
            out its attention.

    Source: Clark et al. 2019, section 3.3.
    """
    if part != "encoder":
        head_shape(model, part=part)  # which raises if there is none
    if empty := [name for name, module in model.named_modules() if isinstance(module, Headless)]:
        remedy = "take the full model, and the mask as gates"
        raise invalid("model", "heads in every layer", f"none in {', '.join(empty)}, as after remove_heads", remedy)
    gated = nullcontext() if gates is None else head_gates(model, gates, part=part)
    with eval_mode(model), torch.no_grad(), _eager_attention(model), gated:
        bar = tqdm(listed_batches(batches, labelled=False), desc="attention entropy", delay=5, leave=False)
        sums = [_entropy_sum(model, batch, part) for batch in bar]
    return torch.stack([entropy for entropy, _ in sums]).sum(0) / sum(tokens for _, tokens in sums)


def _batch_gradients(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    start: Float[Tensor, "layers heads"],
    per: str,
    metric: str,
    part: str,
) -> tuple[Float[Tensor, "_ layers heads"], Tensor, Tensor]:
    """Gradients in the gates, predictions and labels of one batch."""
    gates = start.repeat(len(batch["input_ids"]), 1, 1) if per == "example" else start.clone()
    with head_gates(model, gates.requires_grad_(), part=part):
        labels, logits = forward(model, batch)
    check_finite(logits.detach())
    nll = losses(logits, labels)
    (gradients,) = torch.autograd.grad(_loss(nll, labels, per), gates)
    if metric_named(metric).predicts == "text":
        with head_gates(model, start, part=part):
            output, _ = predicted(model, batch, metric)
    else:
        output = nll.detach() if metric_named(metric).predicts == "loss" else predict(logits, labels, metric)
    return gradients.cpu().reshape(-1, *start.shape), output, labels


def _loss(nll: Tensor, labels: Tensor, per: str) -> Float[Tensor, ""]:
    """Sum over examples of the mean loss of each or, unless per example, the mean over all labels.

    Examples whose labels were all cut off have none.
    """
    counts = (labels != IGNORED).reshape(len(labels), -1).sum(1)
    if per != "example":
        return nll.sum() / counts.sum().clamp(min=1)
    return (nll.reshape(len(labels), -1).sum(1) / counts.clamp(min=1)).sum()


def _entropy_sum(model: nn.Module, batch: Mapping[str, Tensor], part: str) -> tuple[Float[Tensor, "layers heads"], int]:
    """Sum of the entropies of the attention from all tokens that are not padding, and their number."""
    labels, inputs = split_labels(model, batch)
    output = model(**inputs, output_attentions=True)
    attentions = output.get(f"{part}_attentions") or output.get("attentions")
    if not attentions:
        raise invalid("model", "one that hands out its attention", f"{type(model).__name__}, which does not")
    tokens = _attending(inputs, labels, part)
    entropies = [torch.special.entr(layer).sum(-1).transpose(1, 2)[tokens] for layer in attentions]
    return torch.stack(entropies).sum(1, dtype=torch.float64).cpu(), int(tokens.sum())


def _attending(inputs: Mapping[str, Tensor], labels: Tensor | None, part: str) -> Bool[Tensor, "examples tokens"]:
    """Which tokens attend and are not padding; the decoder of a classifier reads those of the encoder again."""
    side = "decoder_" if part != "encoder" and "decoder_input_ids" in inputs else ""
    ids = inputs[f"{side}input_ids"]
    tokens = inputs.get(f"{side}attention_mask", torch.ones_like(ids)).bool()
    written = bool(side) and labels is not None and labels.shape == ids.shape
    return tokens & (labels != IGNORED) if written else tokens


@contextmanager
def _eager_attention(model: Any) -> Iterator[None]:
    """Attention that hands out its probabilities; the fused kernels never hold them."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
