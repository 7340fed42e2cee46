"""Linear maps from the states of one model to those of another, fitted or trained on the task of the other."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm import tqdm

from xsub_utils.batches import IGNORED
from xsub_utils.evaluate import Batches, label_names, predict, score
from xsub_utils.names import one_of
from xsub_utils.stitch.sites import Batch, CutModel, StateCache

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
    level: int,
    batches: Batches,
    *,
    front_gates: Bool[Tensor, "layers heads"] | Float[Tensor, "layers heads"] | None = None,
    end_gates: Bool[Tensor, "layers heads"] | Float[Tensor, "layers heads"] | None = None,
    kind: str = "affine",
    init: str = "least_squares",
    epochs: int = 10,
    lr: float = 3e-4,
    seed: int = 0,
    cache: StateCache | None = None,
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
        kind: "affine" or "linear" (without bias).
        init: "least_squares" (of the end's states on the front's, through the gates, without padding; the
            shortest of several solutions), "identity" or "random" (the map of an untrained layer).
        epochs: Passes over the batches; 0 returns the initial map, for which labels are not needed.
        lr: Learning rate at the start.
        seed: Of the order of the batches, and of a random map.
        cache: Where to look for, and leave, states of both models; by default one of 1 GiB for this call.

    Raises:
        ValueError: If an option is unknown or out of range, there is nothing to learn from, the labels are not
            those of the end model, widths differ for "identity", a model is not supported, or training diverges.

    Source: Lenc & Vedaldi 2015, section 3; Bansal et al. 2021, section 2; for subnetworks of multilingual
        encoders Apostolikas et al. 2023, whose map is linear, is fitted to the whole models with padding, and
        sees the batches always in the same order.
    """
    _check_options(kind, init, epochs, lr)
    batches, cache = list(batches), cache or StateCache()
    if not batches:
        raise ValueError("batches: there is no batch; at least one would be right")
    pair = _Pair(cache.model(front, front_gates), cache.model(end, end_gates), level, cache)
    start = _initial(pair, batches, kind, init, seed)
    return _train(start, pair, batches, epochs, lr, seed) if epochs else start


