"""Sparse fine-tuning: a batch of a language runs through its mask, and moves only the weights of the mask."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments

from xsub_utils._internal.validation import one_of
from xsub_utils.data.tasks import Task
from xsub_utils.heads.gates import head_gates
from xsub_utils.heads.removal import head_weights
from xsub_utils.models.architectures import head_shape
from xsub_utils.training.finetune import Ways, run
from xsub_utils.training.optimizer import SubnetworkAdamW, in_pieces
from xsub_utils.training.samplers import ByLanguage, check_order
from xsub_utils.training.settings import Settings
from xsub_utils.training.trainer import EpochTrainer, Rows
from xsub_utils.weights.masks import WeightMask, check_weight_mask, mask_digest, masked_weights

Mask = Tensor | Mapping[str, Tensor]  # of heads, (layers, heads), or of weights
OUTSIDE = ("shared", "frozen")


def sparse_finetune(
    task: Task,
    encoder: str | Path | tuple[nn.Module, object],
    *,
    seed: int,
    out: str | Path,
    masks: Mapping[str, Mask] | Mask,
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
        out: Folder to write; it belongs to this run alone.
        masks: Language → its mask, or one mask for all. Either a mask of heads, (layers, heads), True = kept; its
            weights are then the rows of query, key and value and the columns of the output projection of the heads
            kept. Or a weight mask: parameter name → True where a weight is kept.
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
    """
    check_order(order, temperature)
    one_of("outside", outside, OUTSIDE)
    if settings is not None and settings.precision == "fp16":
        raise ValueError("settings: precision='fp16' scales gradients; 'auto', 'bf16' or 'fp32' would be right")
    if torch.cuda.device_count() > 1:
        raise ValueError(
            f"device: {torch.cuda.device_count()} GPUs would mix languages; set CUDA_VISIBLE_DEVICES to one"
        )
    by_language = _by_language(masks, task.languages)
    plan = {"through": through, "outside": outside, "order": order, "temperature": temperature}

    def ways(model: nn.Module) -> Ways:
        chosen = list(task.languages) if languages is None else [languages] if isinstance(languages, str) else languages
        if missing := [language for language in chosen if language not in by_language]:
            raise ValueError(f"masks: there is none for {', '.join(missing)}; every language to train on needs one")
        found = {language: Subnetwork.of(model, language, mask, through) for language, mask in by_language.items()}
        make = partial(SparseTrainer, subnetworks=found, shared=outside == "shared", order=(order, temperature))
        return Ways(make, lambda language: found[language].entered(model) if language in found else nullcontext())

    more = {"masks": {language: mask_digest(mask) for language, mask in by_language.items()}, **plan}
    return run(task, encoder, seed, out, languages, settings, progress, ways, more)


@dataclass(frozen=True)
class Subnetwork:
    """A language's mask: what its batches run through, and what they move."""

    heads: Tensor | None
    weights: WeightMask
    through: bool

    @classmethod
    def of(cls, model: nn.Module, language: str, mask: Mask, through: bool) -> "Subnetwork":
        """The same for both kinds of masks.

        Raises:
            ValueError: If the mask does not fit the model or keeps nothing.
        """
        if isinstance(mask, Tensor):
            shape = head_shape(model)
            if mask.dtype != torch.bool or tuple(mask.shape) != shape:
                raise ValueError(
                    f"masks: that of {language!r} is of {mask.dtype} and shape {tuple(mask.shape)}; this model takes "
                    f"torch.bool and {shape}"
                )
        kept = mask.any() if isinstance(mask, Tensor) else any(one.any() for one in mask.values())
        if not kept:
            raise ValueError(f"masks: that of {language!r} keeps nothing, so its batches would move no subnetwork")
        if isinstance(mask, Tensor):
            return cls(mask, head_weights(model, mask), through)
        parameters = check_weight_mask(model, mask, "masks")
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        return cls(None, {names[id(parameters[name])]: one for name, one in mask.items()}, through)

    def to(self, device: torch.device) -> "Subnetwork":
        """The same on a device."""
        heads = None if self.heads is None else self.heads.to(device)
        return Subnetwork(heads, {name: one.to(device) for name, one in self.weights.items()}, self.through)

    @contextmanager
    def entered(self, model: nn.Module) -> Iterator[None]:
        """The model as this language sees it."""
        if not self.through:
            yield
        elif self.heads is not None:
            with head_gates(model, self.heads):
                yield
        else:
            with masked_weights(model, self.weights):
                yield


