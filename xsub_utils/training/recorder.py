"""What is recorded while a model is trained: scores, losses, and a loadable folder for each epoch.

A checkpoint of transformers' Trainer holds what a killed run needs to go on; out of it comes the folder of the epoch.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from xsub_utils._internal.io import write_json, write_text_atomic
from xsub_utils._internal.whole import faults, listing
from xsub_utils.evaluation.metrics import metric_named
from xsub_utils.evaluation.scores import evaluate
from xsub_utils.models.example_order import NumberedBatch
from xsub_utils.training.divergence import check_weights
from xsub_utils.training.folders import LOGS, PUBLISHED, RESUME, numbered_folders, published_in

_SEAL = "sealed.json"  # written last into a checkpoint: the run that it is of, and its files


class Recorder(TrainerCallback):
    """Scores every epoch, keeps its weights as a loadable folder, and the logs up to date.

    Args:
        out: Folder of the run.
        run: Digest of what decides it; checkpoints of other runs are not gone on from.
        batches: Language -> batches of the validation split.
        metric: What to score.
        patience: Epochs without a better mean score after which training ends; None for never.
        context: Language -> context in which it is scored, such as its mask.
    """

    def __init__(
        self,
        out: Path,
        run: str,
        batches: Mapping[str, list[NumberedBatch]],
        metric: str,
        patience: int | None,
        context: Callable[[str], AbstractContextManager],
    ) -> None:
        self.out, self.resume, self.run, self.context = out, out / RESUME, run, context
        self.batches, self.metric, self.patience = batches, metric, patience

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **values: Any
    ) -> None:
        epoch = round(state.epoch or 0)
        check_weights(values["model"], self.out, state)
        for language, batches in self.batches.items():
            with self.context(language):
                score = evaluate(values["model"], batches, metric=self.metric)
            entry: dict[str, Any] = {"epoch": epoch, "language": language, "score": score}
            state.log_history.append(entry)
        control.should_log = True  # leaves no loss of this epoch to the next, which may run in another process
        control.should_training_stop |= self.exhausted(state.log_history)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **values: Any) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # until every process has saved the state of its generators
        if state.is_world_process_zero:
            checkpoint = self.resume / f"checkpoint-{state.global_step}"
            write_json(checkpoint / _SEAL, {"run": self.run, "files": listing(checkpoint)})
            self.publish(checkpoint)

    def exhausted(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the last `patience` epochs brought no better mean score."""
        if self.patience is None or not self.batches:
            return False
        means = metric_named(self.metric).sign * _scores(history).groupby("epoch")["score"].mean()
        return len(means) - 1 - int(means.to_numpy().argmax()) >= self.patience

    def publish(self, checkpoint: Path) -> None:
        """Make the folder of an epoch, and the tables up to it, from a complete checkpoint."""
        state = state_of(checkpoint)
        epoch, published = f"epoch-{round(state['epoch'])}", published_in(self.out)
        if epoch not in published or any(faults(self.out / epoch, published[epoch])):
            partial = self.resume / epoch
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            model = [checkpoint / "config.json", *checkpoint.glob("generation_config.json")]
            for file in (*model, *checkpoint.glob("*.safetensors*"), *(self.resume / "tokenizer").iterdir()):
                link(file, partial / file.name)
            write_json(self.resume / PUBLISHED, published | {epoch: listing(partial)})  # first: it is this run's
            shutil.rmtree(self.out / epoch, ignore_errors=True)
            partial.replace(self.out / epoch)
        for name, table in zip(LOGS, (_losses(state["log_history"]), _scores(state["log_history"])), strict=True):
            write_text_atomic(self.out / name, table.to_csv(index=False))

    def reached(self, *, sweep: bool) -> Path | None:
        """The newest checkpoint to go on from: whole, of this run, and no epoch before it is damaged.

        Args:
            sweep: Whether to remove the others that are newer.
        """
        published = published_in(self.out)
        epochs = numbered_folders(self.out, "epoch")
        damaged = [number for number, path in epochs.items() if any(faults(path, published.get(path.name, {})))]
        for checkpoint in reversed(numbered_folders(self.resume, "checkpoint").values()):
            if self._is_whole(checkpoint) and all(number >= epoch_of(checkpoint) for number in damaged):
                return checkpoint
            if sweep:
                shutil.rmtree(checkpoint)
        return None

    def _is_whole(self, checkpoint: Path) -> bool:
        """Whether a checkpoint of this run was written to its end and is as it was then."""
        try:
            seal = json.loads((checkpoint / _SEAL).read_text("utf-8"))
            return seal["run"] == self.run and not any(faults(checkpoint, seal["files"]))
        except (OSError, ValueError, KeyError, TypeError):
            return False


class ProgressBar(TrainerCallback):
    """A bar on stderr; the one of transformers writes tables into notebooks."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **values: Any
    ) -> None:
        hidden = not state.is_world_process_zero
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="fine-tuning",
            unit="step",
            leave=False,
            disable=hidden,
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **values: Any) -> None:
        self.bar.update()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **values: Any) -> None:
        if "loss" in values["logs"]:
            self.bar.set_postfix(loss=f"{values['logs']['loss']:.3f}", refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **values: Any
    ) -> None:
        self.bar.close()


def state_of(checkpoint: Path) -> dict[str, Any]:
    """How far the training had come at a checkpoint, and its log."""
    return json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))


def epoch_of(checkpoint: Path) -> int:
    """Number of the epoch that a checkpoint was written after."""
    return round(state_of(checkpoint)["epoch"])


def link(source: Path, target: Path) -> None:
    """Makes the same file known under a second name, or copies it where the disk knows no second names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _losses(history: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    rows = pd.DataFrame([row for row in history if "loss" in row])
    return rows.rename(columns={"learning_rate": "lr"})[["step", "epoch", "loss", "lr"]]


def _scores(history: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row for row in history if "score" in row], columns=["epoch", "language", "score"])
