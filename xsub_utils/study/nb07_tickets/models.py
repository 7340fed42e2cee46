"""Notebook 07, the tickets: found for each task and language, and masks that were found otherwise.

All models start from the same encoder, and with one seed and task from the same head, in the same order of the data.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from xsub_utils._internal import store
from xsub_utils.data.tasks import Task
from xsub_utils.heads import masks
from xsub_utils.study.study import Study, encoder_identity, on_device
from xsub_utils.training import iterative_pruning, masked
from xsub_utils.training.finetune import checkpoints, finetune, load_finetuned
from xsub_utils.training.settings import Settings
from xsub_utils.weights import criteria
from xsub_utils.weights.criteria import keep_largest
from xsub_utils.weights.masks import WeightMask, mask_digest, random_weight_mask
from xsub_utils.weights.prunable import prunable_weights

MIXED = "all"  # in place of a language: the same number of examples, of all languages
TICKET, SEED, POOLED = "ticket", "ticket of another seed", "ticket of all languages"
ONE_SHOT, CHANGED, FISHER = "largest before training", "largest changes", "largest Fisher information"
WITHIN, RANDOM, PARTLY = "random, as many of each matrix", "random", "denser ticket, then random"
LONGER = "whole model, trained as long"  # as all rounds together that lead to a ticket
KINDS = (TICKET, SEED, POOLED, ONE_SHOT, CHANGED, FISHER, PARTLY, WITHIN, RANDOM)
FEW = (TICKET, ONE_SHOT, WITHIN, RANDOM)


class Plan(NamedTuple):
    """What tickets are looked for, and how their models are trained.

    Attributes:
        sparsities: Rising; one for each round.
        elsewhere: Those of them whose masks are also tried on other languages; the first (`main`) is that of all other
            comparisons.
        batch_size: Of the training; 0 leaves the preset's.
        long_seeds: Seeds for which the whole model is also trained as long as all rounds to `main` together.
    """

    sparsities: tuple[float, ...] = iterative_pruning.TENTHS
    elsewhere: tuple[float, ...] = (0.5,)
    batch_size: int = 0
    long_seeds: tuple[int, ...] = ()

    @property
    def main(self) -> float:
        """The sparsity at which everything is looked at."""
        return self.elsewhere[0]

    def course(self, study: Study, task: str) -> Settings:
        """How all models are trained: as the study has it, without scores on the way."""
        course = study.course(task)
        return replace(course, batch_size=self.batch_size or course.batch_size, eval_size=0)


class StoredMasks(Mapping[float, WeightMask]):
    """Rising sparsity → mask, read when it is asked for: ten masks of a large model are too many to hold."""

    def __init__(self, folder: Path, sparsities: Sequence[float]):
        self._files = {sparsity: folder / _file(sparsity) for sparsity in sparsities}

    def __getitem__(self, sparsity: float) -> WeightMask:
        return masks.load_masks(self._files[sparsity])[0]

    def __iter__(self) -> Iterator[float]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


class Found(NamedTuple):
    """Tickets of a task, seed and language: rising sparsity → mask, scores, and folders of two trained models."""

    masks: StoredMasks
    scores: pd.DataFrame  # sparsity, language, score
    whole: Path
    sparse: Path  # with the ticket of the main sparsity


def found(study: Study, task: str, seed: int, language: str, plan: Plan) -> Found:
    """Tickets of rising sparsity by iterative magnitude pruning, in the store.

    Args:
        study, task, seed, plan: Of the models.
        language: Whose training data; `MIXED` for as many examples, of all languages.

    Raises:
        ValueError: If no mask is to be tried elsewhere, or one whose sparsity no round reaches.
    """
    if not plan.elsewhere:
        raise ValueError("elsewhere: it is empty; one of the sparsities at least would be right")
    if missing := [one for one in plan.elsewhere if one not in plan.sparsities]:
        raise ValueError(f"elsewhere: no round reaches sparsity {missing[0]}; there are {list(plan.sparsities)}")
    data, encoder, chosen = _data(study, task, language), study.encoder_folder(), plan.course(study, task)
    scored = study.languages if language == MIXED else [language]
    key = {
        "task": data.identity,
        "encoder": encoder_identity(encoder),
        "seed": seed,
        "languages": list(scored),
        "settings": asdict(chosen),
        "sparsities": list(plan.sparsities),
        "kept": plan.main,
    }

    def build(out: Path) -> None:
        runs, rows = out / "rounds", []
        of = {"languages": list(scored), "settings": chosen, "progress": False}
        for ticket in iterative_pruning.find_tickets(
            data, encoder, seed=seed, out=runs, sparsities=plan.sparsities, **of
        ):
            masks.save_masks(out / _file(ticket.sparsity), ticket.mask, {})
            model = loaded(ticket.folder)
            rows += [(ticket.sparsity, code, study.score(task, model, code)) for code in scored]
            if ticket.sparsity in (0, plan.main):
                _copy(ticket.folder, out / ticket.folder.name)
        pd.DataFrame(rows, columns=["sparsity", "language", "score"]).to_parquet(out / "scores.parquet", index=False)
        _remove(runs)

    folder = store.get_or_build("tickets", key, build, code=[iterative_pruning], resume=True)
    table = pd.read_parquet(folder / "scores.parquet")
    return Found(
        StoredMasks(folder, (0.0, *plan.sparsities)),
        table,
        folder / "sparsity-0",
        folder / f"sparsity-{100 * plan.main:g}",
    )


def retrained(study: Study, task: str, seed: int, language: str, mask: WeightMask, plan: Plan) -> float:
    """Score in a language after training on it with only the weights of a mask, from the encoder's; stored."""

    def train(data: Task, out: Path, **options) -> Path:
        return masked.finetune_ticket(data, study.encoder_folder(), seed=seed, out=out, mask=mask, **options)

    return _trained(study, task, seed, language, plan.course(study, task), mask_digest(mask), train)


