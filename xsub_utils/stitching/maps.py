"""Linear maps from the states of one model to those of another, fitted or trained on the task of the other."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from xsub_utils._internal.validation import one_of
from xsub_utils.evaluation.scores import Batches
from xsub_utils.models.batches import IGNORED
from xsub_utils.stitching.halves import Batch, Gates, Pair, StateCache

KINDS = ("linear", "affine")
INITS = ("least_squares", "identity", "random")
_LAST_LR = 1e-5
_RANK = 1e-12  # eigenvalues of XᵀX below this share of the largest come from the rounding of float32


@dataclass(frozen=True)
class Stitched:
    """A map from the front model's states at a level to the end model's.

    Attributes:
        level: 0 for the embeddings, l for the output of layer l.
        weight: The linear part.
        bias: What an affine map adds; None for a linear one.
        losses: Mean training loss of each epoch, in nats, taken before each step.
    """

    level: int
    weight: Float[Tensor, "end front"]
    bias: Float[Tensor, " end"] | None
    losses: tuple[float, ...] = ()

    def __call__(self, states: Float[Tensor, "*batch front"]) -> Float[Tensor, "*batch end"]:
        """The states as the end model is given them."""
        return nn.functional.linear(states.to(self.weight), self.weight, self.bias)


def stitch(
    front: nn.Module,
    end: nn.Module,
    batches: Batches,
    *,
    level: int,
    front_gates: Gates | None = None,
    end_gates: Gates | None = None,
    **options,
) -> Stitched:
    """The map that lets the upper layers of one model go on from the lower layers of another.

    The front model's states at the level, mapped, replace the end model's. Only the map is trained, by Adam on
    the loss of the end model's task, with the learning rate falling along a cosine to 1e-5.

    Args:
        front: A transformers encoder, with or without a task head, which does not run.
        end: A model for the task of the batches. Both have to read the same `input_ids`, so that models of
            different tokenizers cannot be stitched; their tasks, classes, widths and depths may differ.
        level: Where: 0 after the embeddings, l after layer l; after the last, only the head is the end's.
        batches: Labelled batches of the end model's task; their order is drawn anew for each epoch.
        front_gates, end_gates: Head masks or gates; None leaves a model whole.
        options: `kind`, `init` (also a single map), `epochs`, `lr`, `seed` and `cache`, as for `stitch_fronts`, which
            trains the maps of several fronts in less time.

    Raises:
        ValueError: As `stitch_fronts`.

    Source: Lenc & Vedaldi 2015, section 3; Bansal et al. 2021, section 2; for subnetworks of multilingual
        encoders Apostolikas et al. 2023, whose map is linear, is fitted to the whole models with padding, and
        sees the batches always in the same order.
    """
    if isinstance(options.get("init"), Stitched):
        options["init"] = [options["init"]]
    return stitch_fronts([(front, front_gates)], end, batches, level=level, end_gates=end_gates, **options)[0]


def stitch_fronts(
    fronts: Sequence[tuple[nn.Module, Gates | None]],
    end: nn.Module,
    batches: Batches,
    *,
    level: int,
    end_gates: Gates | None = None,
    kind: str = "affine",
    init: str | Sequence[Stitched] = "least_squares",
    epochs: int = 10,
    lr: float = 3e-4,
    seed: int = 0,
    cache: StateCache | None = None,
) -> list[Stitched]:
    """The maps from several fronts to one end: those of `stitch` but for rounding, in less time.

    The upper layers run on the mapped states of all fronts at once, each with the loss of its own, so that a step
    takes the memory of as many steps of `stitch`.

    Args:
        fronts: Models, each with its head mask or gates, or None.
        end, level, batches, end_gates: As for `stitch`.
        kind: "affine" or "linear" (without bias).
        init: "least_squares" (of the end's states on the front's, through the gates, without padding; the
            shortest of several solutions), "identity", "random" (the map of an untrained layer), or a map for
            each front to begin with, whose kind then decides.
        epochs: Passes over the batches; 0 returns the initial maps, for which labels are not needed.
        lr: Learning rate at the start.
        seed: Of the order of the batches, and of random maps.
        cache: Where to look for, and leave, states of the models; by default one of 1 GiB for this call.

    Raises:
        ValueError: If an option is unknown or out of range, there is nothing to learn from, the labels are not
            those of the end model, widths differ for "identity" or between fronts, a model is not supported, or
            training diverges.
    """
    _check_options(kind, init, epochs, lr)
    batches, cache = list(batches), cache or StateCache()
    if not batches or not fronts:
        name, one = ("fronts", "front") if batches else ("batches", "batch")
        raise ValueError(f"{name}: there is no {one}; at least one would be right")
    pairs = [Pair(cache.model(*front), cache.model(end, end_gates), level, cache) for front in fronts]
    if isinstance(init, str):
        starts = [_initial(pair, batches, kind, init, seed) for pair in pairs]
    else:
        starts = _given(init, pairs, batches[0], level)
    return _train(starts, pairs, batches, epochs, lr, seed) if epochs else starts


# The map before training


def _given(starts: Sequence[Stitched], pairs: Sequence[Pair], batch: Batch, level: int) -> list[Stitched]:
    """Maps to begin with, once they are known to fit."""
    found = {(start.level, *start.weight.shape, start.bias is None) for start in starts}
    states = (pairs[0].cache.states(model, batch, level) for model in (pairs[0].end, pairs[0].front))
    widths = tuple(one.shape[-1] for one in states)
    if len(starts) != len(pairs) or len(found) > 1 or next(iter(found))[:3] != (level, *widths):
        raise ValueError(
            f"init: {len(starts)} maps of (level, end, front, whether linear) {sorted(found)}; for each of the "
            f"{len(pairs)} fronts one of {(level, *widths)}, all of them linear or affine, would be right"
        )
    return list(starts)


def _initial(pair: Pair, batches: Sequence[Batch], kind: str, init: str, seed: int) -> Stitched:
    x, y = (pair.cache.states(model, batches[0], pair.level) for model in (pair.front, pair.end))
    ins, outs = x.shape[-1], y.shape[-1]
    bias = torch.zeros(outs, dtype=torch.float64)
    if init == "least_squares":
        weight, bias = _least_squares(map(pair.tokens, batches), kind == "affine")
    elif init == "random":
        weight = torch.from_numpy(np.random.default_rng(seed).normal(0, ins**-0.5, (outs, ins)))
    elif ins == outs:
        weight = torch.eye(ins)
    else:
        raise ValueError(
            f"init='identity': the states of the front have {ins} features, those of the end {outs}; "
            "'least_squares' or 'random' would be right"
        )
    dtype = torch.promote_types(y.dtype, torch.float32)  # steps of Adam are too small for half precision
    weight, bias = (part.to(y.device, dtype) for part in (weight, bias))
    return Stitched(pair.level, weight, bias if kind == "affine" else None)


def _least_squares(pairs: Iterable[tuple[Tensor, Tensor]], affine: bool) -> tuple[Tensor, Tensor]:
    """Weight and bias of the regression of y on x, of least norm, from the normal equations."""
    count, sum_x, sum_y, xx, xy = 0, 0, 0, 0, 0
    for x, y in pairs:
        count += len(x)
        sum_x, sum_y = sum_x + x.sum(0), sum_y + y.sum(0)
        xx, xy = xx + x.T @ x, xy + x.T @ y
    if not count:
        raise ValueError("batches: attention_mask is 0 for all tokens; at least one token would be right")
    if not affine:
        return _solve(xx, xy).T, torch.zeros_like(sum_y)
    weight = _solve(xx - sum_x.outer(sum_x) / count, xy - sum_x.outer(sum_y) / count).T
    return weight, (sum_y - weight @ sum_x) / count


def _solve(xx: Float[Tensor, "front front"], xy: Float[Tensor, "front end"]) -> Float[Tensor, "front end"]:
    """Directions in which the front does not vary are mapped to 0, not to their rounding error's multiple."""
    return torch.linalg.pinv(xx, rtol=_RANK, hermitian=True) @ xy


