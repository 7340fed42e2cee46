"""Notebook 03: how alike two sets of states are, by several measures."""

import warnings
from collections.abc import Sequence

from torch import Tensor

from xsub_utils.similarity import cca, retrieval, rsa
from xsub_utils.similarity.cka import cka
from xsub_utils.study.conditions import Measure

MEASURES = (Measure.CKA, Measure.RSA, Measure.SVCCA, Measure.PWCCA, Measure.RETRIEVAL)  # of the states of two levels
CONTROLLED = (Measure.CKA, Measure.RETRIEVAL)  # what is also measured in subnetworks and the untrained twin


def likeness(x: Tensor, y: Tensor, measures: Sequence[Measure] = (Measure.CKA,)) -> dict[Measure, float]:
    """Measures of two levels; nan, without the usual warning, where a mask without heads makes all sentences alike."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        values = {Measure.CKA: cka(x, y)}
        if Measure.RSA in measures:
            values[Measure.RSA] = rsa.rsa(x, y)
        if {Measure.SVCCA, Measure.PWCCA} & {*measures}:
            scores = cca.canonical_scores(x, y)
            values |= {Measure.SVCCA: scores.svcca, Measure.PWCCA: (scores.pwcca + scores.pwcca_reversed) / 2}
        if Measure.RETRIEVAL in measures:
            directions = retrieval.retrieval_accuracy(x, y), retrieval.retrieval_accuracy(y, x)
            values[Measure.RETRIEVAL] = sum(directions) / 2
    return values


def regressed(x: Tensor, y: Tensor) -> float:
    """Correlation of predicted and true distances to a sixth of the sentences, mean over both directions.

    Nan where fewer than 31 sentences would be left to predict.
    """
    references = len(x) // 6
    if len(x) - references <= 30:
        return float("nan")
    directions = (rsa.rsa_regress(*pair, references=references).pearson for pair in ((x, y), (y, x)))
    return sum(directions) / 2