def longer(study: Study, task: str, seed: int, language: str, plan: Plan) -> float:
    """Score of the whole model, trained for as many epochs as all the rounds together that lead to the main ticket."""
    chosen = plan.course(study, task)
    chosen = replace(chosen, epochs=chosen.epochs * (1 + sum(one <= plan.main for one in plan.sparsities)))

    def train(data: Task, out: Path, **options) -> Path:
        return finetune(data, study.encoder_folder(), seed=seed, out=out, **options)

    return _trained(study, task, seed, language, chosen, "", train)


def _trained(study: Study, task: str, seed: int, language: str, chosen: Settings, mask: str, train) -> float:
    data = study.task(task)
    key = {
        "task": data.identity,
        "encoder": encoder_identity(study.encoder_folder()),
        "seed": seed,
        "language": language,
        "settings": asdict(chosen),
        "mask": mask,
    }

    def build(out: Path) -> None:
        run = train(data, out / "run", languages=language, settings=chosen, progress=False)
        score = study.score(task, loaded(run), language)
        pd.DataFrame({"score": [score]}).to_parquet(out / "score.parquet", index=False)
        _remove(run)

    folder = store.get_or_build("ticket-score", key, build, code=[iterative_pruning], resume=True)
    return float(pd.read_parquet(folder / "score.parquet")["score"].iloc[0])


def mask_of(
    study: Study, task: str, seed: int, language: str, kind: str, plan: Plan, sparsity: float | None = None
) -> WeightMask:
    """A mask of one of the `KINDS`, of a sparsity of the plan, by default the main one.

    Those that need a trained model take the whole model that the tickets began with. The other seed is 1 for 0, 0 for
    1, 3 for 2, and so on. A ticket is pruned further at random from the one nearest to 30 %.
    """
    sparsity = plan.main if sparsity is None else sparsity
    if kind == TICKET:
        return found(study, task, seed, language, plan).masks[sparsity]
    if kind == SEED:
        return found(study, task, seed ^ 1, language, plan).masks[sparsity]
    if kind == POOLED:
        fewer = tuple(one for one in plan.sparsities if one <= max(plan.main, sparsity))
        return found(study, task, seed, MIXED, plan._replace(sparsities=fewer, elsewhere=(plan.main,))).masks[sparsity]
    if kind == ONE_SHOT:
        return keep_largest(start_weights(study, task, seed), sparsity=sparsity)
    own = found(study, task, seed, language, plan)
    if kind == CHANGED:
        start, after = start_weights(study, task, seed), prunable_weights(load_finetuned(own.whole)[0])
        return keep_largest({name: after[name].detach() - value for name, value in start.items()}, sparsity=sparsity)
    if kind == FISHER:
        batches = study.batches(task, "importance", language, 0)
        return keep_largest(criteria.fisher_information(loaded(own.whole), batches), sparsity=sparsity)
    draw = int(store.digest([task, seed, language, kind]), 16) % 2**32
    if kind == PARTLY:
        denser = min((one for one in own.masks if 0 < one < sparsity), key=lambda one: abs(one - 0.3), default=None)
        if denser is None:
            raise ValueError(
                f"sparsities={list(plan.sparsities)}: no ticket is denser than {sparsity}, to be pruned on"
            )
        return criteria.prune_randomly(own.masks[denser], sparsity=sparsity, seed=draw)
    if kind == WITHIN:
        return random_weight_mask(own.masks[sparsity], seed=seed)
    return criteria.prune_randomly(own.masks[0.0], sparsity=sparsity, seed=draw)


