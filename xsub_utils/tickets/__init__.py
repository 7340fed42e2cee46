"""Lottery tickets: subnetworks of single weights that train as well alone as the whole model does."""

from xsub_utils.tickets.matrices import Matrix, matrix, prunable_weights
from xsub_utils.tickets.rounds import Ticket, find_tickets, is_winning
from xsub_utils.tickets.selection import fisher_information, keep_largest, prune_randomly
from xsub_utils.tickets.training import finetune_ticket

__all__ = [
    "Matrix",
    "Ticket",
    "find_tickets",
    "finetune_ticket",
    "fisher_information",
    "is_winning",
    "keep_largest",
    "matrix",
    "prunable_weights",
    "prune_randomly",
]
