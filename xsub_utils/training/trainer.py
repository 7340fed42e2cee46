"""The training loop of `finetune`: transformers' Trainer with our order of examples, checkpoints and records.

What is here serves two ends. Steps of a tiny model take milliseconds, so nothing may be done per step that
could be done once. And a run that is killed has to go on as if nothing had happened: order and masking depend
on seed and epoch alone, all else is in the checkpoint.
"""

import gc
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from xsub_utils.evaluation.scores import evaluate
from xsub_utils.models.batches import make_batches, token_masker
from xsub_utils.training.settings import SCHEDULES, Settings

LOG_EVERY = 10  # steps
_POOL = 50  # batches among which examples are sorted by length


def train(
    model,
    tokenizer,
    rows: "Rows",
    recorder: "Recorder",
    settings: Settings,
    seed: int,
    progress: bool,
    make: "Callable[..., EpochTrainer]",
) -> None:
    """Train a model in place, from the start or from where a killed run got to.

    Args:
        model: A transformers model with a head for the task.
        tokenizer: Goes into the folder of every epoch.
        rows: What to learn from.
        recorder: Knows the folders of the run.
        settings: Course of the training.
        seed: Of order, masking and dropout.
        progress: Show a bar on stderr.
        make: Gives the trainer for model, arguments, rows and callbacks: `EpochTrainer`, or one that updates otherwise.
    """
    folder = recorder.resume
    arguments = training_arguments(folder, settings, seed)
    if arguments.should_save:
        tokenizer.save_pretrained(folder / "tokenizer")
    reached = _last_checkpoint(folder)
    if reached and arguments.should_save:
        recorder.publish(reached)  # the kill may have come before that
    if reached and recorder.exhausted(_state(reached)["log_history"]):
        return
    bar = [ProgressBar()] if progress else []
    gc.freeze()  # accelerate collects garbage before it begins, and would look through all that is there
    try:
        make(model, arguments, rows, [recorder, *bar]).train(reached and str(reached))
    finally:
        gc.unfreeze()