class SparseTrainer(EpochTrainer):
    """The Trainer of `finetune` with batches of one language, through its mask, that move its mask."""

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        rows: Rows,
        callbacks: list[TrainerCallback],
        subnetworks: Mapping[str, Subnetwork],
        shared: bool,
        order: tuple[str, float],
    ):
        super().__init__(model, args, rows, callbacks)  # brings the model to its device
        device = next(model.parameters()).device
        self.languages, self.batch_order = list(dict.fromkeys(rows.languages)), order
        self.subnetworks = {language: subnetworks[language].to(device) for language in self.languages}
        self.moves = _moves(model, self.subnetworks, shared)
        self.named = dict(model.named_parameters())
        rows.tensors["language"] = torch.tensor([self.languages.index(one) for one in rows.languages])

    def get_train_dataloader(self) -> DataLoader:
        """Batches of one language each."""
        order = ByLanguage(self.train_dataset, self._train_batch_size, self.args.seed, *self.batch_order)
        own = torch.Generator()
        return self.accelerator.prepare(
            DataLoader(self.train_dataset, batch_sampler=order, collate_fn=dict, generator=own)
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As the Trainer's, but for what the masks divide."""
        if self.optimizer is None:
            model = self.model if model is None else model
            moving = {name: value for name, value in model.named_parameters() if value.requires_grad}
            decayed, groups, pieces = set(self.get_decay_parameter_names(model)), [], []
            for names, rate in ((decayed, self.args.weight_decay), (moving.keys() - decayed, 0.0)):
                some = {name: value for name, value in moving.items() if name in names}
                whole, divided = in_pieces(some, self.moves)
                groups.append({"params": [*whole, *(piece.values for piece in divided)], "weight_decay": rate})
                pieces += divided
            _, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.updates = self.optimizer = SubnetworkAdamW(groups, pieces, **options)
        return self.optimizer

    def training_step(self, model: nn.Module, inputs: dict, *more) -> Tensor:
        """Loss and gradients through the mask of the batch's language."""
        self.updates.language = language = self.languages[int(inputs.pop("language")[0])]
        subnetwork = self.subnetworks[language]
        with subnetwork.entered(self.model):
            loss = super().training_step(model, inputs, *more)
        if subnetwork.heads is None or not subnetwork.through:  # behind head gates they are zero
            self._clear(self.moves[language])
        return loss

    def _clear(self, moves: WeightMask) -> None:
        """Gradients of weights that this step does not move, lest clipping count them."""
        for name, mask in moves.items():
            if self.named[name].grad is not None:
                self.named[name].grad.mul_(mask)


def _moves(model: nn.Module, subnetworks: Mapping[str, Subnetwork], shared: bool) -> dict[str, WeightMask]:
    """Language → which weights its batches move, where these are not all; what nobody moves needs no gradient."""
    named = {name for one in subnetworks.values() for name in one.weights}
    inside = {id(parameter) for parameter in model.base_model.parameters()}
    outside = {}
    for name, parameter in model.named_parameters():
        common = shared or id(parameter) not in inside
        if name in named:
            outside[name] = torch.tensor(common, device=parameter.device).expand(parameter.shape)
        elif not common:
            parameter.requires_grad_(False)
    return {language: {**outside, **one.weights} for language, one in subnetworks.items()}


def _by_language(masks: object, languages: Sequence[str]) -> dict[str, Mask]:
    """Language → mask, also if one serves all: a mask of heads, or of weights.

    Raises:
        ValueError: If something is no mask, or its language none of the task.
    """
    names = set(masks) if isinstance(masks, Mapping) else set()
    if isinstance(masks, Tensor) or (names and not names & set(languages) and all("." in name for name in names)):
        masks = dict.fromkeys(languages, masks)
    if not isinstance(masks, Mapping):
        raise ValueError(f"masks: {type(masks).__name__}; a bool tensor, or one for each language, would be right")
    for language, mask in masks.items():
        one_of("masks: language", language, languages)
        parts = mask.values() if isinstance(mask, Mapping) else [mask]
        kinds = [one.dtype if isinstance(one, Tensor) else type(one).__name__ for one in parts]
        if wrong := [kind for kind in kinds if kind != torch.bool]:
            raise ValueError(f"masks: that of {language!r} is of {wrong[0]}; a bool tensor would be right")
    return dict(masks)