def stitched_predictions(
    stitched: Stitched,
    front: nn.Module,
    end: nn.Module,
    batches: Batches,
    *,
    front_gates: Bool[Tensor, "layers heads"] | Float[Tensor, "layers heads"] | None = None,
    end_gates: Bool[Tensor, "layers heads"] | Float[Tensor, "layers heads"] | None = None,
    metric: str = "accuracy",
    cache: StateCache | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Predictions and labels of each batch, as `evaluate.score` takes them.

    Args:
        stitched: From `stitch` of these models.
        front, end, front_gates, end_gates: As for `stitch`.
        batches: Labelled batches of the end model's task.
        metric: Decides what a prediction is, see `evaluate.predict`.
        cache: Where to look for, and leave, states of the front; by default nothing is kept.

    Raises:
        ValueError: As `stitch`.
    """
    cache = cache or StateCache(max_bytes=0)
    pair = _Pair(cache.model(front, front_gates), cache.model(end, end_gates), stitched.level, cache)
    outputs, labels = [], []
    with torch.no_grad():
        for batch in tqdm(batches, desc="stitched model", delay=5, leave=False):
            gold, logits = pair.run(batch, stitched)
            outputs.append(predict(logits, gold, metric))
            labels.append(gold)
    return outputs, labels


def stitched_score(
    stitched: Stitched, front: nn.Module, end: nn.Module, batches: Batches, metric: str = "accuracy", **options
) -> float:
    """Score of a stitched model on the end model's task, see `evaluate.evaluate`.

    Args:
        stitched, front, end, batches: As for `stitched_predictions`.
        metric: One of `evaluate.METRICS`.
        options: `front_gates`, `end_gates` and `cache`, as for `stitched_predictions`.

    Raises:
        ValueError: As `stitch`, and if the metric does not fit the labels.
    """
    outputs, labels = stitched_predictions(stitched, front, end, batches, metric=metric, **options)
    return score(outputs, labels, metric, label_names(end))


def relative_accuracy(score: float, baseline: float, chance: float | None = None) -> float:
    """Score of a stitched model relative to that of a baseline, such as the end model under its own gates.

    Args:
        score: Of the stitched model; the higher, the better.
        baseline: Of the model that it is compared with.
        chance: Score that needs no model, see `evaluate.chance_level`. Given, it is taken off both, so that a
            stitched model that knows nothing gets 0.

    Returns:
        score / baseline, or (score - chance) / (baseline - chance), which can be below 0. Both can exceed 1.
        Nan where the baseline is not above 0 or chance.

    Source: Apostolikas et al. 2023, relative accuracy, without `chance`.
    """
    least = chance or 0.0
    return (score - least) / (baseline - least) if baseline > least else math.nan


@dataclass(frozen=True)
class _Pair:
    """Two models, where they are cut, and the states of both."""

    front: CutModel
    end: CutModel
    level: int
    cache: StateCache

    def run(self, batch: Batch, stitched: Stitched) -> tuple[Tensor, Tensor]:
        """Labels of the batch, and the logits of the stitched model."""
        states = self.cache.states(self.front, batch, self.level)[:, : self.end.tokens_read(self.level)]
        return self.end.run(batch, stitched(states.to(stitched.weight.device)), self.level)

    def tokens(self, batch: Batch) -> tuple[Float[Tensor, "tokens front"], Float[Tensor, "tokens end"]]:
        """States of the tokens that are not padding at both ends of the map, in float64."""
        x, y = (self.cache.states(model, batch, self.level) for model in (self.front, self.end))
        mask = batch.get("attention_mask", torch.ones(x.shape[:2])) != 0
        return x[mask.to(x.device)].double().to(y.device), y[mask.to(y.device)].double()


# The map before training


def _initial(pair: _Pair, batches: Sequence[Batch], kind: str, init: str, seed: int) -> Stitched:
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


def _train(start: Stitched, pair: _Pair, batches: Sequence[Batch], epochs: int, lr: float, seed: int) -> Stitched:
    batches = [batch for batch in batches if (batch.get("labels", torch.zeros(1)) != IGNORED).any()]
    if not batches:
        raise ValueError("batches: every label is -100, there is nothing to learn; epochs=0 needs no labels")
    parts = [part.clone().requires_grad_() for part in (start.weight, start.bias) if part is not None]
    moving = Stitched(start.level, parts[0], None if start.bias is None else parts[1])
    steps = epochs * len(batches)
    optimizer = torch.optim.Adam(parts, lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, min(lr, _LAST_LR))
    losses = []
    for batch in tqdm(_order(batches, epochs, seed), total=steps, desc="stitching", delay=5, leave=False):
        losses.append(_loss(*pair.run(batch, moving)))
        optimizer.zero_grad()
        losses[-1].backward()
        losses[-1] = losses[-1].detach()
        optimizer.step()
        schedule.step()
    means = torch.stack(losses).double().view(epochs, -1).mean(1).tolist()
    if not all(map(math.isfinite, means)):
        raise ValueError(f"lr={lr}: training diverged, the mean losses of the epochs are {means}; a smaller one needed")
    weight, bias = moving.weight.detach(), None if moving.bias is None else moving.bias.detach()
    return Stitched(start.level, weight, bias, tuple(means))


def _order(batches: Sequence[Batch], epochs: int, seed: int) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        yield from (batches[i] for i in rng.permutation(len(batches)))


def _loss(labels: Tensor, logits: Tensor) -> Float[Tensor, ""]:
    """Mean over the labels that count."""
    counted = labels != IGNORED
    return nn.functional.cross_entropy(logits[counted].float(), labels[counted])


def _check_options(kind: str, init: str, epochs: int, lr: float) -> None:
    one_of("kind", kind, KINDS)
    one_of("init", init, INITS)
    if epochs < 0:
        raise ValueError(f"epochs={epochs}: cannot be negative; 0 for the initial map, or more, would be right")
    if not lr > 0:
        raise ValueError(f"lr={lr}: there is no such step; a positive one would be right")
