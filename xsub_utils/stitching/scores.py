"""What stitched models predict, and how good that is beside the models that they are made of."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from xsub_utils.evaluation.scores import Batches, in_example_order, label_names, predict, score
from xsub_utils.models.batch_checks import listed_batches
from xsub_utils.stitching.halves import Batch, Gates, Pair, StateCache
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
) -> tuple[Tensor, Tensor]:
    """Predictions and labels of each example, as `predictions` gives those of a model.

    Args:
        stitched: A map that `stitch` made for these models.
        front, end, front_gates, end_gates: As for `stitch`.
        batches: Labelled batches of the end model's task.
        metric: Decides what a prediction is, as for `predictions`.
        cache: Holds states of the front for other calls to use; None keeps nothing.

    Raises:
        ValueError: As `stitch`.
    """
    batches = listed_batches(batches)
    outputs, labels = _by_batch(stitched, front, end, batches, front_gates, end_gates, metric, cache)
    return in_example_order(outputs, labels, batches)


def _by_batch(
    stitched: Stitched,
    front: nn.Module,
    end: nn.Module,
    batches: Sequence[Batch],
    front_gates: Gates | None,
    end_gates: Gates | None,
    metric: str,
    cache: StateCache | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Predictions and labels of each batch, as `score` takes them."""
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
    stitched: Stitched,
    front: nn.Module,
    end: nn.Module,
    batches: Batches,
    *,
    metric: str = "accuracy",
    front_gates: Gates | None = None,
    end_gates: Gates | None = None,
    cache: StateCache | None = None,
) -> float:
    """Score of a stitched model on the end model's task.

    Args:
        stitched, front, end, batches, front_gates, end_gates, cache: As for `stitched_predictions`.
        metric: A metric of the task, as for `evaluate`.

    Returns:
        A score as `evaluate` gives it.

    Raises:
        ValueError: As `stitch`, and if the metric does not fit the labels.

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.load_task("nli", ["qaa"], sizes={"train": 8, "test": 8})
        >>> model, tokenizer = xs.load_encoder("minibabel-base", "sequence", labels=task.labels)
        >>> train, test = (
        ...     xs.make_batches(task.examples(split, "qaa"), tokenizer, task.kind) for split in ("train", "test")
        ... )
        >>> identity = xs.stitch(model, model, train, level=2, init="identity", epochs=0)
        >>> xs.stitched_score(identity, model, model, test) == xs.evaluate(model, test)
        True
    """
    batches = listed_batches(batches)
    outputs, labels = _by_batch(stitched, front, end, batches, front_gates, end_gates, metric, cache)
    return score(outputs, labels, metric, label_names(end))


def relative_accuracy(score: float, *, baseline: float, chance: float | None = None) -> float:
    """Score of a stitched model relative to that of a baseline, such as the end model under its own gates.

    Args:
        score: Score of the stitched model, of a metric whose higher values are better.
        baseline: Score of the model that it is compared with.
        chance: Score that needs no model, see `evaluation.baselines`. It is subtracted from both scores, so that a
            stitched model that has learnt nothing gets 0. None subtracts nothing.

    Returns:
        score / baseline, or (score - chance) / (baseline - chance), which can be below 0. Both can exceed 1.
        Nan where the baseline is not above chance (or 0).

    Source: Apostolikas et al. 2023, relative accuracy, without `chance`.

    Example:
        >>> import xsub_utils as xs
        >>> round(xs.relative_accuracy(0.6, baseline=0.8), 2)
        0.75
        >>> round(xs.relative_accuracy(0.6, baseline=0.8, chance=0.5), 2)
        0.33
    """
    least = chance or 0.0
    return (score - least) / (baseline - least) if baseline > least else math.nan
