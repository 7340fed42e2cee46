"""What stitched models predict, and how good that is beside the models that they are made of."""

import math

import torch
from torch import Tensor, nn
from tqdm import tqdm

from xsub_utils.evaluation.scores import Batches, label_names, predict, score
from xsub_utils.stitching.halves import Gates, Pair, StateCache
from xsub_utils.stitching.maps import Stitched


def stitched_predictions(
    stitched: Stitched,
    front: nn.Module,
    end: nn.Module,
    batches: Batches,
    *,
    front_gates: Gates | None = None,
    end_gates: Gates | None = None,
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
    pair = Pair(cache.model(front, front_gates), cache.model(end, end_gates), stitched.level, cache)
    outputs, labels = [], []
    with torch.no_grad():
        for batch in tqdm(batches, desc="stitched model", delay=5, leave=False):
            mapped = stitched(pair.states(batch).to(stitched.weight.device))
            gold, logits = pair.end.run(batch, mapped, pair.level)
            outputs.append(predict(logits, gold, metric))
            labels.append(gold)
    return outputs, labels


def stitched_score(
    stitched: Stitched, front: nn.Module, end: nn.Module, batches: Batches, *, metric: str = "accuracy", **options
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


def relative_accuracy(score: float, *, baseline: float, chance: float | None = None) -> float:
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
