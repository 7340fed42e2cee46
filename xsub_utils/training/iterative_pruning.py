"""Iterative magnitude pruning: train, drop the smallest weights, rewind the others, and again."""

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from xsub_utils._internal.validation import one_of
from xsub_utils.data.tasks import Task
from xsub_utils.heads.masks import save_masks
from xsub_utils.training.finetune import checkpoints, finetune, load_finetuned
from xsub_utils.training.masked import finetune_ticket
from xsub_utils.training.settings import Settings, preset
from xsub_utils.weights.criteria import keep_largest
from xsub_utils.weights.prunable import SCOPES, prunable_weights

TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Ticket(NamedTuple):
    """A subnetwork of single weights, and the model that was trained with it.

    Attributes:
        sparsity: Share of the prunable weights that it does not keep.
        mask: Parameter name → True where a weight is kept.
        folder: Of its fine-tuning, for `load_finetuned`.
    """

    sparsity: float
    mask: dict[str, Tensor]
    folder: Path

    def __repr__(self) -> str:
        return f"Ticket(sparsity={self.sparsity:g}, {len(self.mask)} matrices, {str(self.folder)!r})"


def find_tickets(
    task: Task,
    encoder: str | Path | tuple[nn.Module, object],
    *,
    seed: int,
    out: str | Path,
    sparsities: float | Sequence[float] = TENTHS,
    scope: str = "global",
    rewind_epoch: int = 0,
    languages: str | Sequence[str] | None = None,
    settings: Settings | None = None,
    progress: bool = True,
) -> list[Ticket]:
    """Tickets of rising sparsity by iterative magnitude pruning, the whole model first.

    In each round the model is trained over the whole course; the smallest of the trained weights that are left are
    dropped until the next sparsity is reached; and all others, with the task head and all that is not pruned, go back
    to their values before training. A killed run goes on, and a complete one is only read.

    Args:
        task, encoder, seed, languages, settings, progress: As in `finetune`. The learning rate falls over the course of
            each round.
        out: Folder to write; it belongs to these rounds alone. The model of each round is in `sparsity-0`,
            `sparsity-10`, …, its mask beside it in `sparsity-10.npz`, …. Every round leaves a checkpoint
            per epoch (of XLM-R base 1.1 GB); once all are done, all but the last of each may be deleted.
        sparsities: Rising; shares of the prunable weights that are dropped, or one. Training stops after the last.
        scope: Among what magnitudes are compared: "global", "stack" (encoder and decoder apart, as the source has it
            for mT5) or "matrix" (component by component).
        rewind_epoch: 0 rewinds to the values before training; otherwise to those after this epoch of the whole model
            (late rewinding, Frankle et al. 2020), from where the course is run in full.

    Returns:
        The whole model, with sparsity 0 and a mask of ones, then a ticket for each sparsity, trained.

    Raises:
        ValueError: If sparsities are not rising shares, the scope is unknown, or there is no such epoch; and as in
            `finetune`.

    Source: Foroutan et al. 2022, algorithm 1; Frankle & Carbin 2019.
    """
    steps = [0.0, *([sparsities] if isinstance(sparsities, int | float) else sparsities)]
    if not all(0 <= low < high < 1 for low, high in pairwise(steps)):
        raise ValueError(f"sparsities={tuple(steps[1:])}: rising shares between 0 and 1 would be right")
    one_of("scope", scope, SCOPES)
    if not 0 <= rewind_epoch <= (last := (settings or preset("minibabel", task)).epochs):
        raise ValueError(f"rewind_epoch={rewind_epoch}: from 0 to the {last} epochs of the course would be right")
    out, options = Path(out), {"languages": languages, "settings": settings, "progress": progress}
    whole = finetune(task, encoder, seed=seed, out=out / "sparsity-0", **options)
    start = _rewound(whole, encoder, rewind_epoch)
    weights = _weights(whole)
    tickets = [Ticket(0.0, {name: torch.ones_like(one, dtype=torch.bool) for name, one in weights.items()}, whole)]
    for sparsity in steps[1:]:
        mask = keep_largest(weights, sparsity=sparsity, within=tickets[-1].mask, scope=scope)
        name = f"sparsity-{100 * sparsity:g}"
        folder = finetune_ticket(
            task, start, seed=seed, out=out / name, mask=mask, **options
        )  # refuses what is of other rounds
        save_masks(out / f"{name}.npz", mask, {"sparsity": sparsity, "scope": scope, "task": task.name, "seed": seed})
        tickets.append(Ticket(sparsity, mask, folder))
        weights = _weights(folder)
    return tickets


def is_winning(score: float, full: Sequence[float], *, lower_is_better: bool = False) -> bool:
    """Whether a ticket's score is within one standard deviation of the full model's, or better.

    Args:
        score: Of the ticket.
        full: Scores of the full model, one for each seed; at least two.
        lower_is_better: Of perplexities.

    Raises:
        ValueError: If there are fewer than two seeds, or a score is not finite.

    Source: Foroutan et al. 2022, section 3.
    """
    if not all(map(isfinite, (score, *full))):
        raise ValueError(f"score={score}, full={list(full)}: finite numbers would be right")
    if len(full) < 2:
        raise ValueError(f"full: {len(full)} scores; a standard deviation over seeds needs two at least")
    values = torch.tensor(full, dtype=torch.float64)
    loss = float(score - values.mean()) if lower_is_better else float(values.mean() - score)
    return loss <= float(values.std())


def _rewound(whole: Path, encoder, epoch: int):
    """What the rounds start from."""
    if not epoch:
        return encoder
    there = [path for path in checkpoints(whole) if path.name == f"epoch-{epoch}"]
    if not there:
        names = ", ".join(path.name for path in checkpoints(whole))
        raise ValueError(f"rewind_epoch={epoch}: the whole model has {names}")
    return there[0]


def _weights(folder: Path) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in prunable_weights(load_finetuned(folder)[0]).items()}
