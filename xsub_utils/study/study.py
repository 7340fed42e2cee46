"""A study: the plain parameters that decide everything, and the data, encoder and models that follow from them.

Whatever takes time is asked of the artifact store and built there when it is missing, so that any notebook can
be opened first. The tables of each notebook are made from a `Study` by its module `nb0X_…/tables.py`.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from xsub_utils._internal import store
from xsub_utils._internal.io import sha256
from xsub_utils._internal.validation import invalid, wrong_type
from xsub_utils.data.local import local_files
from xsub_utils.data.schema import TaskSpec
from xsub_utils.data.sources import checked_languages
from xsub_utils.data.tasks import Task, load_task
from xsub_utils.evaluation.metrics import Metric, metric_named
from xsub_utils.evaluation.scores import chance_level, evaluate
from xsub_utils.models import batches, encoders
from xsub_utils.models.example_order import NumberedBatch
from xsub_utils.study.model_cache import ModelCache
from xsub_utils.study.own_tasks import PARALLEL, OwnTasks, as_parallel, options_of, parallel_task, path_of, specs_of
from xsub_utils.study.small_encoder import pretrained_on
from xsub_utils.training import finetune, settings

EVALUATION_BATCH = 100  # examples


MODELS = ModelCache(size=6)  # the only place that holds models


@dataclass(frozen=True)
class Study:
    """Parameters of one study.

    Args:
        languages: Codes of the languages; a model is fine-tuned on all of them together.
        source: "minibabel", "hub" or "local".
        data: Folder or file of local data, "" otherwise; a folder in it that is named like a task has the
            data of that task.
        own_tasks: Tasks that are not built in, by name; see `own_tasks.specs_of`.
        encoder: "minibabel-base", a hub id, a local folder, or "pretrain", for MiniBabel and treebanks: a small
            encoder is pre-trained on the training texts of the study's task "mlm".
        preset: Settings of fine-tuning, a key of `settings.PRESETS`.
        epochs: Passes over the training data; 0 leaves the preset's.
        train_size, test_size: Examples per language to train on, and to report scores on.
        importance_size, validation_size: Examples per language that one search for a subnetwork takes the importance of
            the heads and the scores that end it from. Each mask seed has others.
        pool: For how many mask seeds such examples are set aside.
        difficulty: MiniBabel's dial; other sources have none.

    Raises:
        ValueError: If languages are not a list of different codes, or an own task is not described as it should be.
    """

    languages: Sequence[str]
    _: KW_ONLY
    source: str = "minibabel"
    data: str = ""
    own_tasks: OwnTasks = field(default_factory=dict, hash=False)
    encoder: str = "minibabel-base"
    preset: str = "minibabel"
    epochs: int = 0
    train_size: int = 700
    importance_size: int = 64
    validation_size: int = 160
    test_size: int = 240
    pool: int = 3
    difficulty: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "languages", tuple(checked_languages(self.languages)))  # a notebook gives a list
        specs_of(self.own_tasks, self.source)

    def task(self, name: str) -> Task:
        """The task in all languages of the study, with its four disjoint splits."""
        return _task(self, name)

    def metric(self, name: str) -> Metric:
        """The metric of a task."""
        return metric_named(self.task(name).metric)

    def batches(self, name: str, split: str, language: str, mask_seed: int | None = None) -> list[NumberedBatch]:
        """Batches of one language and split; a mask seed takes its own part of "importance" and "validation"."""
        return _batches(self, name, split, language, mask_seed)

    def encoder_folder(self) -> str:
        """What `load_encoder` is given; the study's own encoder is pre-trained first if that is asked for."""
        return str(_pretrained(self)) if self.encoder == "pretrain" else self.encoder

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the encoder."""
        return _tokenizer(self.encoder_folder())

    def chance(self, name: str) -> float:
        """Score of the best constant answer on the test split, mean over the languages."""
        metric, splits = self.metric(name).name, (self.batches(name, "test", language) for language in self.languages)
        return float(np.mean([chance_level([batch["labels"] for batch in test], metric) for test in splits]))

    def score(self, name: str, model: nn.Module, language: str, gates: Tensor | None = None) -> float:
        """Score of a model, in full or through some heads, on the test split of a language."""
        return evaluate(model, self.batches(name, "test", language), metric=self.metric(name).name, gates=gates)

    def course(self, name: str) -> settings.Settings:
        """How models of a task are trained."""
        chosen = settings.preset(self.preset, self.task(name))
        return replace(chosen, epochs=self.epochs) if self.epochs else chosen

    def start(self, name: str, seed: int) -> nn.Module:
        """The encoder and new head that every model of a task and seed starts from."""
        task = self.task(name)
        return on_device(encoders.load_encoder(self.encoder_folder(), task.kind, list(task.labels) or None, seed=seed))

    def model_folder(self, name: str, seed: int, languages: Sequence[str] | None = None) -> Path:
        """Folder of the model fine-tuned on a task, with one checkpoint per epoch.

        Args:
            name: The task.
            seed: Fine-tuning seed: initial head and order of the data.
            languages: Languages to train on; by default all of the study, jointly.
        """
        task, encoder, chosen = self.task(name), self.encoder_folder(), self.course(name)
        trained_on = list(languages or self.languages)
        key = training_key(task, encoder, seed=seed, languages=trained_on, settings=chosen)

        def build(out: Path) -> None:
            finetune.finetune(task, encoder, seed=seed, out=out, languages=trained_on, settings=chosen)

        return store.get_or_build("model", key, build, resume=True)

    def model(self, name: str, seed: int, languages: Sequence[str] | None = None) -> nn.Module:
        """The fine-tuned model after its last epoch."""
        return load_model(self.model_folder(name, seed, languages))


def training_key(
    task: Task, encoder: str, *, seed: int, languages: Sequence[str], settings: settings.Settings, **further: Any
) -> dict:
    """What decides a trained model, as the key of its artifact.

    Args:
        task: Its examples, those to train on among them.
        encoder: As for `load_encoder`.
        seed: Of the head and of the order of the data.
        languages: Trained on.
        settings: Of the training.
        further: Whatever else decides it, such as a mask, as plain values.
    """
    return {
        "task": task.identity,
        "encoder": encoder_identity(encoder),
        "seed": seed,
        "languages": list(languages),
        "settings": asdict(settings),
        **further,
    }


def collect(stage: Callable[..., pd.DataFrame], study: Study, *values: Iterable) -> pd.DataFrame:
    """One tidy table of a stage for every combination: `collect(scores, study, tasks, seeds)`.

    Raises:
        TypeError: If values are no list, or an empty one.
    """
    for name, given in zip(list(inspect.signature(stage).parameters)[1:], values, strict=False):
        if isinstance(given, str) or (isinstance(given, Sized) and len(given) == 0):
            raise wrong_type(f"{stage.__name__}, {name}", "a list with at least one value", repr(given))
    return pd.concat([stage(study, *arguments) for arguments in product(*values)], ignore_index=True)


def stored_table(kind: str, key: dict, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A tidy table out of the store, computed if it is absent; the code of the module of `compute` counts."""

    def build(folder: Path) -> None:
        compute().to_parquet(folder / "table.parquet", index=False)

    module = inspect.getmodule(compute)
    code = [] if module is None else [module]
    return pd.read_parquet(store.get_or_build(kind, key, build, code=code) / "table.parquet")


