"""Hidden states of a model, one vector per example and level."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from tqdm import tqdm

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.evaluation.forward import split_labels
from xsub_utils.evaluation.scores import Batches
from xsub_utils.heads.gates import check_for_all, head_gates
from xsub_utils.models.batch_checks import listed_batches
from xsub_utils.models.example_order import example_order
from xsub_utils.models.modes import eval_mode

POOLS = ("first", "mean", "last")

Levels = list[Float[Tensor, "examples features"]]


def hidden_states(
    model: nn.Module,
    batches: Batches,
    *,
    gates: Bool[Tensor, "layers heads"] | Float[Tensor, "layers heads"] | None = None,
    pool: str = "first",
) -> Levels:
    """One vector per example at every level of a model: the output of its embeddings, then of each layer.

    Args:
        model: Any transformers model that gives `output_hidden_states`: an encoder, a decoder, or both, of which the
            encoder runs alone. It may have a task head, which does not run. The model is left as it was.
        batches: Dicts of inputs; labels are ignored. Without an `attention_mask`, all tokens count.
        gates: Head mask or gates, `(layers, heads)`; None runs the full model.
        pool: "first" takes each example's first token, "mean" the mean over its tokens, and "last" its last token, the
            only token of a decoder-only model that has seen the whole text. Padding never counts.

    Returns:
        One float32 tensor (examples, features) on the CPU for each level. Rows come in the order of the examples,
        however `make_batches` sorted them; those of batches from elsewhere in the order of the batches. The last level
        is the model's `last_hidden_state`, after the final norm of architectures that have one.

    Raises:
        ValueError: If `pool` is unknown, there is no batch, an example has no token, or the gates do not fit.

    Example:
        >>> import xsub_utils as xs
        >>> model, tokenizer = xs.load_encoder("minibabel-base", "text")
        >>> task = xs.load_task("parallel", ["qaa"], sizes={"test": 10})
        >>> batches = xs.make_batches(task.examples("test", "qaa"), tokenizer, "text")
        >>> levels = xs.hidden_states(model, batches, pool="mean")
        >>> len(levels), levels[-1].shape
        (5, torch.Size([10, 96]))
    """
    return pooled_states(model, batches, gates=gates, pools=(pool,))[pool]


def pooled_states(
    model: nn.Module,
    batches: Batches,
    *,
    gates: Bool[Tensor, "layers heads"] | Float[Tensor, "layers heads"] | None = None,
    pools: Sequence[str] = ("first", "mean"),
) -> dict[str, Levels]:
    """The result of `hidden_states` for each of several ways of pooling, from one pass through the model.

    Args:
        model, batches, gates: As for `hidden_states`.
        pools: Ways of pooling, as for `hidden_states`.

    Raises:
        ValueError: As `hidden_states`.
    """
    by_pool: dict[str, list[list[Tensor]]] = {one_of("pool", pool, POOLS): [] for pool in pools}
    batches = listed_batches(batches, labelled=False)
    check_for_all(gates)
    with eval_mode(model), torch.no_grad(), nullcontext() if gates is None else head_gates(model, gates):
        for batch in tqdm(batches, desc="hidden states", delay=5, leave=False):
            levels, mask = _levels(model, batch)
            for pool, vectors in by_pool.items():
                vectors.append([pooled(states.float(), mask, pool).cpu() for states in levels])
    order = example_order(batches)
    return {
        pool: [torch.cat(level)[order] for level in zip(*vectors, strict=True)] for pool, vectors in by_pool.items()
    }


def _levels(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Sequence[Tensor], Bool[Tensor, "examples tokens"]]:
    """States of all tokens at every level, and which tokens are not padding."""
    _, inputs = split_labels(model, batch)
    inputs = {name: values for name, values in inputs.items() if not name.startswith("decoder_")}
    levels = _reader(model)(**inputs, output_hidden_states=True).hidden_states
    mask = inputs.get("attention_mask", torch.ones_like(levels[0][..., 0])) != 0
    if not mask.any(1).all():
        raise invalid("batches", "a token in every example", "an attention_mask that is 0 for all tokens of one")
    return levels, mask


def _reader(model: nn.Module) -> nn.Module:
    """What reads the input: the encoder or, where there is none, the decoder; without a task head."""
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder()  # type: ignore[operator]
    return model.base_model  # type: ignore[return-value]


def pooled(
    states: Float[Tensor, "examples tokens features"], mask: Shaped[Tensor, "examples tokens"], pool: str = "first"
) -> Float[Tensor, "examples features"]:
    """One vector per example from the states of all its tokens; padding does not count.

    Args:
        states: States of all tokens at one level.
        mask: 0 for padding, anything else for tokens; every example needs a token.
        pool: "first" takes the first token and "last" the last one, on whichever side the padding is; "mean" takes the
            mean over all tokens.

    Raises:
        ValueError: If `pool` is unknown.
    """
    mask = mask.to(states.device) != 0
    if one_of("pool", pool, POOLS) == "mean":
        return states.masked_fill(~mask.unsqueeze(-1), 0).sum(1) / mask.sum(1, keepdim=True)
    rows = torch.arange(len(states), device=states.device)
    if pool == "first":
        return states[rows, mask.int().argmax(1)]
    return states[rows, mask.shape[1] - 1 - mask.int().flip(1).argmax(1)]