def training_arguments(folder: Path, settings: Settings, seed: int) -> TrainingArguments:
    """Arguments for the Trainer: one checkpoint per epoch, no reports to anywhere.

    Args:
        folder: For the checkpoints.
        settings: Course of the training.
        seed: Of dropout, order and masking.
    """
    bf16 = settings.precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported(False)
    args = TrainingArguments(
        str(folder),
        num_train_epochs=settings.epochs,
        learning_rate=settings.lr,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,
        lr_scheduler_type=SCHEDULES[settings.schedule],
        bf16=bf16 or settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        seed=seed,
        save_strategy="epoch",
        save_total_limit=2,  # should a kill damage one, there is another
        logging_steps=LOG_EVERY,
        logging_nan_inf_filter=False,
        log_level="error",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        average_tokens_across_devices=False,
    )
    devices = args.world_size * max(1, args.n_gpu)
    args.per_device_train_batch_size = max(1, settings.batch_size // devices)
    return args


class Rows(Dataset):
    """Training examples as a few large tensors, out of which batches are cut.

    Args:
        examples: In the columns of the kind, see `make_batches`.
        tokenizer: A transformers tokenizer.
        kind: "sequence", "token", "mlm" or "text2text".
        max_length: Longest input in sub-words.
    """

    _uncut: tuple[str, ...] = ()  # what is not as long as the inputs

    def __init__(self, examples: pd.DataFrame, tokenizer, kind: str, max_length: int):
        self._mask = token_masker(tokenizer) if kind == "mlm" else None
        unmasked = "text" if kind == "mlm" else kind
        settings = {"batch_size": len(examples), "max_length": max_length, "bucket": False}
        (self.tensors,) = make_batches(examples, tokenizer, unmasked, **settings)
        self._uncut = ("labels",) if kind == "text2text" else ()
        self.languages = examples["language"].tolist()
        self.lengths = self.tensors["attention_mask"].sum(1).numpy()
        self._ids = self.tensors["input_ids"].numpy()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitems__(self, chosen: list[int]) -> dict[str, Tensor]:
        """One batch, its inputs no longer than the longest of them."""
        longest = int(self.lengths[chosen].max())
        return {
            name: tensor[chosen] if tensor.ndim == 1 or name in self._uncut else tensor[chosen, :longest]
            for name, tensor in self.tensors.items()
        }

    def start_epoch(self, rng: np.random.Generator) -> None:
        """Mask the texts anew for masked language modelling; other kinds stay as they are."""
        if self._mask:
            masked = self._mask(self._ids, rng)
            self.tensors |= dict(zip(("input_ids", "labels"), map(torch.from_numpy, masked), strict=True))


class LengthGrouped(Sampler[int]):
    """Random order of the examples in which those of a batch are similarly long, so that little is padded.

    Args:
        rows: The examples.
        batch_size: Examples per batch.
        seed: With the epoch, decides the order and the masking.
    """

    def __init__(self, rows: Rows, batch_size: int, seed: int):
        self.rows, self.batch_size, self.seed, self.epoch = rows, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; accelerate calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        self.rows.start_epoch(rng)
        return iter(self._order(rng).tolist())

    def _order(self, rng: np.random.Generator) -> Int[np.ndarray, " examples"]:
        count, size = len(self), self.batch_size
        shuffled = rng.permutation(count)
        pool = np.arange(count) // (size * _POOL)
        grouped = shuffled[np.lexsort((self.rows.lengths[shuffled], pool))]
        whole = count // size * size  # the batch that is not full stays at the end
        return np.concatenate([rng.permutation(grouped[:whole].reshape(-1, size)).ravel(), grouped[whole:]])


class Recorder(TrainerCallback):
    """Scores every epoch, keeps its weights as a loadable folder, and the logs up to date.

    Args:
        out: Folder of the run.
        resume: Folder of what the run needs to go on after a kill.
        batches: Language → batches of the stop split.
        metric: What to score.
        patience: Epochs without a better mean score after which training ends; None for never.
        within: Language → context in which it is scored, such as its mask.
    """

    def __init__(
        self,
        out: Path,
        resume: Path,
        batches: Mapping[str, list],
        metric: str,
        patience: int | None,
        within: Callable[[str], AbstractContextManager],
    ):
        self.out, self.resume, self.within = out, resume, within
        self.batches, self.metric, self.patience = batches, metric, patience

    def on_epoch_end(self, args, state, control, model, **_):
        epoch = round(state.epoch)
        for language, batches in self.batches.items():
            with self.within(language):
                score = evaluate(model, batches, metric=self.metric)
            state.log_history.append({"epoch": epoch, "language": language, "score": score})
        control.should_log = True  # leaves no loss of this epoch to the next, which may run in another process
        control.should_training_stop |= self.exhausted(state.log_history)

    def on_save(self, args, state, control, **_):
        if state.is_world_process_zero:
            self.publish(self.resume / f"checkpoint-{state.global_step}")

    def exhausted(self, history: list[dict]) -> bool:
        """Whether the last `patience` epochs brought no better mean score."""
        if self.patience is None or not self.batches:
            return False
        means = _scores(history).groupby("epoch")["score"].mean()
        if self.metric == "perplexity":
            means = -means
        return len(means) - 1 - int(means.to_numpy().argmax()) >= self.patience

    def publish(self, checkpoint: Path) -> None:
        """Make the folder of an epoch, and the tables up to it, from a complete checkpoint."""
        state = _state(checkpoint)
        epoch = f"epoch-{round(state['epoch'])}"
        partial = self.resume / epoch
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        model = [checkpoint / "config.json", *checkpoint.glob("generation_config.json")]
        for file in (*model, *checkpoint.glob("*.safetensors*"), *(self.resume / "tokenizer").iterdir()):
            _link(file, partial / file.name)
        shutil.rmtree(self.out / epoch, ignore_errors=True)
        partial.replace(self.out / epoch)
        _losses(state["log_history"]).to_csv(self.out / "log.csv", index=False)
        _scores(state["log_history"]).to_csv(self.out / "scores.csv", index=False)


class ProgressBar(TrainerCallback):
    """A bar on stderr; the one of transformers writes tables into notebooks."""

    def on_train_begin(self, args, state, control, **_):
        show = state.is_world_process_zero
        steps = {"total": state.max_steps, "initial": state.global_step}
        self.bar = tqdm(**steps, desc="fine-tuning", unit="step", leave=False, disable=not show)

    def on_step_end(self, args, state, control, **_):
        self.bar.update()

    def on_log(self, args, state, control, logs, **_):
        if "loss" in logs:
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)

    def on_train_end(self, args, state, control, **_):
        self.bar.close()


class EpochTrainer(Trainer):
    """Trainer over `Rows` that does nothing in a step that a bare loop would not do, and prints nothing."""

    def __init__(self, model, args: TrainingArguments, rows: Rows, callbacks: list[TrainerCallback]):
        model.accepts_loss_kwargs = False  # losses are means over the batch, also where several GPUs share it
        super().__init__(model, args, train_dataset=rows, callbacks=callbacks)
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader:
        """Batches in an order that depends on seed and epoch alone."""
        size = self._train_batch_size
        order = LengthGrouped(self.train_dataset, size, self.args.seed)
        own = torch.Generator()  # so that the loader draws nothing from the generator of dropout
        return self.accelerator.prepare(
            DataLoader(self.train_dataset, size, sampler=order, collate_fn=_as_is, generator=own)
        )

    def floating_point_ops(self, inputs: Mapping[str, Tensor]) -> int:
        """0: counting parameters in every step would take longer than some layers do."""
        return 0


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; None if there is none."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return next((path for path in reversed(found) if _is_whole(path)), None)


def _state(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "trainer_state.json").read_text())  # the Trainer writes this file last


def _is_whole(checkpoint: Path) -> bool:
    try:
        _state(checkpoint)
    except (OSError, ValueError):
        return False
    return True


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, or a copy where the disk knows no second names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _losses(history: Sequence[dict]) -> pd.DataFrame:
    rows = pd.DataFrame([row for row in history if "loss" in row])
    return rows.rename(columns={"learning_rate": "lr"})[["step", "epoch", "loss", "lr"]]


def _scores(history: Sequence[dict]) -> pd.DataFrame:
    return pd.DataFrame([row for row in history if "score" in row], columns=["epoch", "language", "score"])


def _as_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch
