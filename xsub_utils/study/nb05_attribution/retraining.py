"""Notebook 05, models trained on other data: without influential examples, with more or less of one language, or none.

All train on a part of the task's training data only, so that what is left out weighs.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xsub_utils._internal import store
from xsub_utils._internal.validation import invalid
from xsub_utils.attribution import top_k, tracin
from xsub_utils.evaluation.forward import forward
from xsub_utils.gradients import capture
from xsub_utils.study.conditions import Examples, Removed
from xsub_utils.study.nb05_attribution.examples import batches_of, by_length
from xsub_utils.study.nb05_attribution.scores import long_shares
from xsub_utils.study.nb05_attribution.specialisation import in_order
from xsub_utils.study.study import Study, load_model, training_key
from xsub_utils.training import finetune, settings
from xsub_utils.training.folders import checkpoints


def removals(
    study: Study, task: str, seed: int, targets: Sequence[str], size: int, attributed_test_size: int, share: float = 0.1
) -> pd.DataFrame:
    """What it does to the predictions in a language to train without the examples that count most for them.

    Influence is that on all test examples of a language together; each model is trained anew, with the same seed.

    Args:
        study, task, seed: Of the model.
        targets: Languages of the test examples.
        size: Training examples per language, of which `share` (of all languages together) are removed.
        attributed_test_size: Test examples of a language.
        share: Of the training examples.

    Returns:
        task, seed, language, removed (an id of `Removed`; "random_alike" are as many random ones of each language and
        label as the strongest proponents), confidence (mean probability of the right answer), loss (mean, in nats),
        change (of confidence).
    """
    rows = _pool(study, task, dict.fromkeys(study.languages, size))
    base, tables = _trained(study, task, seed, rows), []
    for language in targets:
        test = study.task(task).examples("test", language).head(attributed_test_size)
        order = np.argsort(-_scores(study, task, base, rows, test, together=True)[0].numpy(), kind="stable")
        count = round(share * len(rows))
        generator = np.random.default_rng([seed, study.languages.index(language)])
        gone = {
            Removed.NOTHING: order[:0],
            Removed.PROPONENTS: order[:count],
            Removed.OPPONENTS: order[-count:],
            Removed.RANDOM_EXAMPLES: generator.permutation(order)[:count],
            Removed.RANDOM_ALIKE: _alike(rows, order[:count], generator),
        }
        outcomes = []
        for name, places in gone.items():
            folder = _trained(study, task, seed, rows.drop(rows.index[places]))
            outcomes.append((name, *_confidence(study, task, folder, test)))
        table = pd.DataFrame(outcomes, columns=["removed", "confidence", "loss"])
        tables.append(table.assign(language=language, change=table["confidence"] - table["confidence"].iloc[0]))
    return pd.concat(tables, ignore_index=True).assign(task=task, seed=seed)


def _alike(rows: pd.DataFrame, places: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Random examples, as many of each language and label as there are at these places."""
    columns = ["language", *(["label"] if "label" in rows else [])]
    groups = rows.groupby(columns).ngroup().to_numpy()
    counts = np.bincount(groups[places], minlength=groups.max() + 1)
    drawn = [generator.permutation(np.flatnonzero(groups == group))[:count] for group, count in enumerate(counts)]
    return np.concatenate(drawn)


def imbalances(
    study: Study, task: str, seed: int, languages: Sequence[str], size: int, attributed_test_size: int, top: int,
    factors: Sequence[float] = (0, 0.1, 0.5, 1, 2),
) -> pd.DataFrame:  # fmt: skip
    """Which languages' examples count when one language has fewer or more than the others.

    Args:
        study, task, seed: Of the model.
        languages: Whose share of the training data is changed, one at a time.
        size: Training examples of each other language.
        attributed_test_size, top: As in `AttributionPlan`.
        factors: What `size` is multiplied by for that language; 0 leaves it out of training.

    Returns:
        task, seed, changed (language), factor, language and id (of the test example), train, share, chance (the
        share of the training language in the training data).
    """
    data, tables = study.task(task), []
    test = by_length(
        pd.concat([data.examples("test", code).head(attributed_test_size) for code in study.languages]), data.kind
    )
    for changed in languages:
        for factor in factors:
            counts = {code: size if code != changed else round(factor * size) for code in study.languages}
            rows = _pool(study, task, counts)
            scores = _scores(study, task, _trained(study, task, seed, rows), rows, test, together=False)
            table = long_shares(test, [top_k.top_shares(scores, rows["language"].tolist(), count=top)])
            part = table["train"].map(rows["language"].value_counts(normalize=True))
            tables.append(table.assign(changed=changed, factor=float(factor), chance=part))
    return pd.concat(tables, ignore_index=True).assign(task=task, seed=seed)


