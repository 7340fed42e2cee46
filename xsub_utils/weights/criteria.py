"""Which weights a ticket keeps: the largest of something, or random ones."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xsub_utils._internal.amounts import amount, check_seed
from xsub_utils._internal.validation import invalid
from xsub_utils.evaluation.scores import Batches
from xsub_utils.gradients.capture import Loss, example_loss
from xsub_utils.gradients.factors import FactoredGradients
from xsub_utils.gradients.per_example import example_gradients
from xsub_utils.weights.masks import WeightMask, largest
from xsub_utils.weights.prunable import groups, prunable_weights


def keep_largest(
    values: Mapping[str, Float[Tensor, "..."]],
    *,
    sparsity: float,
    within: WeightMask | None = None,
    scope: str = "global",
) -> dict[str, Tensor]:
    """The mask that keeps the entries of largest magnitude and drops a share, the sparsity, of all.

    Of trained weights this is a step of iterative magnitude pruning, of pre-trained ones one-shot pruning, of changes
    in fine-tuning the mask of LT-SFT, of `fisher_information` the mask of FISH.

    Args:
        values: Name -> tensor, such as `prunable_weights(model)`.
        sparsity: Share of all entries that is not kept, in [0, 1); of n entries round(sparsity · n), exactly, of every
            stack or matrix apart if the scope says so.
        within: A mask, of which the new one keeps a part; the share is still of all entries.
        scope: Among what magnitudes are compared: "global", "stack" (encoder and decoder apart) or "matrix".

    Raises:
        ValueError: If the sparsity is outside [0, 1) or lower than that of `within`, which may also not fit, or a value
            is nan.

    Source: Foroutan et al. 2022, algorithm 1; torch.nn.utils.prune.global_unstructured gives the same mask, but for
    ties, of which the first entries are kept here.
    """
    _check_sparsity(sparsity)
    _check_within(values, within)
    masks: dict[str, Tensor] = {}
    for names in groups(values, scope):
        total = sum(values[name].numel() for name in names)
        count = total - round(sparsity * total)
        group = {name: values[name].detach() for name in names}
        if within is None:
            masks |= largest(group, count=count)
            continue
        inside = {name: within[name].to(value.device) for name, value in group.items()}
        left = {name: value[inside[name]] for name, value in group.items()}
        if (remaining := sum(len(value) for value in left.values())) < count:
            expected = f"{1 - remaining / total:.3f} or more, as within keeps only {remaining} entries"
            raise invalid("sparsity", expected, f"{sparsity}, which keeps {count}")
        for name, kept in largest(left, count=count).items():
            masks[name] = inside[name].masked_scatter(inside[name], kept)
    return {name: masks[name] for name in values}


def prune_randomly(mask: WeightMask, *, sparsity: float, seed: int) -> dict[str, Tensor]:
    """A mask drawn from all those that keep only what the mask keeps, all but a share of all entries.

    Of a mask of ones it is the random ticket of Foroutan et al. 2022; of a ticket the "ticket, then random" of their
    footnote 9. `random_weight_mask` keeps, besides, as many entries of every matrix as another mask does.

    Args:
        mask: Name -> True where an entry may be kept.
        sparsity: As in `keep_largest`.
        seed: Of the draw.

    Raises:
        ValueError: If the sparsity is outside [0, 1), or is lower than that of the mask.
    """
    generator = torch.Generator().manual_seed(check_seed(seed))
    draws = {name: torch.rand(kept.shape, generator=generator).to(kept.device) for name, kept in mask.items()}
    return keep_largest(draws, sparsity=sparsity, within=mask)


def fisher_information(
    model: nn.Module, batches: Batches, *, loss: Loss = example_loss
) -> dict[str, Float[Tensor, "..."]]:
    """Diagonal of the empirical Fisher information of the prunable weights.

    Args:
        model: With the task head that fits the labels, on the device to compute on; it is left as it was.
        batches: Dicts with `labels`.
        loss: Logits and labels to a value for each example; by default the mean cross-entropy over its own labels.

    Returns:
        Name -> mean over examples of the squared gradient of the loss, in nats².

    Raises:
        ValueError: If there is no batch, one without labels, or a gradient is no finite number.

    Source: Sung et al. 2021, section 3.1 (FISH mask), with the true labels.
    """
    weights = prunable_weights(model)
    total = {name: torch.zeros(weight.numel(), dtype=torch.float64) for name, weight in weights.items()}

    def add(name: str, gradients: FactoredGradients) -> None:
        total[name] += gradients.written_out().values.square().sum(0, dtype=torch.float64).cpu()

    count = example_gradients(model, batches, add, parameters=weights, loss=loss)
    if wrong := [name for name, squares in total.items() if not squares.isfinite().all()]:
        got = f"nan or infinity in that of {wrong[0]!r}"
        raise invalid("model", "one whose gradients are finite", got, "has its training diverged?")
    return {name: (squares / count).float().view(weights[name].shape) for name, squares in total.items()}


def _check_sparsity(sparsity: float) -> None:
    if not 0 <= amount("sparsity", sparsity, least=-math.inf) < 1:
        raise invalid("sparsity", "a share from 0, which keeps all, to below 1", sparsity)


def _check_within(values: Mapping[str, Tensor], within: WeightMask | None) -> None:
    if within is None:
        return
    for name, value in values.items():
        if name not in within or within[name].shape != value.shape or within[name].dtype != torch.bool:
            expected = f"a bool tensor of shape {tuple(value.shape)} for {name!r}"
            got = f"{within[name].dtype} of shape {tuple(within[name].shape)}" if name in within else "none"
            raise invalid("within", expected, got)
