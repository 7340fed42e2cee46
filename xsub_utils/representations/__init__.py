"""Hidden states of a model, and measures of how alike two representations of the same examples are."""

from xsub_utils.representations.canonical import CanonicalScores, canonical_scores, pwcca, svcca
from xsub_utils.representations.similarity import RegressionScores, retrieval_accuracy, rsa, rsa_regress
from xsub_utils.representations.states import hidden_states, pooled, pooled_states

__all__ = [
    "CanonicalScores",
    "RegressionScores",
    "canonical_scores",
    "hidden_states",
    "pooled",
    "pooled_states",
    "pwcca",
    "retrieval_accuracy",
    "rsa",
    "rsa_regress",
    "svcca",
]