def load_model(folder: Path) -> nn.Module:
    """The model in a folder of `finetune`; the last few stay in memory, in `MODELS`."""
    return MODELS.get(folder, lambda: on_device(finetune.load_finetuned(folder)))


def on_device(loaded: tuple[nn.Module, object]) -> nn.Module:
    """A model without its tokenizer, on the GPU if there is one."""
    return loaded[0].to("cuda" if torch.cuda.is_available() else "cpu")


def encoder_identity(encoder: str) -> str:
    """Digest of the files of a local or shipped encoder; the id itself for one of the hub."""
    folder = encoders.locate(encoder)
    if not isinstance(folder, Path):
        return folder
    return store.digest({path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()})


def long(matrix: Tensor, value: str) -> pd.DataFrame:
    """A (layers, heads) matrix as rows layer, head, value; layers and heads count from 1."""
    layers, heads = matrix.shape
    index = pd.MultiIndex.from_product([range(1, layers + 1), range(1, heads + 1)], names=["layer", "head"])
    return pd.Series(matrix.flatten().numpy(), index, name=value).reset_index()


@lru_cache(maxsize=32)
def _task(study: Study, name: str) -> Task:
    own = parallel_task(study.own_tasks)
    if name == PARALLEL and own is not None:
        return as_parallel(study.task(own))
    sizes = {
        "train": study.train_size,
        "importance": study.importance_size * study.pool,
        "validation": study.validation_size * study.pool,
        "test": study.test_size,
    }
    options = {"difficulty": study.difficulty} if study.source == "minibabel" else {}
    options |= options_of(study.own_tasks, name, study.source)
    path = path_of(study.data, name) if study.data else None
    spec: TaskSpec | str = specs_of(study.own_tasks, study.source).get(name, name)
    return load_task(spec, study.languages, source=study.source, sizes=sizes, path=path, **options)


@lru_cache(maxsize=512)
def _batches(study: Study, name: str, split: str, language: str, mask_seed: int | None) -> list[NumberedBatch]:
    task = study.task(name)
    examples = task.examples(split, language)
    if mask_seed is not None:
        size = {"importance": study.importance_size, "validation": study.validation_size}[split]
        examples = _slice(examples, size, mask_seed)
    length = settings.preset(study.preset, task).max_length
    return batches.make_batches(examples, study.tokenizer(), task.kind, batch_size=EVALUATION_BATCH, max_length=length)


def _slice(pool: pd.DataFrame, size: int, mask_seed: int) -> pd.DataFrame:
    """What one mask seed takes from a pool: no two take the same, and all languages the same meanings."""
    order = np.random.default_rng(0).permutation(len(pool))[mask_seed * size : (mask_seed + 1) * size]
    if len(order) < size:
        raise invalid(
            "mask_seed",
            f"a seed below {len(pool) // size}, for {len(pool)} examples in samples of {size}",
            mask_seed,
            f"raise pool to {mask_seed + 1} or more",
        )
    return pool.iloc[np.sort(order)]


@lru_cache(maxsize=8)
def _tokenizer(encoder: str) -> PreTrainedTokenizerBase:
    return encoders.load_encoder(encoder, "text")[1]


@lru_cache(maxsize=8)
def _pretrained(study: Study) -> Path:
    """A small encoder for all tasks of the study, pre-trained on the training texts of its task "mlm".

    Only where every task is split alike do these leave the held-out texts of the others unseen.
    """
    if study.source != "minibabel" and not _on_treebanks(study):
        raise invalid(
            "encoder",
            f"a hub id or a folder for source {study.source!r}",
            "'pretrain'",
            "only treebanks (CoNLL-U files) and MiniBabel are split alike for all tasks, so that no held-out text is "
            "learned from",
        )
    return pretrained_on(study.task("mlm").examples("train")["text"].tolist())


def _on_treebanks(study: Study) -> bool:
    return study.source == "local" and all(
        file.path.suffix == ".conllu" for file in local_files(study.data, study.languages)
    )