# Training


def _train(
    starts: Sequence[Stitched], pairs: Sequence[Pair], batches: Sequence[Batch], epochs: int, lr: float, seed: int
) -> list[Stitched]:
    """All maps at once: one tensor holds them, and Adam treats its entries one by one."""
    batches = [batch for batch in batches if (batch.get("labels", torch.zeros(1)) != IGNORED).any()]
    if not batches:
        raise ValueError("batches: every label is -100, there is nothing to learn; epochs=0 needs no labels")
    weight, bias = _stacked(starts)
    steps = epochs * len(batches)
    optimizer = torch.optim.Adam([part for part in (weight, bias) if part is not None], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, min(lr, _LAST_LR))
    losses = []
    for batch in tqdm(_order(batches, epochs, seed), total=steps, desc="stitching", delay=5, leave=False):
        loss = _losses(pairs, batch, weight, bias)
        optimizer.zero_grad()
        loss.sum().backward()
        losses.append(loss.detach())
        optimizer.step()
        schedule.step()
    means = torch.stack(losses).double().view(epochs, len(batches), -1).mean(1).T.tolist()
    weight, biases = weight.detach(), [None] * len(pairs) if bias is None else bias.detach().unbind()
    made = [
        Stitched(starts[0].level, one.clone(), other, tuple(course))
        for one, other, course in zip(weight, biases, means, strict=True)
    ]
    for number, one in enumerate(made):
        if not (all(map(math.isfinite, one.losses)) and one.weight.isfinite().all()):
            which = f" from front {number}" if len(pairs) > 1 else ""
            raise ValueError(
                f"lr={lr}: training{which} diverged, the mean losses of the epochs are {list(one.losses)}; a smaller "
                "one needed"
            )
    return made


