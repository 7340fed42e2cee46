"""The training loop of `finetune`: transformers' Trainer with our order of examples, checkpoints and records.

What is here serves two ends. Steps of a tiny model take milliseconds, so nothing may be done per step that
could be done once. And a run that is killed has to go on as if nothing had happened: order and masking depend
on seed and epoch alone, all else is in the checkpoint.
"""

import gc
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from xsub_utils.training.divergence import check_loss
from xsub_utils.training.recorder import ProgressBar, Recorder, state_of
from xsub_utils.training.rows import Rows
from xsub_utils.training.samplers import LengthGrouped
from xsub_utils.training.settings import SCHEDULES, Settings

LOG_EVERY = 10  # steps


def train(
    model: nn.Module,
    tokenizer: Any,
    rows: Rows,
    recorder: Recorder,
    settings: Settings,
    seed: int,
    progress: bool,
    make_trainer: "Callable[..., EpochTrainer]",
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
        make_trainer: Gives the trainer for model, arguments, rows and callbacks: `EpochTrainer`, or one that updates
            otherwise.
    """
    folder = recorder.resume
    arguments = training_arguments(folder, settings, seed)
    if arguments.should_save:
        shutil.rmtree(folder / "tokenizer", ignore_errors=True)
        tokenizer.save_pretrained(folder / "tokenizer")
    reached = recorder.reached(sweep=arguments.should_save)
    if reached and arguments.should_save:
        recorder.publish(reached)  # the kill may have come before that
    if reached and recorder.exhausted(state_of(reached)["log_history"]):
        return
    bar = [ProgressBar()] if progress else []
    gc.freeze()  # accelerate collects garbage before it begins, and would look through all that is there
    try:
        make_trainer(model, arguments, rows, [recorder, *bar]).train(str(reached) if reached else None)
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


class EpochTrainer(Trainer):
    """Trainer over `Rows` that does nothing in a step that a bare loop would not do, and prints nothing."""

    def __init__(self, model: nn.Module, args: TrainingArguments, rows: Rows, callbacks: list[TrainerCallback]) -> None:
        # Losses are means over the batch, also where several GPUs share it.
        model.accepts_loss_kwargs = False  # type: ignore[assignment]
        super().__init__(model, args, train_dataset=rows, callbacks=callbacks)
        self.rows = rows
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader:
        """Batches in an order that depends on seed and epoch alone."""
        size = self._train_batch_size
        order = LengthGrouped(self.rows, size, self.args.seed)
        own = torch.Generator()  # so that the loader draws nothing from the generator of dropout
        return self.accelerator.prepare(DataLoader(self.rows, size, sampler=order, collate_fn=_as_is, generator=own))

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *more: Any) -> Tensor:
        """Loss of a step, whose gradients are added up."""
        loss = super().training_step(model, inputs, *more)
        check_loss(loss, inputs, Path(str(self.args.output_dir)).parent, self.state)
        return loss

    def floating_point_ops(self, inputs: Mapping[str, Tensor]) -> int:
        """0: counting parameters in every step would take longer than some layers do."""
        return 0


def _as_is(batch: Any) -> Any:
    return batch
