"""Sparse fine-tuning: a batch of a language runs through its mask, and moves only the weights of the mask."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.data.tasks import Task
from xsub_utils.training.language_masks import HeadMask, LanguageMask, Mask, check_names, masks_by_language
from xsub_utils.training.optimizer import Piece, SubnetworkAdamW, in_pieces
from xsub_utils.training.rows import Rows
from xsub_utils.training.run import Encoder, Variant, check_languages, check_task, run
from xsub_utils.training.samplers import ByLanguage, check_order
from xsub_utils.training.settings import Settings
from xsub_utils.training.trainer import EpochTrainer
from xsub_utils.weights.masks import WeightMask, mask_digest

OUTSIDE = ("shared", "frozen")


def sparse_finetune(
    task: Task,
    encoder: Encoder,
    *,
    seed: int,
    out: str | Path,
    masks: Mapping[str, Mask] | HeadMask | WeightMask,
    through: bool = True,
    outside: str = "shared",
    order: str = "round-robin",
    temperature: float = 5.0,
    languages: str | Sequence[str] | None = None,
    settings: Settings | None = None,
    progress: bool = True,
) -> Path:
    """Folder of an encoder fine-tuned on a task, in which the batches of each language moved only its subnetwork.

    Every batch is of one language. Its loss is that of the model through the language's mask, and the step changes
    nothing but the weights of the mask and, unless they are frozen, those that belong to no head. A killed run goes
    on, and a complete one is left as it is, as in `finetune`; the folder looks the same and is read in the same ways.
    There are as many steps as in `finetune`, or a few more where languages have fewer examples than a batch.

    Args:
        task, encoder, seed, languages, settings, progress: As in `finetune`: the same model, heads and initial weights.
        out: Folder to write, which belongs to this run alone.
        masks: Language -> its mask, or one mask for all languages. A mask is either one of heads, a bool tensor
            (layers, heads), True = kept; its weights are then the rows of query, key and value and the columns of the
            output projection of the heads kept. Or it is one of weights: parameter name -> bool tensor of the
            parameter's shape, True = kept. Keys of a mapping are languages of the task or parameters of the model.
        through: Whether a batch also runs through its mask, all else being zero; if not, the masks only say what
            moves, as in LT-SFT.
        outside: What happens to parameters that the masks do not name (of head masks: all that belongs to no head):
            "shared" (every batch moves them) or "frozen"; the task head is never frozen, but for what it ties to the
            encoder.
        order: Of the batches: "round-robin", "proportional" or "temperature"; see `ByLanguage`.
        temperature: For the last of these.

    Returns:
        `out`, as in `finetune`; the scores in `scores.csv` are those through the mask of each language that has one, if
        `through`.

    Raises:
        ValueError: If a language has no mask, a mask is of no language of the task, has another shape than the model
            or keeps nothing, there are several GPUs, among which batches would be divided, or the precision is fp16,
            whose gradients are scaled; and as in `finetune`.

    Source: Choenni et al. 2024, section 3 (head masks); Ansell et al. 2022, section 3 (weight masks, `through=False`).

    Example:
        >>> import torch
        >>> import xsub_utils as xs
        >>> task = xs.load_task("reviews", ["qaa", "qba"], sizes={"train": 4})
        >>> own = torch.arange(12) % 2 == 0  # each language has every other head of each layer
        >>> masks = {"qaa": own.expand(4, 12), "qba": ~own.expand(4, 12)}
        >>> settings = xs.Settings(epochs=1, batch_size=4)
        >>> folder = xs.sparse_finetune(
        ...     task, "minibabel-base", seed=0, out="run", masks=masks, settings=settings, progress=False
        ... )
        >>> xs.load_finetuned(folder)[0].config.id2label
        {0: 'negative', 1: 'positive'}
    """
    check_order(order, temperature)
    one_of("outside", outside, OUTSIDE)
    _check_device(settings)
    check_task(task)
    by_language = masks_by_language(masks, task.languages)
    if missing := [code for code in check_languages(task, languages) if code not in by_language]:
        raise invalid("masks", "a mask for every language to train on", f"none for {', '.join(missing)}")
    plan = {"through": through, "outside": outside, "order": order, "temperature": temperature}

    def variant(model: nn.Module) -> Variant:
        check_names(masks, task.languages, model)
        own = {language: LanguageMask.of(model, language, mask, through) for language, mask in by_language.items()}
        make_trainer = partial(SparseTrainer, masks=own, shared=outside == "shared", order=(order, temperature))
        return Variant(make_trainer, lambda code: own[code].masked_model(model) if code in own else nullcontext())

    return run(
        task,
        encoder,
        seed=seed,
        out=out,
        languages=languages,
        settings=settings,
        progress=progress,
        variant=variant,
        further={"masks": {language: mask_digest(mask) for language, mask in by_language.items()}, **plan},
    )


def _check_device(settings: Settings | None) -> None:
    if settings is not None and settings.precision == "fp16":
        raise invalid("settings", "precision 'auto', 'bf16' or 'fp32'", "'fp16'", "it would scale the gradients")
    if (count := torch.cuda.device_count()) > 1:
        remedy = "set CUDA_VISIBLE_DEVICES to one; several would divide batches and mix languages"
        raise invalid("device", "one GPU at most", f"{count}", remedy)


class SparseTrainer(EpochTrainer):
    """The Trainer of `finetune` with batches of one language, through its mask, that move its mask."""

    updates: SubnetworkAdamW

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        rows: Rows,
        callbacks: list[TrainerCallback],
        masks: Mapping[str, LanguageMask],
        shared: bool,
        order: tuple[str, float],
    ) -> None:
        super().__init__(model, args, rows, callbacks)  # brings the model to its device
        device = next(model.parameters()).device
        self.languages, self.batch_order = list(dict.fromkeys(rows.languages)), order
        self.masks = {language: masks[language].to(device) for language in self.languages}
        self.moves = _moves(model, self.masks, shared)
        self.named = dict(model.named_parameters())
        rows.tensors["language"] = torch.tensor([self.languages.index(language) for language in rows.languages])

    def get_train_dataloader(self) -> DataLoader:
        """Batches of one language each."""
        order = ByLanguage(self.rows, self._train_batch_size, self.args.seed, *self.batch_order)
        own = torch.Generator()
        return self.accelerator.prepare(DataLoader(self.rows, batch_sampler=order, collate_fn=dict, generator=own))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As the Trainer's, but for what the masks divide."""
        if self.optimizer is None:
            trained: Any = self.model if model is None else model
            moving = {name: value for name, value in trained.named_parameters() if value.requires_grad}
            decayed = set(self.get_decay_parameter_names(trained))
            groups: list[dict[str, Any]] = []
            pieces: list[Piece] = []
            for names, rate in ((decayed, self.args.weight_decay), (moving.keys() - decayed, 0.0)):
                parameters = {name: value for name, value in moving.items() if name in names}
                undivided, divided = in_pieces(parameters, self.moves)
                groups.append({"params": [*undivided, *(piece.values for piece in divided)], "weight_decay": rate})
                pieces += divided
            _, options = self.get_optimizer_cls_and_kwargs(self.args, trained)
            self.updates = self.optimizer = SubnetworkAdamW(groups, pieces, **options)
        return self.optimizer

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *more: Any) -> Tensor:
        """Loss and gradients through the mask of the batch's language."""
        self.updates.language = language = self.languages[int(inputs.pop("language")[0])]
        mask = self.masks[language]
        with mask.masked_model(self.model):  # type: ignore[arg-type]
            loss = super().training_step(model, inputs, *more)
        if mask.heads is None or not mask.through:  # behind head gates they are zero
            self._clear(self.moves[language])
        return loss

    def _clear(self, moves: WeightMask) -> None:
        """Gradients of weights that this step does not move, lest clipping count them."""
        for name, mask in moves.items():
            gradient = self.named[name].grad
            if gradient is not None:
                gradient.mul_(mask)


def _moves(model: nn.Module, masks: Mapping[str, LanguageMask], shared: bool) -> dict[str, WeightMask]:
    """Language -> which weights its batches move, where these are not all; what nobody moves needs no gradient."""
    named = {name for mask in masks.values() for name in mask.weights}
    inside = {id(parameter) for parameter in model.base_model.parameters()}  # type: ignore[union-attr]
    outside = {}
    for name, parameter in model.named_parameters():
        common = shared or id(parameter) not in inside
        if name in named:
            outside[name] = torch.tensor(common, device=parameter.device).expand(parameter.shape)
        elif not common:
            parameter.requires_grad_(False)
    return {language: {**outside, **mask.weights} for language, mask in masks.items()}
