"""Notebook 02: a subnetwork for each language, how far it goes, and what it is compared with."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xsub_utils._internal import store
from xsub_utils.evaluation import scores as evaluate
from xsub_utils.heads import gates, masks
from xsub_utils.heads import search as prune
from xsub_utils.study.study import Study, load_model, long, stored_table

RETAIN = 0.95  # share of the full model's score that a subnetwork keeps
RETAIN_PERPLEXITY = 1 / 1.1  # perplexity may rise by a tenth, as in Belitsky et al. 2024
THRESHOLDS = (0.90, 0.95, 0.98)
MERGES = {"union": masks.union, "intersection": masks.intersection, "majority": masks.majority}
Masks = Mapping[str, Tensor]  # name -> (layers, heads)


def search(study: Study, task: str, seed: int, language: str, mask_seed: int) -> prune.Subnetwork:
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
        score, stop = (study.batches(task, split, language, mask_seed) for split in ("importance", "validation"))
        model = load_model(folder)
        gates.check_gates(model, score[0])
        found = prune.find_subnetwork(model, score, stop, metric=data.metric, **_depth(data.metric))
        _save(out, found)

    return _load(store.get_or_build("search", key, build))


def subnetworks(study: Study, task: str, seed: int, mask_seed: int, retain: float | None = None) -> dict[str, Tensor]:
    """Language -> its mask at a threshold; by default the usual one of the task's metric."""
    if retain is None:
        retain = _usual(study.task(task).metric)
    found = {language: search(study, task, seed, language, mask_seed) for language in study.languages}
    return {language: one.at(retain).mask for language, one in found.items()}


def _usual(metric: str) -> float:
    """The threshold of tasks of a metric."""
    return RETAIN_PERPLEXITY if metric == "perplexity" else RETAIN


def _depth(metric: str) -> dict:
    """How far a search goes: perplexities are dear, so theirs end with the last threshold that is asked for."""
    return {"retain": min(THRESHOLDS)} if metric == "perplexity" else {"full_trajectory": True}


