"""What all measures of two representations of the same examples have in common."""

import inspect
import math

import pytest
import torch
from gaussian import gaussian, related

from xsub_utils.similarity.cca import canonical_scores, pwcca, svcca
from xsub_utils.similarity.retrieval import retrieval_accuracy
from xsub_utils.similarity.rsa import rsa, rsa_regress

NOT_FINITE = "expected finite values, got nan or infinity in 1 of 60 rows, first 2; leave these examples out of both"
MEASURES = {
    "rsa": rsa,
    "rsa euclidean": lambda x, y: rsa(x, y, distance="euclidean", method="spearman"),
    "rsa_regress": lambda x, y: rsa_regress(x, y, references=5).pearson,
    "svcca": svcca,
    "pwcca": pwcca,
    "retrieval": retrieval_accuracy,
    "retrieval by cosine": lambda x, y: retrieval_accuracy(x, y, margin=False),
}
COSINES = [name for name in MEASURES if name not in ("rsa euclidean", "svcca", "pwcca")]
each_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


@each_measure
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4])
def test_constant_representations_have_no_likeness(measure, value):
    x = gaussian(40, 5).float()
    constant = torch.full((40, 5), value) * torch.arange(1, 6)
    constant = constant * (1 + 1e-7 * gaussian(40, 5, 1).float())
    for pair, name in (((constant, x), "x"), ((x, constant), "y"), ((constant, constant), "x, y")):
        with pytest.warns(RuntimeWarning, match=f"^{name}: all examples .*are the same, so that the result is nan"):
            assert math.isnan(measure(*pair))


@each_measure
def test_order_of_examples_does_not_matter(measure):
    x, y = related(others=8)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    if measure is not MEASURES["rsa_regress"]:  # whose references are rows
        assert measure(x[order], y[order]) == pytest.approx(measure(x, y), abs=1e-10)
    assert measure(x, y) > measure(x, y[order]) - 1e-12


@each_measure
def test_precision_and_gradients_do_not_matter(measure):
    x, y = related(others=8)
    expected = measure(x, y)
    assert isinstance(expected, float)
    assert measure(x.requires_grad_(), y) == expected
    assert measure(x.float(), y.float()) == pytest.approx(expected, abs=1e-3)


@each_measure
def test_errors_of_all_measures(measure):
    x, y = related(others=8)
    with pytest.raises(ValueError, match=r"x, y: expected at least \d+ examples, got 1$"):
        measure(x[:1], y[:1])
    for value in (math.nan, math.inf):
        y[2, 3] = value
        with pytest.raises(ValueError, match=f"y: {NOT_FINITE}"):
            measure(x, y)
        with pytest.raises(ValueError, match=f"x: {NOT_FINITE}"):
            measure(y, x)


@pytest.mark.parametrize("name", COSINES)
def test_zeros_have_no_cosine(name):
    x, y = related(others=8)
    y[7] = 0
    with pytest.raises(
        ValueError, match="y: expected rows that have a cosine, got zeros in 1 of 60 rows, first 7; leave"
    ):
        MEASURES[name](x, y)


@pytest.mark.parametrize("measure", [rsa, canonical_scores, retrieval_accuracy])
def test_examples_have_to_match(measure):
    x, y = related(others=8)
    without_shape_checks = inspect.unwrap(measure)
    with pytest.raises(ValueError, match="x, y: expected the same examples, row by row, got 60 and 59 rows"):
        without_shape_checks(x, y[:-1])
