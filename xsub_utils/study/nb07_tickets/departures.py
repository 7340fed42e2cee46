"""Notebook 07, what training adds: where tickets depart from the largest weights before training, and whether alike."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xsub_utils.similarity.chance import ratio
from xsub_utils.study.conditions import TicketKind
from xsub_utils.study.nb07_tickets.kinds import mask_of, start_weights
from xsub_utils.study.nb07_tickets.models import TicketPlan, tickets_of
from xsub_utils.study.nb07_tickets.transfer import pairs_of, places_of
from xsub_utils.study.study import Study
from xsub_utils.weights.masks import WeightMask

BIN = 50  # weights of a matrix that are about as large before training


def departures(study: Study, tasks: Sequence[str], seeds: Sequence[int], plan: TicketPlan) -> pd.DataFrame:
    """Overlap of the weights in which two tickets differ from the largest before training.

    Tickets of one encoder overlap because they begin with the same magnitudes. A weight departs if it is large before
    training and dropped nonetheless, or small and kept. Most that depart are near the threshold, whatever the language;
    so chance is to depart as often among weights of one matrix and magnitude, independently. Matrices that not all
    tickets have are left out.

    Returns:
        differs (as in `transfer.overlaps`), task, task_b, seed, a, b, departed (share of all weights, mean of
        both), jaccard, expected (by chance), above (the Jaccard index, 0 at chance and 1 for equal departures).
    """
    keys, rows = list(product(tasks, seeds, study.languages)), []
    masks = {key: tickets_of(study, *key, plan).masks[plan.main] for key in keys}
    names = [name for name in masks[keys[0]] if all(name in mask for mask in masks.values())]
    bins = _bins([start_weights(study, tasks[0], seeds[0])[name] for name in names])
    largest = {key: mask_of(study, *key, TicketKind.LARGEST_BEFORE_TRAINING, plan) for key in keys}
    departed = {key: _flat(masks[key], names) ^ _flat(largest[key], names) for key in keys}
    sizes = np.bincount(bins)
    counts = {key: np.bincount(bins[departures], minlength=len(sizes)) for key, departures in departed.items()}
    for differs, key, other in pairs_of(keys):
        a, b = departed[key], departed[other]
        total = a.sum() + b.sum()
        shared = {"jaccard": (a & b).sum(), "expected": (counts[key] * counts[other] / sizes).sum()}
        values = {name: float(ratio(count, total - count)) for name, count in shared.items()}
        rows.append({"differs": differs, **places_of(key, other), "departed": total / 2 / len(a)} | values)
    table = pd.DataFrame(rows)
    return table.assign(above=(table["jaccard"] - table["expected"]) / (1 - table["expected"]))


def _bins(weights: Sequence[Tensor]) -> np.ndarray:
    """Number of the bin of each weight: of its matrix, and about as large."""
    bins, first = [], 0
    for weight in weights:
        ranks = weight.flatten().abs().argsort().argsort().numpy()
        count = max(1, len(ranks) // BIN)
        bins.append(first + ranks * count // len(ranks))
        first += count
    return np.concatenate(bins)


def _flat(mask: WeightMask, names: Sequence[str]) -> np.ndarray:
    return torch.cat([mask[name].flatten() for name in names]).numpy()