def full_importance(study: Study, task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    """Head importance of the full model: task, seed, mask_seed, language, layer, head, importance."""
    parts = {
        language: long(search(study, task, seed, language, mask_seed).trajectory[0].importance, "importance")
        for language in study.languages
    }
    return _joined(parts, task, seed, mask_seed)


def trajectories(study: Study, task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    """Score against sparsity: task, seed, mask_seed, language, step, kept, removed, score, retention."""
    parts = {language: search(study, task, seed, language, mask_seed).table() for language in study.languages}
    return _joined(parts, task, seed, mask_seed).rename(columns={"share_removed": "removed"})


def kept_heads(study: Study, task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    """Which heads the masks keep: task, seed, mask_seed, language, layer, head, kept (0 or 1)."""
    found = subnetworks(study, task, seed, mask_seed)
    return _joined({language: long(mask.int(), "kept") for language, mask in found.items()}, task, seed, mask_seed)


def sizes(study: Study, task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    """Share of the heads kept at each threshold: task, seed, mask_seed, language, retain, kept."""
    rows = [
        (task, seed, mask_seed, language, retain, _share(mask))
        for retain in THRESHOLDS
        for language, mask in subnetworks(study, task, seed, mask_seed, retain).items()
    ]
    return pd.DataFrame(rows, columns=["task", "seed", "mask_seed", "language", "retain", "kept"])


def cross_evaluation(study: Study, task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    """Every mask on every language's report split, and controls made from the language's own mask.

    Returns:
        task, seed, mask_seed, mask (whose it is), control ("own", "other", what was done to the own mask, or
        "constant", the best answer without a model), language, kept (share of the heads), score, retention
        (score over the full model's), difference (to the score of the language's own mask).
    """
    own = subnetworks(study, task, seed, mask_seed)
    tried = {language: _controls(mask, mask_seed) for language, mask in own.items()}
    return _evaluated(study, task, seed, own, tried).assign(mask_seed=mask_seed)


def merged(study: Study, task: str, seed: int, mask_seeds: Sequence[int]) -> pd.DataFrame:
    """Masks of several mask seeds merged to one per language, on its report split; columns as above."""
    found = [subnetworks(study, task, seed, mask_seed) for mask_seed in mask_seeds]
    tried = {
        language: {name: merge([one[language] for one in found]) for name, merge in MERGES.items()}
        for language in study.languages
    }
    table = _evaluated(study, task, seed, found[0], tried).assign(mask_seed=-1)
    return table[table["control"].isin(MERGES)]


def _evaluated(study: Study, task: str, seed: int, own: Masks, tried: Mapping[str, Masks]) -> pd.DataFrame:
    """All masks of `own` on all languages, and what is tried for each language on itself; stored."""
    folder, data = study.model_folder(task, seed), study.task(task)
    key = {
        "model": folder.name,
        "task": data.identity,
        "masks": [{name: mask.int().tolist() for name, mask in some.items()} for some in (own, *tried.values())],
        "languages": list(study.languages),
    }

    def compute() -> pd.DataFrame:
        model = load_model(folder)
        parts = [
            _on_language(model, language, study.batches(task, "test", language), data.metric, own, tried[language])
            for language in study.languages
        ]
        return pd.concat(parts, ignore_index=True)

    return stored_table("cross-evaluation", key, compute).assign(task=task, seed=seed)


def _on_language(model, language: str, report: list, metric: str, own: Masks, tried: Masks) -> pd.DataFrame:
    """One language's column of the matrix, its controls, and the references of both."""
    crossed = evaluate.cross_evaluate(model, {language: report}, masks={"": None, **own, **tried}, metric=metric)[
        language
    ]
    full, reference = crossed.pop(""), crossed[language]
    rows = [(name, "own" if name == language else "other", _share(mask)) for name, mask in own.items()]
    rows += [(language, control, _share(mask)) for control, mask in tried.items()]
    table = pd.DataFrame(rows, columns=["mask", "control", "kept"]).assign(score=crossed.to_list())
    constant = evaluate.chance_level([batch["labels"] for batch in report], metric)
    table.loc[len(table)] = [language, "constant", 0.0, constant]
    retention = [_retention(score, full, metric) for score in table["score"]]
    return table.assign(language=language, retention=retention, difference=table["score"] - reference)


def _controls(mask: Tensor, seed: int) -> Masks:
    return {
        "random": masks.random_mask(mask, seed=seed),
        "shuffled within": masks.shuffle_mask(mask, over="within", seed=seed),
        "shuffled layers": masks.shuffle_mask(mask, over="layers", seed=seed),
        "inverted": masks.invert(mask),
    }


def _share(mask: Tensor) -> float:
    return float(mask.float().mean())


def _retention(score: float, full: float, metric: str) -> float:
    if not full:  # a model that finds nothing retains nothing
        return float("nan")
    return full / score if metric == "perplexity" else score / full


def _joined(parts: Mapping[str, pd.DataFrame], task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    tables = [table.assign(language=language) for language, table in parts.items()]
    return pd.concat(tables, ignore_index=True).assign(task=task, seed=seed, mask_seed=mask_seed)


def _save(out: Path, found: prune.Subnetwork) -> None:
    steps = found.trajectory
    unknown = torch.full_like(steps[0].importance, torch.nan)  # the last mask of a search needs no importance
    importances = [unknown if step.importance is None else step.importance for step in steps]
    np.savez(
        out / "trajectory.npz",
        masks=torch.stack([step.mask for step in steps]).numpy(),
        scores=np.array([step.score for step in steps]),
        importance=torch.stack(importances).numpy(),
    )
    store.write_json(out / "search.json", {"metric": found.metric})


def _load(folder: Path) -> prune.Subnetwork:
    arrays = np.load(folder / "trajectory.npz", allow_pickle=False)
    metric = json.loads((folder / "search.json").read_text("utf-8"))["metric"]
    steps = [
        prune.Step(torch.from_numpy(mask), float(score), torch.from_numpy(importance))
        for mask, score, importance in zip(*arrays.values(), strict=True)
    ]
    return prune.Subnetwork(steps[-1].mask, None, steps, steps[0].score, metric).at(_usual(metric))
