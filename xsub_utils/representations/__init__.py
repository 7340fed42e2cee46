"""Hidden states of a model, and measures of how alike two representations of the same examples are."""

from xsub_utils.representations.similarity import (
    RegressionScores,
    pwcca,
    retrieval_accuracy,
    rsa,
    rsa_regress,
    svcca,
)
from xsub_utils.representations.states import hidden_states, pooled_states

__all__ = [
    "RegressionScores",
    "hidden_states",
    "pooled_states",
    "pwcca",
    "retrieval_accuracy",
    "rsa",
    "rsa_regress",
    "svcca",
]
