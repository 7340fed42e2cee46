"""Iterative magnitude pruning: train, drop the smallest weights, rewind the others, and again."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xsub_utils._internal.amounts import amount
from xsub_utils._internal.places import folder_to_write
from xsub_utils._internal.validation import invalid, one_of, whole
from xsub_utils.data.tasks import Task
from xsub_utils.heads.masks import load_masks, save_masks
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
        TypeError: If sparsities or an epoch are no numbers; and as in `finetune`.
        ValueError: If sparsities are not rising shares, the scope is unknown, there is no such epoch, or `out` holds
            something else than such rounds; and as in `finetune`.

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
    shares = _checked_shares(sparsities)
    one_of("scope", scope, SCOPES)
    check_task(task)
    last = check_settings(settings, task).epochs
    whole("rewind_epoch", rewind_epoch, 0, last, "settings have that many epochs")
    out = _checked_folder(out)
    options: dict[str, Any] = {"seed": seed, "languages": languages, "settings": settings, "progress": progress}
    full = finetune(task, encoder, out=out / _name(0), **options)
    start = _epoch_of(full, rewind_epoch) if rewind_epoch else encoder
    weights = _weights(full)
    tickets = [Ticket(0.0, {name: torch.ones_like(one, dtype=torch.bool) for name, one in weights.items()}, full)]
    for sparsity in shares:
        mask = keep_largest(weights, sparsity=sparsity, within=tickets[-1].mask, scope=scope)
        name = _name(sparsity)
        folder = finetune_ticket(task, start, out=out / name, mask=mask, **options)  # refuses those of other rounds
        _keep_mask(out / f"{name}.npz", mask, {"sparsity": sparsity, "scope": scope, "task": task.name, "seed": seed})
        tickets.append(Ticket(sparsity, mask, folder))
        weights = _weights(folder)
    return tickets


def _name(sparsity: float) -> str:
    return f"sparsity-{100 * sparsity:g}"


def _checked_shares(sparsities: Any) -> tuple[float, ...]:
    """Sparsities as plain numbers, if they rise and their folders have different names."""
    given = sparsities if isinstance(sparsities, Iterable) and not isinstance(sparsities, str) else [sparsities]
    shares = tuple(amount("sparsities", share) for share in given)
    if not shares or not all(0 <= low < high < 1 for low, high in pairwise((0.0, *shares))):
        raise invalid("sparsities", "rising shares above 0 and below 1", shares)
    if len({_name(share) for share in shares}) < len(shares):
        raise invalid("sparsities", "shares that differ in their first six digits", shares)
    return shares


def _checked_folder(given: str | Path) -> Path:
    """The folder of the rounds, if it holds nothing else.

    Raises:
        ValueError: If it does, or cannot be a folder.
    """
    out = folder_to_write(given)
    rounds = [path.name for path in out.glob("sparsity-*") if path.is_dir()]
    own = {*rounds, *(f"{name}.npz" for name in rounds)}
    if foreign := sorted(path.name for path in out.glob("[!.]*") if path.name not in own):
        got = f"{str(out)!r}, which holds {', '.join(foreign[:3])}"
        raise invalid("out", "a new or an empty folder, or that of these rounds", got, "choose a new folder")
    return out


def _keep_mask(file: Path, mask: Mapping[str, Tensor], meta: dict[str, Any]) -> None:
    """Saves the mask of a round, unless it is there already."""
    with suppress(OSError, ValueError):
        kept, about = load_masks(file)
        if about == meta and kept.keys() == mask.keys() and all(kept[name].equal(mask[name].cpu()) for name in mask):
            return
    save_masks(file, mask, meta)


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
