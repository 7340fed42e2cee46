"""The search for a subnetwork: which attention heads a model can do without.

The search is greedy. It removes the least important tenth of the heads, asks what the smaller model scores
and how important its heads have become, and goes on until the score falls below a share of the whole model's.
Importance, threshold and report each deserve data of their own: `batches`, `stop`, and a third part.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm import tqdm

from xsub_utils.evaluation.scores import Batches, evaluate, label_names, score
from xsub_utils.heads.importance import aggregate, attention_entropy, check_options, gate_gradients, head_importance
from xsub_utils.models.architectures import head_shape

__all__ = ["Step", "Subnetwork", "attention_entropy", "find_subnetwork", "head_importance"]


@dataclass(frozen=True, eq=False)
class Step:
    """One mask of a search: what the masked model scores, and how important each head is to it.

    Attributes:
        mask: True = kept.
        score: Score of the masked model on the data that decide when to stop.
        importance: Importance in the masked model, of removed heads too; None for the last mask of a search.
    """

    mask: Bool[Tensor, "layers heads"]
    score: float
    importance: Float[Tensor, "layers heads"] | None

    @property
    def kept(self) -> int:
        """Number of heads kept."""
        return int(self.mask.sum())


@dataclass(frozen=True, eq=False)
class Subnetwork:
    """A mask and the search that it comes from.

    Attributes:
        mask: The last mask before the first that fails the threshold; True = kept.
        failed: The first mask that fails; None if none did.
        trajectory: Every mask tried, from the whole model on; each is part of the one before.
        baseline: Score of the whole model.
        metric: The metric of all scores.
    """

    mask: Bool[Tensor, "layers heads"]
    failed: Bool[Tensor, "layers heads"] | None
    trajectory: Sequence[Step]
    baseline: float
    metric: str

    def __repr__(self) -> str:
        score = next(step.score for step in self.trajectory if torch.equal(step.mask, self.mask))
        kept = f"{int(self.mask.sum())} of {self.mask.numel()} heads"
        return f"Subnetwork({kept}, {self.metric} {score:.3f}, whole model {self.baseline:.3f})"

    def at(self, retain: float) -> "Subnetwork":
        """The subnetwork that the same search gives at another threshold.

        Args:
            retain: Share of the baseline to keep, as in `find_subnetwork`.

        Raises:
            ValueError: If the search ended before a mask failed this threshold.
        """
        return _cut(self.trajectory, self.metric, retain)

    def table(self) -> pd.DataFrame:
        """Score against sparsity, one row per mask of the search.

        Returns:
            Columns `step`, `kept` (heads), `share_removed`, `score` and `retention`: the score as a share of
            the baseline or, for perplexity, the baseline as a share of the score.
        """
        rows = [(index, step.kept, step.score) for index, step in enumerate(self.trajectory)]
        table = pd.DataFrame(rows, columns=["step", "kept", "score"])
        table.insert(2, "share_removed", 1 - table["kept"] / self.mask.numel())
        ratio = table["score"] / self.baseline
        return table.assign(retention=1 / ratio if self.metric == "perplexity" else ratio)


def find_subnetwork(
    model: nn.Module,
    batches: Batches,
    stop: Batches | None = None,
    *,
    metric: str = "accuracy",
    retain: float = 0.95,
    step: float = 0.10,
    sparsity: float | None = None,
    per: str = "example",
    norm: str | None = "layer",
    full_trajectory: bool = False,
    part: str = "encoder",
) -> Subnetwork:
    """Small set of attention heads with which a model retains its score, found greedily.

    Args:
        model: As for `head_importance`; left as it was, also by a search that is interrupted.
        batches: Labelled batches for the importance.
        stop: Labelled batches for the scores, held out. None takes the scores from `batches`, in the same
            pass as the importance, as published; that flatters a subnetwork chosen on these very examples.
        metric: As for `evaluate`.
        retain: Share of the whole model's score to keep, in [0, 1]. For perplexity, where lower is better, a
            mask passes up to the whole model's perplexity / `retain`; 1/1.1 allows a rise of 10 %.
        step: Share of all heads removed in a step, rounded down, but at least one head.
        sparsity: Share of all heads to remove, instead of `retain`; the last step is cut short to meet it.
        per, norm: As for `head_importance`, which is asked anew of every masked model.
        full_trajectory: Go on beyond the threshold to no heads at all, for `Subnetwork.at` any other.
        part: Whose heads are searched: "encoder", "decoder" or "cross", as in `gates.head_shape`. The others stay.

    Returns:
        The last mask before the first failure, that failure, and the trajectory. All heads if the first step
        fails; no head if no step does (as with a model that scores 0).

    Raises:
        ValueError: If an argument is unknown or out of range, data are missing, or a score is not finite.

    Source: Michel et al. 2019, section 4; the threshold on retained performance from Prasanna et al. 2020.
    """
    check_options(per, norm)
    _check_search(retain, step, sparsity, full_trajectory)
    shape = head_shape(model, part=part)
    counts = _schedule(math.prod(shape), step, sparsity)
    batches = list(batches)
    stop = batches if stop is None else list(stop)
    measure = partial(_measure, model, batches, stop, metric, per, norm, part)
    threshold = None if full_trajectory or sparsity is not None else retain
    trajectory = _descend(torch.ones(shape, dtype=torch.bool), counts, measure, metric, threshold)
    if sparsity is None:
        return _cut(trajectory, metric, retain)
    return Subnetwork(trajectory[-1].mask, None, trajectory, trajectory[0].score, metric)


def _measure(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    stop: Sequence[Mapping[str, Tensor]],
    metric: str,
    per: str,
    norm: str | None,
    part: str,
    mask: Bool[Tensor, "layers heads"],
    final: bool,
) -> tuple[float, Callable[[], Tensor]]:
    """Score of a masked model, and its importance on demand: the last mask of a search needs none."""
    if final or stop is not batches:
        importance = partial(head_importance, model, batches, gates=mask, per=per, norm=norm, part=part)
        return evaluate(model, stop, metric=metric, gates=mask, part=part), importance
    gradients, outputs, labels = zip(
        *gate_gradients(model, batches, gates=mask, per=per, metric=metric, part=part), strict=True
    )
    return score(outputs, labels, metric, label_names(model)), lambda: aggregate(gradients, per, norm)


def _schedule(heads: int, step: float, sparsity: float | None) -> list[int]:
    """Numbers of heads kept, from all of them to the last: of 144 heads by tenths 144, 130, …, 4, 0."""
    # Rounded, lest .29 · 100 = 28.999999999999996 should remove 28 in a step, .07 · 100 = 7.000000000000001 in all 8.
    size = max(1, int(round(heads * step, 9)))
    last = 0 if sparsity is None else heads - math.ceil(round(sparsity * heads, 9))
    return [*range(heads, last, -size), last]


def _descend(
    mask: Bool[Tensor, "layers heads"],
    counts: Sequence[int],
    measure: Callable[[Tensor, bool], tuple[float, Callable[[], Tensor]]],
    metric: str,
    retain: float | None,
) -> list[Step]:
    """Steps down the schedule, to the first mask that fails or, without a threshold, to its end."""
    steps: list[Step] = []
    for kept in tqdm(counts, desc="head pruning", delay=5, leave=False):
        if steps:
            mask = _most_important(steps[-1].importance, mask, kept)
        final = kept == counts[-1]
        value, importance = measure(mask, final)
        if not math.isfinite(value):
            raise ValueError(f"the {metric} of the model with {kept} heads is {value}")
        baseline = steps[0].score if steps else value
        final |= retain is not None and not _passes(value, baseline, metric, retain)
        steps.append(Step(mask, value, None if final else importance()))
        if final:
            break
    return steps


def _most_important(
    importance: Float[Tensor, "layers heads"], mask: Bool[Tensor, "layers heads"], kept: int
) -> Bool[Tensor, "layers heads"]:
    """The mask without its least important heads; of equally important ones the first go."""
    order = importance.masked_fill(~mask, math.inf).flatten().argsort(stable=True)
    fewer = mask.flatten().clone()
    fewer[order[: int(mask.sum()) - kept]] = False
    return fewer.view_as(mask)


def _cut(trajectory: Sequence[Step], metric: str, retain: float) -> Subnetwork:
    """The subnetwork at a threshold; masks after the first failure do not count, even if they pass."""
    _check_share("retain", retain)
    baseline = trajectory[0].score
    passing = [_passes(step.score, baseline, metric, retain) for step in trajectory]
    if all(passing) and trajectory[-1].kept:
        raise ValueError(
            f"retain={retain} is still met by the {trajectory[-1].kept} heads at which the search ended; "
            "search with full_trajectory=True"
        )
    first = len(passing) if all(passing) else passing.index(False)
    failed = None if all(passing) else trajectory[first].mask
    return Subnetwork(trajectory[first - 1].mask, failed, trajectory, baseline, metric)


def _passes(value: float, baseline: float, metric: str, retain: float) -> bool:
    """Whether a score is good enough."""
    return value * retain <= baseline if metric == "perplexity" else value >= retain * baseline


def _check_search(retain: float, step: float, sparsity: float | None, full_trajectory: bool) -> None:
    """Raises unless the settings of a search are within range and agree."""
    _check_share("retain", retain)
    _check_share("step", step)
    _check_share("sparsity", 0 if sparsity is None else sparsity)
    if sparsity is not None and full_trajectory:
        raise ValueError("sparsity ends the search and full_trajectory goes on; leave one of them out")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a share in [0, 1], got {value}")
