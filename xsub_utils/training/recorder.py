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
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from xsub_utils.evaluation.metrics import metric_named
from xsub_utils.evaluation.scores import evaluate
from xsub_utils.models.example_order import NumberedBatch
from xsub_utils.training.folders import numbered_folders


class Recorder(TrainerCallback):
    """Scores every epoch, keeps its weights as a loadable folder, and the logs up to date.

    Args:
        out: Folder of the run.
        resume: Folder of what the run needs to go on after a kill.
        batches: Language -> batches of the validation split.
        metric: What to score.
        patience: Epochs without a better mean score after which training ends; None for never.
        context: Language -> context in which it is scored, such as its mask.
    """

    def __init__(
        self,
        out: Path,
        resume: Path,
        batches: Mapping[str, list[NumberedBatch]],
        metric: str,
        patience: int | None,
        context: Callable[[str], AbstractContextManager],
    ) -> None:
        self.out, self.resume, self.context = out, resume, context
        self.batches, self.metric, self.patience = batches, metric, patience

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **values: Any
    ) -> None:
        epoch = round(state.epoch or 0)
        for language, batches in self.batches.items():
            with self.context(language):
                score = evaluate(values["model"], batches, metric=self.metric)
            entry: dict[str, Any] = {"epoch": epoch, "language": language, "score": score}
            state.log_history.append(entry)
        control.should_log = True  # leaves no loss of this epoch to the next, which may run in another process
        control.should_training_stop |= self.exhausted(state.log_history)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **values: Any) -> None:
        if state.is_world_process_zero:
            self.publish(self.resume / f"checkpoint-{state.global_step}")

    def exhausted(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the last `patience` epochs brought no better mean score."""
        if self.patience is None or not self.batches:
            return False
        means = metric_named(self.metric).sign * _scores(history).groupby("epoch")["score"].mean()
        return len(means) - 1 - int(means.to_numpy().argmax()) >= self.patience

    def publish(self, checkpoint: Path) -> None:
        """Make the folder of an epoch, and the tables up to it, from a complete checkpoint."""
        state = state_of(checkpoint)
        epoch = f"epoch-{round(state['epoch'])}"
        partial = self.resume / epoch
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        model = [checkpoint / "config.json", *checkpoint.glob("generation_config.json")]
        for file in (*model, *checkpoint.glob("*.safetensors*"), *(self.resume / "tokenizer").iterdir()):
            link(file, partial / file.name)
        shutil.rmtree(self.out / epoch, ignore_errors=True)
        partial.replace(self.out / epoch)
        _losses(state["log_history"]).to_csv(self.out / "log.csv", index=False)
        _scores(state["log_history"]).to_csv(self.out / "scores.csv", index=False)


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


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; None if there is none."""
    newest_first = reversed(numbered_folders(folder, "checkpoint").values())
    return next((checkpoint for checkpoint in newest_first if _is_whole(checkpoint)), None)


def state_of(checkpoint: Path) -> dict[str, Any]:
    """How far the training had come at a checkpoint, and its log."""
    return json.loads((checkpoint / "trainer_state.json").read_text())  # the Trainer writes this file last


def link(source: Path, target: Path) -> None:
    """Makes the same file known under a second name, or copies it where the disk knows no second names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _is_whole(checkpoint: Path) -> bool:
    try:
        state_of(checkpoint)
    except (OSError, ValueError):
        return False
    return True


def _losses(history: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    rows = pd.DataFrame([row for row in history if "loss" in row])
    return rows.rename(columns={"learning_rate": "lr"})[["step", "epoch", "loss", "lr"]]


def _scores(history: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row for row in history if "score" in row], columns=["epoch", "language", "score"])