def curves(study: Study, task: str, seed: int, plan: Plan) -> pd.DataFrame:
    """Score of the tickets of each language on its own report split.

    Returns:
        task, seed, language, sparsity, score, chance (of the best constant answer, mean over languages).
    """
    tables = [found(study, task, seed, language, plan).scores for language in study.languages]
    return pd.concat(tables, ignore_index=True).assign(task=task, seed=seed, chance=study.chance(task))


def winning(table: pd.DataFrame, lower_is_better: Sequence[str]) -> pd.DataFrame:
    """The highest sparsity up to which every ticket wins, its mean over seeds against the whole model's.

    The standard deviation is that of the whole models over seeds, pooled over the languages of a task: that of two or
    three seeds of one language may be zero by accident.

    Args:
        table: From `curves`, of two seeds at least.
        lower_is_better: Tasks whose score is a perplexity.

    Returns:
        task, language, sparsity (0 where not even the first ticket wins), deviation.
    """
    rows = []
    for task, of_task in table.groupby("task", sort=False):
        whole = of_task[of_task["sparsity"] == 0].groupby("language")["score"]
        deviation, sign = float(np.sqrt(whole.var().mean())), -1 if task in lower_is_better else 1
        for language, some in of_task[of_task["sparsity"] > 0].groupby("language", sort=False):
            means = some.groupby("sparsity")["score"].mean().sort_index()
            wins = (sign * (whole.mean()[language] - means) <= deviation).tolist()
            last = wins.index(False) if False in wins else len(wins)
            rows.append((task, language, [0.0, *means.index][last], deviation))
    return pd.DataFrame(rows, columns=["task", "language", "sparsity", "deviation"])


def _data(study: Study, task: str, language: str) -> Task:
    """The task; for `MIXED` with so much less of each language that there are as many training examples as of one.

    Each language has other rows, so that there are also as many meanings, where the texts are translations.
    """
    data = study.task(task)
    if language != MIXED:
        return data
    tables = [data.examples("train", code) for code in study.languages]
    size = max(1, min(map(len, tables)) // len(tables))
    few = pd.concat([table.iloc[i * size : (i + 1) * size] for i, table in enumerate(tables)], ignore_index=True)
    return replace(data, splits=data.splits | {"train": few}, identity=store.digest([data.identity, "mixed", size]))


def start_weights(study: Study, task: str, seed: int) -> dict[str, torch.Tensor]:
    """The prunable weights before any training."""
    return {name: weight.detach().cpu() for name, weight in prunable_weights(study.start(task, seed)).items()}


def loaded(folder: Path) -> nn.Module:
    """The model in a folder, on the GPU if there is one; unlike those of `load_model` it is not kept."""
    return on_device(load_finetuned(folder))


def _copy(run: Path, to: Path) -> None:
    """The run with its last epoch alone."""
    earlier = [path.name for path in checkpoints(run)[:-1]]
    shutil.copytree(run, to, ignore=shutil.ignore_patterns(*earlier), dirs_exist_ok=True)


def _remove(folder: Path) -> None:
    """Away under its name at once: half a run that looks complete would stop the next build."""
    gone = folder.with_name(f".{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def _file(sparsity: float) -> str:
    return f"mask-{100 * sparsity:g}.npz"
