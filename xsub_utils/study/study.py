"""A study: the plain parameters that decide everything, and the data, encoder and models that follow from them.

Whatever takes time is asked of the artifact store and built there when it is missing, so that any notebook can
be opened first. The tables of each notebook are made from a `Study` by the functions in `stages`.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from xsub_utils._internal import store
from xsub_utils._internal.io import sha256
from xsub_utils.data.local import local_files
from xsub_utils.data.tasks import Task, load_task
from xsub_utils.evaluation.scores import chance_level, evaluate
from xsub_utils.models import batches, encoders
from xsub_utils.training import finetune, settings

EVALUATION_BATCH = 100  # examples
SMALL = {  # the encoder of a study with few texts; with whole words it would look them up and need no attention
    "layers": 4,
    "heads": 12,
    "width": 96,
    "intermediate": 192,
    "vocab_size": 2000,
    "dropout": 0.1,
    "steps": 300,
    "lr": 2e-3,
}


@dataclass(frozen=True)
class Study:
    """Parameters of one study.

    Args:
        languages: Codes of the languages; a model is fine-tuned on all of them together.
        source: "minibabel", "hub" or "local".
        data: Folder or file of local data, "" otherwise; a folder in it that is named like a task has the
            data of that task.
        encoder: "minibabel-base", a hub id, a local folder, or "pretrain", for MiniBabel and treebanks: a small
            encoder is pre-trained on the training texts of the study's task "mlm".
        preset: Settings of fine-tuning, a key of `settings.PRESETS`.
        epochs: Passes over the training data; 0 leaves the preset's.
        train_size, test_size: Examples per language to train on, and to report scores on.
        importance_size, validation_size: Examples per language that one subnetwork search takes its importance and its
            stopping scores from. Each mask seed has others.
        pool: For how many mask seeds such samples are set aside.
        difficulty: MiniBabel's dial; other sources have none.
    """

    languages: Sequence[str]
    source: str = "minibabel"
    data: str = ""
    encoder: str = "minibabel-base"
    preset: str = "minibabel"
    epochs: int = 0
    train_size: int = 700
    importance_size: int = 64
    validation_size: int = 160
    test_size: int = 240
    pool: int = 3
    difficulty: int = 1

    def __post_init__(self):
        object.__setattr__(self, "languages", tuple(self.languages))  # a notebook gives a list

    def task(self, name: str) -> Task:
        """The task in all languages of the study, with its four disjoint splits."""
        return _task(self, name)

    def batches(self, name: str, split: str, language: str, mask_seed: int | None = None) -> list[dict]:
        """Batches of one language and split; a mask seed takes its own part of "importance" and "validation"."""
        return _batches(self, name, split, language, mask_seed)

    def encoder_folder(self) -> str:
        """What `load_encoder` is given; the study's own encoder is pre-trained first if that is asked for."""
        return str(_pretrained(self)) if self.encoder == "pretrain" else self.encoder

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the encoder."""
        return _tokenizer(self.encoder_folder())

    def chance(self, name: str) -> float:
        """Score of the best constant answer on the report split, mean over the languages."""
        task, splits = self.task(name), (self.batches(name, "test", language) for language in self.languages)
        return float(np.mean([chance_level([batch["labels"] for batch in some], task.metric) for some in splits]))

    def score(self, name: str, model: nn.Module, language: str, gates: Tensor | None = None) -> float:
        """Score of a model, whole or through some heads, on the report split of a language."""
        return evaluate(model, self.batches(name, "test", language), metric=self.task(name).metric, gates=gates)

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
        key = {
            "task": task.identity,
            "encoder": encoder_identity(encoder),
            "seed": seed,
            "languages": list(languages or self.languages),
            "settings": asdict(chosen),
        }

        def build(out: Path) -> None:
            finetune.finetune(task, encoder, seed=seed, out=out, languages=key["languages"], settings=chosen)

        return store.get_or_build("model", key, build, resume=True)

    def model(self, name: str, seed: int, languages: Sequence[str] | None = None) -> nn.Module:
        """The fine-tuned model after its last epoch."""
        return load_model(self.model_folder(name, seed, languages))


def collect(stage: Callable[..., pd.DataFrame], study: Study, *values: Iterable) -> pd.DataFrame:
    """One tidy table of a stage for every combination: `collect(scores, study, tasks, seeds)`."""
    return pd.concat([stage(study, *one) for one in product(*values)], ignore_index=True)


def stored_table(kind: str, key: dict, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A tidy table out of the store, computed if it is absent; the code of the module of `compute` counts."""

    def build(folder: Path) -> None:
        compute().to_parquet(folder / "table.parquet", index=False)

    code = [inspect.getmodule(compute)]
    return pd.read_parquet(store.get_or_build(kind, key, build, code=code) / "table.parquet")


@lru_cache(maxsize=4)
def load_model(folder: Path) -> nn.Module:
    """The model in a folder of `finetune`; the last few stay in memory."""
    return on_device(finetune.load_finetuned(folder))


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
    sizes = {
        "train": study.train_size,
        "importance": study.importance_size * study.pool,
        "validation": study.validation_size * study.pool,
        "test": study.test_size,
    }
    options = {"difficulty": study.difficulty} if study.source == "minibabel" else {}
    path = Path(study.data, name) if study.data and Path(study.data, name).is_dir() else study.data or None
    return load_task(name, study.languages, source=study.source, sizes=sizes, path=path, **options)


@lru_cache(maxsize=512)
def _batches(study: Study, name: str, split: str, language: str, mask_seed: int | None) -> list[dict]:
    task = study.task(name)
    examples = task.examples(split, language)
    if mask_seed is not None:
        examples = _slice(
            examples, {"importance": study.importance_size, "validation": study.validation_size}[split], mask_seed
        )
    length = settings.preset(study.preset, task).max_length
    return batches.make_batches(examples, study.tokenizer(), task.kind, batch_size=EVALUATION_BATCH, max_length=length)


def _slice(pool: pd.DataFrame, size: int, mask_seed: int) -> pd.DataFrame:
    """What one mask seed takes from a pool: no two take the same, and all languages the same meanings."""
    order = np.random.default_rng(0).permutation(len(pool))[mask_seed * size : (mask_seed + 1) * size]
    if len(order) < size:
        raise ValueError(
            f"mask_seed={mask_seed}: a pool of {len(pool)} examples has {len(pool) // size} samples of {size}, "
            f"for the seeds from 0; raise pool to {mask_seed + 1} or more"
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
        raise ValueError(
            f"encoder='pretrain' with source={study.source!r}: only treebanks (CoNLL-U files) and MiniBabel are split "
            "alike for all tasks, so that no held-out text is learned from; a hub id or a folder would be right"
        )
    texts = study.task("mlm").examples("train")["text"].tolist()

    def build(out: Path) -> None:
        encoders.pretrain_encoder(texts, out, **SMALL)

    key = {"texts": store.digest(texts), "settings": SMALL}
    return store.get_or_build("encoder", key, build)


def _on_treebanks(study: Study) -> bool:
    return study.source == "local" and all(
        file.path.suffix == ".conllu" for file in local_files(study.data, study.languages)
    )
