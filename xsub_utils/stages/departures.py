"""Notebook 07, what training adds: where tickets depart from the largest weights before training, and whether alike."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xsub_utils.chance import ratio
from xsub_utils.stages.ticket_transfer import pairs_of
from xsub_utils.stages.tickets import ONE_SHOT, Plan, found, mask_of, start_weights
from xsub_utils.study import Study
from xsub_utils.weight_masks import WeightMask

BINS = 200  # of magnitudes before training, with as many weights each


def departures(study: Study, tasks: Sequence[str], seeds: Sequence[int], plan: Plan) -> pd.DataFrame:
    """Overlap of the weights in which two tickets differ from the largest before training.

    Tickets of one encoder overlap because they begin with the same magnitudes. A weight departs if it is large before
    training and dropped nonetheless, or small and kept. Most that depart are near the threshold, whatever the language;
    so chance is to depart as often at each magnitude, independently.

    Returns:
        differs (as in `ticket_transfer.overlaps`), task, task_b, seed, a, b, departed (share of all weights, mean of
        both), jaccard, expected (by chance), above (the Jaccard index, 0 at chance and 1 for equal departures).
    """
    rows = []
    departed = {
        (task, seed, code): _flat(found(study, task, seed, code, plan).masks[plan.main])
        ^ _flat(mask_of(study, task, seed, code, ONE_SHOT, plan))
        for task, seed, code in product(tasks, seeds, study.languages)
    }
    bins = _bins(start_weights(study, tasks[0], seeds[0]))
    sizes = np.bincount(bins)
    counts = {key: np.bincount(bins[one], minlength=len(sizes)) for key, one in departed.items()}
    for differs, one, other in pairs_of(list(departed)):
        a, b = departed[one], departed[other]
        total = a.sum() + b.sum()
        shared = {"jaccard": (a & b).sum(), "expected": (counts[one] * counts[other] / sizes).sum()}
        values = {name: float(ratio(both, total - both)) for name, both in shared.items()}
        places = {"differs": differs, "task": one[0], "task_b": other[0], "seed": one[1], "a": one[2], "b": other[2]}
        rows.append(places | {"departed": total / 2 / len(a)} | values)
    table = pd.DataFrame(rows)
    return table.assign(above=(table["jaccard"] - table["expected"]) / (1 - table["expected"]))


def _bins(weights: dict[str, Tensor]) -> np.ndarray:
    """Number of the magnitude bin of each weight."""
    magnitudes = torch.cat([weight.flatten() for weight in weights.values()]).abs()
    ranks = magnitudes.argsort().argsort().numpy()
    return ranks * min(BINS, len(ranks)) // len(ranks)


def _flat(mask: WeightMask) -> np.ndarray:
    return torch.cat([one.flatten() for one in mask.values()]).numpy()