def _stacked(starts: Sequence[Stitched]) -> tuple[Float[Tensor, "fronts end front"], Tensor | None]:
    """Weights and biases of all maps, to be trained."""
    widths = {start.weight.shape[1] for start in starts}
    if len(widths) > 1:
        raise ValueError(f"fronts: their states have {sorted(widths)} features; one width in a call would be right")
    weight = torch.stack([start.weight for start in starts]).requires_grad_()
    affine = starts[0].bias is not None
    return weight, torch.stack([start.bias for start in starts]).requires_grad_() if affine else None


def _losses(
    pairs: Sequence[Pair], batch: Batch, weight: Float[Tensor, "fronts end front"], bias: Tensor | None
) -> Float[Tensor, " fronts"]:
    """Loss through each map: mean over the labels that count."""
    states = torch.stack([pair.states(batch) for pair in pairs]).to(weight)
    count, size = states.shape[:2]
    mapped = states.flatten(1, 2) @ weight.mT
    mapped = mapped if bias is None else mapped + bias.unsqueeze(1)
    several = {name: values.repeat(count, *[1] * (values.ndim - 1)) for name, values in batch.items()}
    labels, logits = pairs[0].end.run(several, mapped.view(count * size, states.shape[2], -1), pairs[0].level)
    counted = labels != IGNORED
    losses = nn.functional.cross_entropy(logits[counted].float(), labels[counted], reduction="none")
    return losses.view(count, -1).mean(1)


def _order(batches: Sequence[Batch], epochs: int, seed: int) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        yield from (batches[i] for i in rng.permutation(len(batches)))


def _check_options(kind: str, init: str | Sequence[Stitched], epochs: int, lr: float) -> None:
    one_of("kind", kind, KINDS)
    if isinstance(init, str):
        one_of("init", init, INITS)
    if epochs < 0:
        raise ValueError(f"epochs={epochs}: cannot be negative; 0 for the initial map, or more, would be right")
    if not lr > 0:
        raise ValueError(f"lr={lr}: there is no such step; a positive one would be right")
