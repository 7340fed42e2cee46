"""Notebook 06, dials: sparse beside full fine-tuning with smaller subnetworks, or an easier or harder task."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from torch import Tensor

from xsub_utils.study.conditions import Dial, Variant
from xsub_utils.study.nb05_attribution.controls import AttributedModel, AttributionPlan
from xsub_utils.study.nb05_attribution.scores import attributed, ranked
from xsub_utils.study.nb06_sparse import models as sparse
from xsub_utils.study.nb06_sparse.models import Size
from xsub_utils.study.study import Study


def dials(
    study: Study,
    task: str,
    seed: int,
    plan: AttributionPlan,
    sparsities: Sequence[float] = (0.3, 0.5, 0.7, 0.9),
    thresholds: Sequence[float] = (0.90, 0.95, 0.98),
    difficulties: Sequence[int] = (0, 1, 2),
) -> pd.DataFrame:
    """Sparse beside full fine-tuning where subnetworks are larger or smaller, or the task easier or harder.

    Args:
        study, task, seed: Of the models.
        plan: What is attributed to what.
        sparsities: Shares of the heads that are pruned, as nearly as a search comes to them.
        thresholds: Shares of the full model's score that subnetworks retain.
        difficulties: Of MiniBabel; other data have none.

    Returns:
        task, seed, dial (an id of `Dial`), value, variant ("full_finetuning", "sparse_own", and over sparsities
        "sparse_random"), kept (share of the heads, mean over languages), language, score (through own heads, or the
        random ones trained through), full (score of the full model), share (the in-language share through the same
        heads), score_chance, share_chance.
    """
    settings = [(Dial.SPARSITY, sparsity, study, Size(kept=1 - sparsity)) for sparsity in sparsities]
    settings += [(Dial.RETENTION, retain, study, Size(retain=retain)) for retain in thresholds]
    if study.source == "minibabel":
        settings += [(Dial.DIFFICULTY, level, replace(study, difficulty=level), sparse.USUAL) for level in difficulties]
    parts = []
    for dial, value, varied, size in settings:
        random = [Variant.SPARSE_RANDOM] if dial == Dial.SPARSITY else []
        for variant in (Variant.FULL_FINETUNING, Variant.SPARSE_OWN, *random):
            table = _at(varied, task, seed, plan, variant, size)
            chance = {"score_chance": varied.chance(task), "share_chance": 1 / len(varied.languages)}
            parts.append(table.assign(dial=dial, value=value, variant=variant, **chance))
    return pd.concat(parts, ignore_index=True).assign(task=task, seed=seed)


def _at(study: Study, task: str, seed: int, plan: AttributionPlan, variant: str, size: Size) -> pd.DataFrame:
    own = sparse.heads_of(study, task, seed, variant, size)
    folder = sparse.folder(study, task, seed, variant, size)
    views: dict[str, dict] = {"score": own, "full": dict.fromkeys(study.languages)}
    scores = sparse.scored(study, task, folder, views).pivot(index="language", columns="heads", values="score")
    model = AttributedModel(study, task, seed, folder)
    shares = {code: _in_language_share(model, plan, code, mask) for code, mask in own.items()}
    kept = np.mean([float(mask.float().mean()) for mask in own.values()])
    return scores[[*views]].reset_index().assign(kept=kept, share=lambda table: table["language"].map(shares))


def _in_language_share(model: AttributedModel, plan: AttributionPlan, code: str, gates: Tensor) -> float:
    scores = attributed(model, plan, gates, (code,))
    table = ranked(scores, {0: scores.scores.sum(0)}, plan.top)
    return float(table[(table["sign"] == "positive") & (table["train"] == code)]["share"].mean())
