"""The searches that notebook 02 makes and all later notebooks go on from: a subnetwork for each language of a model."""

from pathlib import Path
from typing import Any

from torch import Tensor

from xsub_utils._internal import store
from xsub_utils.evaluation.metrics import Metric
from xsub_utils.heads.gates import check_gates
from xsub_utils.heads.search import find_subnetwork
from xsub_utils.heads.subnetwork import Subnetwork
from xsub_utils.study.study import Study, load_model

RETAIN = 0.95  # share of the full model's score that a subnetwork keeps
RETAIN_LOWER_IS_BETTER = 1 / 1.1  # perplexity may rise by a tenth, as in Belitsky et al. 2024
THRESHOLDS = (0.90, 0.95, 0.98)


def search(study: Study, task: str, seed: int, language: str, mask_seed: int) -> Subnetwork:
    """The search for the subnetwork of one language, followed down to no heads at all unless perplexity decides.

    Args:
        study: Gives data and model.
        task: The task.
        seed: Fine-tuning seed of the model.
        language: Whose data decide importance and threshold.
        mask_seed: Draws those data from their pools.
    """
    folder, data = study.model_folder(task, seed), study.task(task)
    key = {
        "model": folder.name,
        "task": data.identity,
        "language": language,
        "mask_seed": mask_seed,
        "sizes": [study.importance_size, study.validation_size],
    }

    def build(out: Path) -> None:
        importance, validation = (
            study.batches(task, split, language, mask_seed) for split in ("importance", "validation")
        )
        model = load_model(folder)
        check_gates(model, importance[0])
        depth = _depth(study.metric(task))
        subnetwork = find_subnetwork(model, importance, validation, metric=study.metric(task).name, **depth)
        subnetwork.save(out / "subnetwork")

    stored = store.get_or_build("search", key, build)
    return Subnetwork.load(stored / "subnetwork").at(usual_retain(study.metric(task)))


def subnetworks(study: Study, task: str, seed: int, mask_seed: int, retain: float | None = None) -> dict[str, Tensor]:
    """Language -> its mask at a threshold; by default the usual one of the task's metric."""
    if retain is None:
        retain = usual_retain(study.metric(task))
    searches = {language: search(study, task, seed, language, mask_seed) for language in study.languages}
    return {language: searched.at(retain).mask for language, searched in searches.items()}


def usual_retain(metric: Metric) -> float:
    """The threshold of tasks of a metric."""
    return RETAIN_LOWER_IS_BETTER if metric.lower_is_better else RETAIN


def _depth(metric: Metric) -> dict[str, Any]:
    """How far a search goes: perplexities are dear, so theirs end with the last threshold that is asked for."""
    return {"retain": min(THRESHOLDS)} if metric.lower_is_better else {"full_trajectory": True}
