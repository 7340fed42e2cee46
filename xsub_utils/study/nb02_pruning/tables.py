"""Notebook 02: a subnetwork for each language, how far it goes, and what it is compared with."""

from collections.abc import Mapping, Sequence

import pandas as pd
from torch import Tensor, nn

from xsub_utils.evaluation.metrics import Metric
from xsub_utils.evaluation.scores import chance_level, cross_evaluate
from xsub_utils.heads import masks
from xsub_utils.models.example_order import NumberedBatch
from xsub_utils.study.conditions import Control
from xsub_utils.study.nb02_pruning.searches import THRESHOLDS, search, subnetworks
from xsub_utils.study.study import Study, load_model, long, stored_table

MERGES = {
    Control.UNION: masks.union,
    Control.INTERSECTION: masks.intersection,
    Control.MAJORITY: masks.majority,
}
HeadMasks = Mapping[str, Tensor]  # language or control -> (layers, heads)


def full_importance(study: Study, task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    """Head importance of the full model: task, seed, mask_seed, language, layer, head, importance."""
    parts = {}
    for language in study.languages:
        first = search(study, task, seed, language, mask_seed).trajectory[0].importance
        assert first is not None, "only the last mask of a search has no importance"
        parts[language] = long(first, "importance")
    return _joined(parts, task, seed, mask_seed)


def trajectories(study: Study, task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    """Score against sparsity: task, seed, mask_seed, language, step, kept, sparsity, score, retention."""
    parts = {language: search(study, task, seed, language, mask_seed).table() for language in study.languages}
    return _joined(parts, task, seed, mask_seed)


def kept_heads(study: Study, task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    """Which heads the masks keep: task, seed, mask_seed, language, layer, head, kept (0 or 1)."""
    parts = {language: long(mask.int(), "kept") for language, mask in subnetworks(study, task, seed, mask_seed).items()}
    return _joined(parts, task, seed, mask_seed)


def sizes(study: Study, task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    """Share of the heads kept at each threshold: task, seed, mask_seed, language, retain, kept."""
    rows = [
        (task, seed, mask_seed, language, retain, _share_kept(mask))
        for retain in THRESHOLDS
        for language, mask in subnetworks(study, task, seed, mask_seed, retain).items()
    ]
    return pd.DataFrame(rows, columns=["task", "seed", "mask_seed", "language", "retain", "kept"])


def cross_evaluation(study: Study, task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    """Every mask on every language's test split, and controls made from the language's own mask.

    Returns:
        task, seed, mask_seed, mask (whose it is), control (an id of `Control`; "constant" is the best answer without a
        model), language, kept (share of the heads), score, retention (score over the full model's), difference (to the
        score of the language's own mask).
    """
    own = subnetworks(study, task, seed, mask_seed)
    tried = {language: _controls(mask, mask_seed) for language, mask in own.items()}
    return _evaluated(study, task, seed, own, tried).assign(mask_seed=mask_seed)


def merged(study: Study, task: str, seed: int, mask_seeds: Sequence[int]) -> pd.DataFrame:
    """Masks of several mask seeds merged to one per language, on its test split; columns as above."""
    by_seed = [subnetworks(study, task, seed, mask_seed) for mask_seed in mask_seeds]
    tried: dict[str, HeadMasks] = {
        language: {name: merge([own[language] for own in by_seed]) for name, merge in MERGES.items()}
        for language in study.languages
    }
    table = _evaluated(study, task, seed, by_seed[0], tried).assign(mask_seed=-1)
    return table[table["control"].isin(MERGES)]


def _evaluated(study: Study, task: str, seed: int, own: HeadMasks, tried: Mapping[str, HeadMasks]) -> pd.DataFrame:
    """All masks of `own` on all languages, and what is tried for each language on itself; stored."""
    folder, data = study.model_folder(task, seed), study.task(task)
    key = {
        "model": folder.name,
        "task": data.identity,
        "masks": [{name: mask.int().tolist() for name, mask in named.items()} for named in (own, *tried.values())],
        "languages": list(study.languages),
    }

    def compute() -> pd.DataFrame:
        model = load_model(folder)
        parts = [
            _on_language(
                model, language, study.batches(task, "test", language), study.metric(task), own, tried[language]
            )
            for language in study.languages
        ]
        return pd.concat(parts, ignore_index=True)

    return stored_table("cross-evaluation", key, compute).assign(task=task, seed=seed)


def _on_language(
    model: nn.Module, language: str, test: list[NumberedBatch], metric: Metric, own: HeadMasks, tried: HeadMasks
) -> pd.DataFrame:
    """One language's column of the matrix, its controls, and the references of both."""
    crossed = cross_evaluate(model, {language: test}, masks={"": None, **own, **tried}, metric=metric.name)[language]
    full, reference = crossed.pop(""), crossed[language]
    whose = {name: Control.OWN if name == language else Control.OTHER_LANGUAGE for name in own}
    rows = [(name, whose[name], _share_kept(mask)) for name, mask in own.items()]
    rows += [(language, Control(control), _share_kept(mask)) for control, mask in tried.items()]
    table = pd.DataFrame(rows, columns=["mask", "control", "kept"]).assign(score=crossed.to_list())
    constant = chance_level([batch["labels"] for batch in test], metric.name)
    table.loc[len(table)] = [language, Control.CONSTANT, 0.0, constant]
    # A model that finds nothing retains nothing.
    retention = [metric.retention(score, full) if full else float("nan") for score in table["score"]]
    return table.assign(language=language, retention=retention, difference=table["score"] - reference)


def _controls(mask: Tensor, seed: int) -> HeadMasks:
    return {
        Control.RANDOM: masks.random_mask(mask, seed=seed),
        Control.SHUFFLED_WITHIN: masks.shuffle_mask(mask, over="within", seed=seed),
        Control.SHUFFLED_OVER: masks.shuffle_mask(mask, over="layers", seed=seed),
        Control.INVERTED: masks.invert(mask),
    }


def _share_kept(mask: Tensor) -> float:
    return float(mask.float().mean())


def _joined(parts: Mapping[str, pd.DataFrame], task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    tables = [table.assign(language=language) for language, table in parts.items()]
    return pd.concat(tables, ignore_index=True).assign(task=task, seed=seed, mask_seed=mask_seed)
