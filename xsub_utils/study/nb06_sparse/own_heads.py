"""Notebook 06: predictions attributed with each example through heads of its own language, as in sparse training."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from torch import Tensor

from xsub_utils.study.conditions import AttributedHeads, Through
from xsub_utils.study.nb05_attribution.controls import AttributedModel, AttributionPlan
from xsub_utils.study.nb05_attribution.scores import attributed, attributed_each, ranked
from xsub_utils.study.nb06_sparse import models as sparse
from xsub_utils.study.study import Study

EACH = (Through.EACH_OWN, Through.EACH_SWAPPED)
EACH_RANDOM = (Through.EACH_RANDOM, Through.EACH_RANDOM_SWAPPED)


def model_of(study: Study, task: str, seed: int, variant: str) -> AttributedModel:
    """A variant, to attribute its predictions."""
    return AttributedModel(study, task, seed, sparse.folder(study, task, seed, variant))


def each_through_its_own(
    model: AttributedModel,
    plan: AttributionPlan,
    heads: Mapping[str, Tensor],
    conditions: tuple[str, str] = EACH,
) -> pd.DataFrame:
    """Every example through the heads of its own language; and training examples through those of another one.

    Args:
        model: Whose predictions are attributed.
        plan: What is attributed to what.
        heads: Language → its heads.
        conditions: What the two are called.
    """
    parts = []
    for condition, train_heads in zip(conditions, (heads, sparse.others(heads)), strict=True):
        scores = attributed_each(model, plan, heads, train_heads)
        parts.append(ranked(scores, scores.views(), plan.top).assign(condition=condition, whose="", kept=np.nan))
    return pd.concat(parts, ignore_index=True).assign(task=model.task, seed=model.seed)


def as_trained(study: Study, task: str, seed: int, plan: AttributionPlan, variant: str) -> pd.DataFrame:
    """All heads, and those that the batches of each language ran through in training."""
    model, codes = model_of(study, task, seed, variant), tuple(study.languages)
    parts = []
    for whose, gates in {"": None, **sparse.heads_of(study, task, seed, variant)}.items():
        scores = attributed(model, plan, gates, codes)
        table = ranked(scores, scores.views(), plan.top)
        condition = np.where(table["language"] == whose, Through.TRAINED_HEADS, AttributedHeads.OTHER_LANGUAGE)
        kept = 1.0 if gates is None else float(gates.float().mean())
        parts.append(table.assign(condition=condition if whose else AttributedHeads.FULL, whose=whose, kept=kept))
    return pd.concat(parts, ignore_index=True).assign(task=task, seed=seed)
