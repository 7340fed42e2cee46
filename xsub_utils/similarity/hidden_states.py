"""Hidden states of a model, one vector per example and level."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from tqdm import tqdm

from xsub_utils._internal.validation import one_of
from xsub_utils.evaluation.scores import Batches, eval_mode, split_labels
from xsub_utils.heads.gates import head_gates

POOLS = ("first", "mean")


def hidden_states(
    model: nn.Module,
    batches: Batches,
    *,
    gates: Bool[Tensor, "layers heads"] | Float[Tensor, "layers heads"] | None = None,
    pool: str = "first",
    part: str = "encoder",
) -> list[Float[Tensor, "examples features"]]:
    """One vector per example at every level of a model: its embeddings, then the output of each layer.

    Args:
        model: A transformers model with or without a task head, which does not run; left as it was.
        batches: Dicts of inputs; labels are ignored. Without `attention_mask` all tokens count.
        gates: Head mask or gates; None leaves the model whole.
        pool: "first" takes each example's first token, "mean" the mean over its tokens; neither sees padding.
        part: "encoder": the encoder, or a decoder that stands alone. The decoder beside an encoder has no
            states of the input alone, and is not offered.

    Returns:
        One float32 tensor on the CPU per level, rows in the order of the batches. Parallel sentences only
        correspond if `make_batches` is told `bucket=False`. The last level is the model's
        `last_hidden_state`, after the final norm of architectures that have one.

    Raises:
        ValueError: If `pool` or `part` is unknown, there is no batch, an example has no token, or the gates
            do not fit.
    """
    return pooled_states(model, batches, gates=gates, pools=(pool,), part=part)[pool]


def pooled_states(
    model: nn.Module,
    batches: Batches,
    *,
    gates: Bool[Tensor, "layers heads"] | Float[Tensor, "layers heads"] | None = None,
    pools: Sequence[str] = POOLS,
    part: str = "encoder",
) -> dict[str, list[Float[Tensor, "examples features"]]]:
    """What `hidden_states` gives for each of several ways of pooling, from one pass through the model.

    Args:
        model, batches, gates, part: As for `hidden_states`.
        pools: Names of ways of pooling, as for `hidden_states`.

    Raises:
        ValueError: As `hidden_states`.
    """
    if part != "encoder":
        raise ValueError(f"part={part!r}: only an encoder has states of the input alone; 'encoder' would be right")
    rows = {one_of("pool", pool, POOLS): [] for pool in pools}
    with eval_mode(model), torch.no_grad(), nullcontext() if gates is None else head_gates(model, gates, part=part):
        for batch in tqdm(batches, desc="hidden states", delay=5, leave=False):
            levels, mask = _levels(model, batch)
            for pool, parts in rows.items():
                parts.append([pooled(states.float(), mask, pool).cpu() for states in levels])
    if not all(rows.values()):
        raise ValueError("batches: there is no batch; at least one would be right")
    return {pool: [torch.cat(parts) for parts in zip(*found, strict=True)] for pool, found in rows.items()}


def _levels(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Sequence[Tensor], Bool[Tensor, "examples tokens"]]:
    """States of all tokens at every level, and which tokens are not padding."""
    _, inputs = split_labels(model, batch)
    inputs = {name: values for name, values in inputs.items() if not name.startswith("decoder_")}
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    levels = encoder(**inputs, output_hidden_states=True).hidden_states
    mask = inputs.get("attention_mask", torch.ones_like(levels[0][..., 0])) != 0
    if not mask.any(1).all():
        raise ValueError("batches: attention_mask is 0 for all tokens of an example; every example needs a token")
    return levels, mask


def pooled(
    states: Float[Tensor, "examples tokens features"], mask: Shaped[Tensor, "examples tokens"], pool: str = "first"
) -> Float[Tensor, "examples features"]:
    """One vector per example from the states of all its tokens, those of padding left out.

    Args:
        states: At one level.
        mask: Not 0 for tokens, 0 for padding; every example needs a token.
        pool: "first" takes the first token, wherever the padding is, "mean" the mean over all tokens.

    Raises:
        ValueError: If `pool` is unknown.
    """
    mask = mask.to(states.device) != 0
    if one_of("pool", pool, POOLS) == "first":
        return states[torch.arange(len(states), device=states.device), mask.int().argmax(1)]
    return states.masked_fill(~mask.unsqueeze(-1), 0).sum(1) / mask.sum(1, keepdim=True)
