"""Lottery tickets: subnetworks of single weights that train as well alone as the whole model does."""

from xsub_utils.tickets.matrices import Matrix, matrix, prunable_weights
from xsub_utils.tickets.overlap import joint_overlap, mask_overlap
from xsub_utils.tickets.rounds import TENTHS, Ticket, find_tickets, is_winning
from xsub_utils.tickets.selection import fisher_information, keep_largest, prune_randomly
from xsub_utils.tickets.training import finetune_ticket

__all__ = [
    "TENTHS",
    "Matrix",
    "Ticket",
    "find_tickets",
    "finetune_ticket",
    "fisher_information",
    "is_winning",
    "joint_overlap",
    "keep_largest",
    "mask_overlap",
    "matrix",
    "prunable_weights",
    "prune_randomly",
]