def at_each_size(changed: pd.DataFrame) -> pd.DataFrame:
    """Share of a language that has more or less training data, for its own test examples and those of the others.

    Args:
        changed: From `imbalances`.

    Returns:
        task, seed, changed (language), factor (above 0), examples (an id of `Examples`), chance, share.
    """
    rows = changed[changed["train"].eq(changed["changed"]) & changed["factor"].gt(0)]
    of_language = rows["language"] == rows["changed"]
    examples = of_language.map({True: Examples.OF_LANGUAGE, False: Examples.OF_OTHERS})
    keys = ["task", "seed", "changed", "factor", "examples"]
    return rows.assign(examples=examples).groupby(keys, as_index=False)[["chance", "share"]].mean()


def without_language(changed: pd.DataFrame, languages: Sequence[str]) -> pd.DataFrame:
    """Whose data count for a language that was left out of training: a (that language), b (training language), share.

    Args:
        changed: From `imbalances`.
        languages: In their order.
    """
    rows = changed[changed["factor"].eq(0) & changed["language"].eq(changed["changed"])]
    rows = rows.rename(columns={"language": "a", "train": "b"})
    return in_order(rows.groupby(["a", "b"], sort=False, as_index=False)["share"].mean(), languages)


def _pool(study: Study, task: str, counts: dict[str, int]) -> pd.DataFrame:
    """The first training examples of each language, by length."""
    data = study.task(task)
    for code, count in counts.items():
        if count > (most := len(data.examples("train", code))):
            raise invalid("size", f"at most {most}, the training examples of {code}", count, "or raise train_size")
    return by_length(pd.concat([data.examples("train", code).head(count) for code, count in counts.items()]), data.kind)


def _trained(study: Study, task: str, seed: int, rows: pd.DataFrame) -> Path:
    """Folder of a model fine-tuned on these training examples only."""
    data, encoder = study.task(task), study.encoder_folder()
    rows = rows.sort_values(["language", "id"], kind="stable").reset_index(drop=True)
    chosen = settings.preset(study.preset, data)
    chosen = replace(chosen, epochs=study.epochs or chosen.epochs, eval_size=0)
    present = [code for code in study.languages if (rows["language"] == code).any()]
    key = training_key(data, encoder, seed=seed, languages=present, settings=chosen, rows=_digest(rows))

    def build(out: Path) -> None:
        part = replace(data, splits={**data.splits, "train": rows}, identity=store.digest([data.identity, key["rows"]]))
        finetune.finetune(part, encoder, seed=seed, out=out, languages=present, settings=chosen)

    return store.get_or_build("model-of-part", key, build, resume=True)


def _scores(study: Study, task: str, folder: Path, rows: pd.DataFrame, test: pd.DataFrame, together: bool) -> Tensor:
    """Influence of each training example on each test example, or on all of them together; stored."""

    def build(out: Path) -> None:
        data, groups = study.task(task), ["all"] * len(test) if together else None
        sides = (batches_of(study, data, side) for side in (rows, test))
        influence = tracin.influence(checkpoints(folder), *sides, test_groups=groups)
        np.save(out / "scores.npy", influence.scores.numpy())

    key = {"model": folder.name, "rows": _digest(rows), "test": _digest(test), "together": together}
    return torch.from_numpy(np.load(store.get_or_build("influence-of-part", key, build, code=[tracin]) / "scores.npy"))


def _confidence(study: Study, task: str, folder: Path, test: pd.DataFrame) -> tuple[float, float]:
    """Mean probability of the right answers, and mean loss."""
    model, parts = load_model(folder), []
    with torch.no_grad():
        for batch in batches_of(study, study.task(task), test):
            labels, logits = forward(model, batch)
            parts.append(capture.example_loss(logits, labels))
    losses = torch.cat(parts).double()
    return float(losses.neg().exp().mean()), float(losses.mean())


def _digest(rows: pd.DataFrame) -> str:
    return store.digest(rows[["id", "language"]].to_dict("list"))
