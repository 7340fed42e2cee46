"""Notebook 06: predictions attributed with each example through heads of its own language, as in sparse training."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from torch import Tensor

from xsub_utils.study.nb05_attribution import controls
from xsub_utils.study.nb05_attribution.tables import attributed, attributed_each, ranked
from xsub_utils.study.nb06_sparse import models as sparse
from xsub_utils.study.study import Study

EACH, SWAPPED = "each through its own", "each, training data through others'"
EACH_RANDOM, SWAPPED_RANDOM = "each through random heads", "random heads, training data through others'"
CONDITIONS = (EACH, SWAPPED, EACH_RANDOM, SWAPPED_RANDOM)


def each_through_its_own(
    study: Study,
    task: str,
    seed: int,
    plan: controls.Plan,
    variant: str,
    heads: Mapping[str, Tensor],
    names: tuple[str, str] = (EACH, SWAPPED),
) -> pd.DataFrame:
    """Every example through the heads of its own language; and training examples through those of another one."""
    folder, parts = sparse.folder(study, task, seed, variant), []
    for condition, train in zip(names, (heads, sparse.others(heads)), strict=True):
        found = attributed_each(study, task, seed, heads, train, plan, folder)
        views = {0: found.scores.sum(0), **{epoch: one for epoch, one in enumerate(found.scores, 1)}}
        parts.append(ranked(found, views, plan.top).assign(condition=condition, whose="", kept=np.nan))
    return pd.concat(parts, ignore_index=True).assign(task=task, seed=seed)


def as_trained(study: Study, task: str, seed: int, plan: controls.Plan, variant: str) -> pd.DataFrame:
    """All heads, and those that the batches of each language ran through in training."""
    folder, codes = sparse.folder(study, task, seed, variant), tuple(study.languages)
    sets = {"": None, **sparse.heads_of(study, task, seed, variant)}
    parts = []
    for whose, gates in sets.items():
        found = attributed(study, task, seed, gates, codes, plan, folder)
        views = {0: found.scores.sum(0), **{epoch: one for epoch, one in enumerate(found.scores, 1)}}
        table = ranked(found, views, plan.top)
        condition = np.where(table["language"] == whose, sparse.TRAINED, controls.OTHER) if whose else controls.FULL
        kept = 1.0 if gates is None else float(gates.float().mean())
        parts.append(table.assign(condition=condition, whose=whose, kept=kept))
    return pd.concat(parts, ignore_index=True).assign(task=task, seed=seed)
