"""Notebook 07, kinds of masks: tickets, and masks of the same sparsity that were found otherwise."""

import torch

from xsub_utils._internal import store
from xsub_utils._internal.validation import invalid
from xsub_utils.study.conditions import TicketKind
from xsub_utils.study.nb07_tickets.models import MIXED, TicketPlan, tickets_of
from xsub_utils.study.study import Study, load_model
from xsub_utils.weights import criteria
from xsub_utils.weights.criteria import keep_largest
from xsub_utils.weights.masks import WeightMask, random_weight_mask
from xsub_utils.weights.prunable import prunable_weights

KINDS = tuple(kind for kind in TicketKind if kind not in (TicketKind.FULL, TicketKind.FULL_TRAINED_AS_LONG))
FEW = (TicketKind.TICKET, TicketKind.LARGEST_BEFORE_TRAINING, TicketKind.RANDOM_PER_MATRIX, TicketKind.RANDOM_WEIGHTS)
_DRAWN = {  # what a mask's random draw is named after; another name is another draw
    TicketKind.DENSER_THEN_RANDOM: "denser ticket, then random",
    TicketKind.RANDOM_WEIGHTS: "random",
}
_DENSER = 0.3  # sparsity of the ticket that is pruned further at random, as nearly as the rounds came to it


def mask_of(
    study: Study, task: str, seed: int, language: str, kind: str, plan: TicketPlan, sparsity: float | None = None
) -> WeightMask:
    """A mask of one of the `KINDS`, of a sparsity of the plan, by default the main one.

    Those that need a trained model take the full model that the tickets began with. The other seed is 1 for 0, 0 for
    1, 3 for 2, and so on. A ticket is pruned further at random from the one nearest to 30 %.
    """
    sparsity = plan.main if sparsity is None else sparsity
    if kind == TicketKind.TICKET_OTHER_SEED:
        return tickets_of(study, task, seed ^ 1, language, plan).masks[sparsity]
    if kind == TicketKind.TICKET_ALL_LANGUAGES:
        fewer = tuple(level for level in plan.sparsities if level <= max(plan.main, sparsity))
        shorter = plan._replace(sparsities=fewer, elsewhere=(plan.main,))
        return tickets_of(study, task, seed, MIXED, shorter).masks[sparsity]
    if kind == TicketKind.LARGEST_BEFORE_TRAINING:
        return keep_largest(start_weights(study, task, seed), sparsity=sparsity)
    own = tickets_of(study, task, seed, language, plan)
    if kind == TicketKind.TICKET:
        return own.masks[sparsity]
    if kind == TicketKind.LARGEST_CHANGES:
        start, after = start_weights(study, task, seed), prunable_weights(load_model(own.full))
        changes = {name: after[name].detach().cpu() - value for name, value in start.items()}
        return keep_largest(changes, sparsity=sparsity)
    if kind == TicketKind.LARGEST_FISHER:
        batches = study.batches(task, "importance", language, 0)
        return keep_largest(criteria.fisher_information(load_model(own.full), batches), sparsity=sparsity)
    if kind == TicketKind.RANDOM_PER_MATRIX:
        return random_weight_mask(own.masks[sparsity], seed=seed)
    draw = int(store.digest([task, seed, language, _DRAWN[TicketKind(kind)]]), 16) % 2**32
    if kind == TicketKind.DENSER_THEN_RANDOM:
        return criteria.prune_randomly(own.masks[_denser(plan, sparsity)], sparsity=sparsity, seed=draw)
    return criteria.prune_randomly(own.masks[0.0], sparsity=sparsity, seed=draw)


def _denser(plan: TicketPlan, sparsity: float) -> float:
    """The sparsity nearest to 30 % of the tickets that keep more."""
    lower = [level for level in plan.sparsities if level < sparsity]
    if not lower:
        remedy = "a denser ticket is to be pruned at random"
        raise invalid("sparsities", f"one below {sparsity} among them", list(plan.sparsities), remedy)
    return min(lower, key=lambda level: abs(level - _DENSER))


def start_weights(study: Study, task: str, seed: int) -> dict[str, torch.Tensor]:
    """The prunable weights before any training."""
    return {name: weight.detach().cpu() for name, weight in prunable_weights(study.start(task, seed)).items()}
