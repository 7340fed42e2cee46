"""Notebook 07, the tickets: found for each task and language, and the models that they are found or tried with.

All models start from the same encoder, and with one seed and task from the same head, in the same order of the data.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from torch import nn

from xsub_utils._internal import store
from xsub_utils._internal.validation import invalid
from xsub_utils.data.tasks import Task
from xsub_utils.heads import masks
from xsub_utils.study.study import Study, on_device, training_key
from xsub_utils.training import iterative_pruning, masked
from xsub_utils.training.finetune import finetune, load_finetuned
from xsub_utils.training.folders import checkpoints
from xsub_utils.training.settings import Settings
from xsub_utils.weights.masks import WeightMask, mask_digest

MIXED = "all"  # in place of a language: the same number of examples, of all languages


class TicketPlan(NamedTuple):
    """What tickets are looked for, and how their models are trained.

    Attributes:
        sparsities: Rising; one for each round.
        elsewhere: Those of them whose masks are also tried on other languages; the first (`main`) is that of all other
            comparisons.
        batch_size: Of the training; 0 leaves the preset's.
        long_seeds: Seeds for which the full model is also trained as long as all rounds to `main` together.
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


class Tickets(NamedTuple):
    """Tickets of a task, seed and language.

    Attributes:
        masks: Rising sparsity → mask.
        scores: sparsity, language, score.
        full: Folder of the full model, trained on the language.
        sparse: Folder of the model trained with the ticket of the main sparsity.
    """

    masks: StoredMasks
    scores: pd.DataFrame
    full: Path
    sparse: Path

    def score(self, sparsity: float) -> float:
        """Score with the ticket of a sparsity; of tickets of all languages, in the first."""
        return float(self.scores.loc[self.scores["sparsity"] == sparsity, "score"].iloc[0])


def tickets_of(study: Study, task: str, seed: int, language: str, plan: TicketPlan) -> Tickets:
    """Tickets of rising sparsity by iterative magnitude pruning, in the store.

    Args:
        study, task, seed, plan: Of the models.
        language: Whose training data; `MIXED` for as many examples, of all languages.

    Raises:
        ValueError: If no mask is to be tried elsewhere, or one whose sparsity no round reaches.
    """
    _check_elsewhere(plan)
    data, encoder, course = _data(study, task, language), study.encoder_folder(), plan.course(study, task)
    scored = list(study.languages) if language == MIXED else [language]
    key = training_key(
        data,
        encoder,
        seed=seed,
        languages=scored,
        settings=course,
        sparsities=list(plan.sparsities),
        stored=plan.main,
    )

    def build(out: Path) -> None:
        runs, rows = out / "rounds", []
        rounds = iterative_pruning.find_tickets(
            data,
            encoder,
            seed=seed,
            out=runs,
            sparsities=plan.sparsities,
            languages=scored,
            settings=course,
            progress=False,
        )
        for ticket in rounds:
            masks.save_masks(out / _file(ticket.sparsity), ticket.mask, {})
            model = load_once(ticket.folder)
            rows += [(ticket.sparsity, code, study.score(task, model, code)) for code in scored]
            if ticket.sparsity in (0, plan.main):
                _copy(ticket.folder, out / ticket.folder.name)
        pd.DataFrame(rows, columns=["sparsity", "language", "score"]).to_parquet(out / "scores.parquet", index=False)
        _remove(runs)

    folder = store.get_or_build("tickets", key, build, code=[iterative_pruning], resume=True)
    return Tickets(
        StoredMasks(folder, (0.0, *plan.sparsities)),
        pd.read_parquet(folder / "scores.parquet"),
        folder / "sparsity-0",
        folder / f"sparsity-{100 * plan.main:g}",
    )


def _check_elsewhere(plan: TicketPlan) -> None:
    rounds = f"sparsities of the rounds, {list(plan.sparsities)}"
    if not plan.elsewhere:
        raise invalid("elsewhere", f"one or more {rounds}", "none")
    for sparsity in plan.elsewhere:
        if sparsity not in plan.sparsities:
            raise invalid("elsewhere", rounds, sparsity, "add it to sparsities")


def retrained(study: Study, task: str, seed: int, language: str, mask: WeightMask, plan: TicketPlan) -> float:
    """Score in a language after training on it with only the weights of a mask, from the encoder's; stored."""

    def train(data: Task, out: Path, **options: Any) -> Path:
        return masked.finetune_ticket(data, study.encoder_folder(), seed=seed, out=out, mask=mask, **options)

    return _trained(study, task, seed, language, plan.course(study, task), mask_digest(mask), train)


def trained_as_long(study: Study, task: str, seed: int, language: str, plan: TicketPlan) -> float:
    """Score of the full model, trained for as many epochs as all the rounds together that lead to the main ticket."""
    course = plan.course(study, task)
    course = replace(course, epochs=course.epochs * (1 + sum(sparsity <= plan.main for sparsity in plan.sparsities)))

    def train(data: Task, out: Path, **options: Any) -> Path:
        return finetune(data, study.encoder_folder(), seed=seed, out=out, **options)

    return _trained(study, task, seed, language, course, "", train)


def _trained(
    study: Study, task: str, seed: int, language: str, course: Settings, mask: str, train: Callable[..., Path]
) -> float:
    """Score in a language of a model that is trained on it, and not kept."""
    data = study.task(task)
    key = training_key(data, study.encoder_folder(), seed=seed, languages=[language], settings=course, mask=mask)

    def build(out: Path) -> None:
        run = train(data, out / "run", languages=language, settings=course, progress=False)
        score = study.score(task, load_once(run), language)
        pd.DataFrame({"score": [score]}).to_parquet(out / "score.parquet", index=False)
        _remove(run)

    folder = store.get_or_build("ticket-score", key, build, code=[iterative_pruning], resume=True)
    return float(pd.read_parquet(folder / "score.parquet")["score"].iloc[0])


def curves(study: Study, task: str, seed: int, plan: TicketPlan) -> pd.DataFrame:
    """Score of the tickets of each language on its own test split.

    Returns:
        task, seed, language, sparsity, score, chance (of the best constant answer, mean over languages).
    """
    tables = [tickets_of(study, task, seed, language, plan).scores for language in study.languages]
    return pd.concat(tables, ignore_index=True).assign(task=task, seed=seed, chance=study.chance(task))


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


def load_once(folder: Path) -> nn.Module:
    """The model in a folder that will not last, on the GPU if there is one; not kept in memory as by `load_model`."""
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
