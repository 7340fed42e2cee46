"""Iterative magnitude pruning: train, drop the smallest weights, rewind the others, and again."""

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.data.tasks import Task
from xsub_utils.heads.masks import save_masks
from xsub_utils.training.finetune import finetune, load_finetuned
from xsub_utils.training.folders import numbered_folders
from xsub_utils.training.masked import finetune_ticket
from xsub_utils.training.run import Encoder, check_settings, check_task
from xsub_utils.training.settings import Settings
from xsub_utils.weights.criteria import keep_largest
from xsub_utils.weights.prunable import SCOPES, prunable_weights

TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Ticket(NamedTuple):
    """A subnetwork of single weights, and the model that was trained with it.

    Attributes:
        sparsity: Share of the prunable weights that it does not keep.
        mask: Parameter name -> True where a weight is kept.
        folder: Of its fine-tuning, for `load_finetuned`.
    """

    sparsity: float
    mask: dict[str, Tensor]
    folder: Path

    def __repr__(self) -> str:
        return f"Ticket(sparsity={self.sparsity:g}, {len(self.mask)} matrices, {str(self.folder)!r})"


def find_tickets(
    task: Task,
    encoder: Encoder,
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
    """Tickets of rising sparsity by iterative magnitude pruning, the full model first.

    In each round the model is trained over the full course; the smallest of the trained weights that are left are
    dropped until the next sparsity is reached; and all others, with the task head and all that is not pruned, go back
    to their values before training. A killed run goes on, and a complete one is only read.

    Args:
        task, encoder, seed, languages, settings, progress: As in `finetune`. The learning rate falls over the course of
            each round.
        out: Folder to write, which belongs to these rounds alone. The model of each round is in `sparsity-0`,
            `sparsity-10`, … (read by `load_finetuned`), its mask beside it in `sparsity-10.npz`, … (read by
            `load_masks`). Every round leaves a checkpoint per epoch (of XLM-R base 1.1 GB); once all are done, all but
            the last of each may be deleted.
        sparsities: Rising; shares of the prunable weights that are dropped, or one. Training stops after the last.
        scope: Among what magnitudes are compared: "global", "stack" (encoder and decoder apart, as the source has it
            for mT5) or "matrix" (component by component).
        rewind_epoch: 0 rewinds to the values before training; otherwise to those after this epoch of the full model
            (late rewinding, Frankle et al. 2020), from where each round trains over the full course.

    Returns:
        The full model, with sparsity 0 and a mask of ones, then a ticket for each sparsity, trained. Called again with
        the same arguments, the same tickets are read from `out`.

    Raises:
        ValueError: If sparsities are not rising shares, the scope is unknown, or there is no such epoch; and as in
            `finetune`.

    Source: Foroutan et al. 2022, algorithm 1; Frankle & Carbin 2019.

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.load_task("reviews", ["qaa"], sizes={"train": 4})
        >>> settings = xs.Settings(epochs=1, batch_size=4)
        >>> full, ticket = xs.find_tickets(
        ...     task, "minibabel-base", seed=0, out="rounds", sparsities=0.5, settings=settings, progress=False
        ... )
        >>> ticket.sparsity, sum(int(kept.sum()) for kept in ticket.mask.values())
        (0.5, 147456)
        >>> mask, about = xs.load_masks("rounds/sparsity-50.npz")
        >>> all(mask[name].equal(kept) for name, kept in ticket.mask.items()), about["scope"]
        (True, 'global')
    """
    shares = (sparsities,) if isinstance(sparsities, int | float) else tuple(sparsities)
    if not all(0 <= low < high < 1 for low, high in pairwise((0.0, *shares))):
        raise invalid("sparsities", "rising shares above 0 and below 1", shares)
    one_of("scope", scope, SCOPES)
    check_task(task)
    if not 0 <= rewind_epoch <= (last := check_settings(settings, task).epochs):
        raise invalid("rewind_epoch", f"0 to {last}, the epochs of the course", rewind_epoch)
    out = Path(out)
    options: dict[str, Any] = {"seed": seed, "languages": languages, "settings": settings, "progress": progress}
    full = finetune(task, encoder, out=out / "sparsity-0", **options)
    start = _epoch_of(full, rewind_epoch) if rewind_epoch else encoder
    weights = _weights(full)
    tickets = [Ticket(0.0, {name: torch.ones_like(one, dtype=torch.bool) for name, one in weights.items()}, full)]
    for sparsity in shares:
        mask = keep_largest(weights, sparsity=sparsity, within=tickets[-1].mask, scope=scope)
        name = f"sparsity-{100 * sparsity:g}"
        folder = finetune_ticket(task, start, out=out / name, mask=mask, **options)  # refuses those of other rounds
        save_masks(out / f"{name}.npz", mask, {"sparsity": sparsity, "scope": scope, "task": task.name, "seed": seed})
        tickets.append(Ticket(sparsity, mask, folder))
        weights = _weights(folder)
    return tickets


def is_winning(score: float, full: Sequence[float], *, lower_is_better: bool = False) -> bool:
    """Whether a ticket's score is within one standard deviation of the full model's, or better.

    Args:
        score: Of the ticket.
        full: Scores of the full model, one for each seed; at least two.
        lower_is_better: As `Metric.lower_is_better`.

    Raises:
        ValueError: If there are fewer than two seeds, or a score is not finite.

    Source: Foroutan et al. 2022, section 3.
    """
    if not all(map(isfinite, (score, *full))):
        raise invalid("score, full", "finite numbers", f"{score}, {list(full)}")
    if len(full) < 2:
        raise invalid("full", "scores of at least two seeds, for their standard deviation", f"{len(full)}")
    values = torch.tensor(full, dtype=torch.float64)
    loss = float(score - values.mean()) if lower_is_better else float(values.mean() - score)
    return loss <= float(values.std())


def _epoch_of(full: Path, epoch: int) -> Path:
    """The checkpoint of an epoch of the full model, from which the rounds start."""
    epochs = numbered_folders(full, "epoch")
    if epoch not in epochs:
        there = ", ".join(path.name for path in epochs.values())
        raise invalid("rewind_epoch", f"an epoch of the full model ({there})", epoch)
    return epochs[epoch]


def _weights(folder: Path) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in prunable_weights(load_finetuned(folder)[0]).items()}
