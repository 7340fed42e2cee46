"""The search for a subnetwork: which attention heads a model can do without.

The search is greedy. It removes the least important tenth of the heads, asks what the smaller model scores
and how important its heads have become, and goes on until the score falls below a share of the full model's.
Importance, threshold and final score each deserve data of their own: the splits importance, validation and test.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm import tqdm

from xsub_utils._internal.validation import invalid
from xsub_utils.evaluation.metrics import metric_named
from xsub_utils.evaluation.scores import Batches, evaluate, label_names, score
from xsub_utils.heads.importance import aggregate, attention_entropy, check_options, gate_gradients, head_importance
from xsub_utils.heads.subnetwork import Step, Subnetwork, check_share, cut
from xsub_utils.models.architectures import head_shape
from xsub_utils.models.batch_checks import listed_batches

__all__ = ["Step", "Subnetwork", "attention_entropy", "find_subnetwork", "head_importance"]


def find_subnetwork(
    model: nn.Module,
    importance: Batches,
    validation: Batches | None = None,
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
        importance: Labelled batches for the importance.
        validation: Labelled batches for the scores, held out. None takes the scores from `importance`, in the same
            pass, as published; that flatters a subnetwork chosen on these very examples.
        metric: As for `evaluate`.
        retain: Share of the full model's score to keep, in [0, 1]. For perplexity, where lower is better, a
            mask passes up to the full model's perplexity / `retain`; 1/1.1 allows a rise of 10 %.
        step: Share of all heads removed in a step, rounded down, but at least one head.
        sparsity: Share of all heads to remove, instead of `retain`; the last step is cut short to meet it.
        per, norm: As for `head_importance`, which is asked anew of every masked model.
        full_trajectory: Go on beyond the threshold to no heads at all, for `Subnetwork.at` any other.
        part: Whose heads are searched: "encoder", "decoder" or "cross", as in `head_shape`. The others stay.

    Returns:
        The last mask before the first failure, that failure, and the trajectory. All heads if the first step
        fails; no head if no step does (as with a model that scores 0).

    Raises:
        ValueError: If an argument is unknown or out of range, data are missing, or a score is not finite.

    Source: Michel et al. 2019, section 4; the threshold on retained performance from Prasanna et al. 2020.

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.load_task("mlm", ["qaa"], sizes={"train": 2, "importance": 4, "validation": 4})
        >>> model, tokenizer = xs.load_encoder("minibabel-base", "mlm")
        >>> importance, validation = (
        ...     xs.make_batches(task.examples(split, "qaa"), tokenizer, "mlm") for split in ("importance", "validation")
        ... )
        >>> subnetwork = xs.find_subnetwork(model, importance, validation, metric="perplexity", retain=0.8, step=0.25)
        >>> subnetwork.trajectory[0].kept, subnetwork.trajectory[-1].kept < 48
        (48, True)
        >>> list(subnetwork.table())
        ['step', 'kept', 'sparsity', 'score', 'retention']
    """
    check_options(per, norm)
    _check_search(retain, step, sparsity, full_trajectory)
    shape = head_shape(model, part=part)
    counts = _schedule(math.prod(shape), step, sparsity)
    ranked = listed_batches(importance, "importance")
    scored = ranked if validation is None else listed_batches(validation, "validation")
    measure = partial(_measure, model, ranked, scored, metric, per, norm, part)
    threshold = None if full_trajectory or sparsity is not None else retain
    trajectory = _descend(torch.ones(shape, dtype=torch.bool), counts, measure, metric, threshold)
    if sparsity is None:
        return cut(trajectory, metric, retain)
    return Subnetwork(trajectory[-1].mask, None, trajectory, trajectory[0].score, metric)


def _measure(
    model: nn.Module,
    ranked: Sequence[Mapping[str, Tensor]],
    scored: Sequence[Mapping[str, Tensor]],
    metric: str,
    per: str,
    norm: str | None,
    part: str,
    mask: Bool[Tensor, "layers heads"],
    final: bool,
) -> tuple[float, Callable[[], Tensor]]:
    """Score of a masked model, and its importance on demand: the last mask of a search needs none."""
    if final or scored is not ranked:
        importance = partial(head_importance, model, ranked, gates=mask, per=per, norm=norm, part=part)
        return evaluate(model, scored, metric=metric, gates=mask, part=part), importance
    gradients, outputs, labels = zip(
        *gate_gradients(model, ranked, gates=mask, per=per, metric=metric, part=part), strict=True
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
        if steps and steps[-1].importance is not None:
            mask = _most_important(steps[-1].importance, mask, kept)
        final = kept == counts[-1]
        value, importance = measure(mask, final)
        if not math.isfinite(value):
            raise invalid("model", f"a finite {metric}", f"{value} with {kept} heads")
        baseline = steps[0].score if steps else value
        final |= retain is not None and not metric_named(metric).keeps(value, baseline, retain)
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


def _check_search(retain: float, step: float, sparsity: float | None, full_trajectory: bool) -> None:
    """Raises unless the settings of a search are within range and agree."""
    check_share("retain", retain)
    check_share("step", step)
    check_share("sparsity", 0 if sparsity is None else sparsity)
    if sparsity is not None and full_trajectory:
        raise invalid("sparsity", "none with full_trajectory, which goes on beyond it", sparsity, "leave one out")
