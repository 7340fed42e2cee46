"""Weight masks: exact selection of the largest weights, random twins, and weights that come back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from xsub_utils.training.iterative_pruning import Ticket
from xsub_utils.weights.masks import (
    check_weight_mask,
    largest,
    masked_weights,
    random_weight_mask,
    require_weight_mask,
)


@pytest.fixture
def values():
    rng = torch.Generator().manual_seed(0)
    return {"a": torch.randn(30, 40, generator=rng), "b": 1e-6 * torch.randn(7, generator=rng),
            "c": 1e6 * torch.randn(2, 3, 4, generator=rng), "zeros": torch.zeros(5)}  # fmt: skip


def flat(tensors):
    return torch.cat([one.flatten() for one in tensors.values()])


def sorted_away(values, count):
    """By sorting; of equal magnitudes the first."""
    mask = torch.zeros(len(flat(values)), dtype=torch.bool)
    mask[flat(values).abs().argsort(descending=True, stable=True)[:count]] = True
    return mask


@pytest.mark.parametrize("count", [0, 1, 24, 25, 600, 1235, 1236])
def test_exactly_the_largest_are_marked(count, values):
    found = largest(values, count=count)
    assert {name: mask.shape for name, mask in found.items()} == {name: one.shape for name, one in values.items()}
    assert torch.equal(flat(found), sorted_away(values, count))


@pytest.mark.parametrize("count", range(13))
def test_of_ties_the_first_are_taken(count):
    values = {"a": torch.tensor([1.0, -2.0, 2.0, 0.0]), "b": torch.tensor([[2.0, 2.0, -1.0, 1.0]]),
              "c": torch.tensor([0.0, -0.0, torch.inf, -2.0])}  # fmt: skip
    assert torch.equal(flat(largest(values, count=count)), sorted_away(values, count))


def test_floats_that_differ_in_the_last_bit_are_told_apart():
    one = np.float32(0.1)
    values = {"a": torch.tensor([one, np.nextafter(one, np.float32(1)), np.nextafter(one, np.float32(0))])}
    assert [largest(values, count=k)["a"].tolist() for k in (1, 2)] == [[False, True, False], [True, True, False]]


def test_selection_is_that_of_torch():
    torch.manual_seed(0)
    layers = [nn.Linear(50, 60), nn.Linear(60, 20)]
    found = largest({str(i): layer.weight for i, layer in enumerate(layers)}, count=1260)
    prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=4200 - 1260)
    for i, layer in enumerate(layers):
        assert torch.equal(found[str(i)], layer.weight_mask.bool())


def test_a_mask_grows(values):
    first = largest(values, count=100)
    more = largest(values, count=50, besides=first)
    assert torch.equal(flat(more), flat(largest(values, count=150)))
    random = random_weight_mask(first, seed=0)
    grown = largest(values, count=50, besides=random)
    left = {"left": torch.where(flat(random), 0, flat(values))}
    assert torch.equal(flat(grown), flat(random) | largest(left, count=50)["left"])


def test_half_precision_and_views_are_compared_as_floats(values):
    half = {"a": values["a"].bfloat16(), "t": values["a"].T}
    found = largest(half, count=500)
    assert torch.equal(flat(found), sorted_away({name: one.float() for name, one in half.items()}, 500))


@pytest.mark.parametrize(
    ("change", "count", "message"),
    [
        ({}, -1, "count: expected 0 to 1236, .* got -1"),
        ({}, 1237, "count: .* got 1237"),
        ({"a": torch.tensor([torch.nan])}, 1, "got nan in 'a'; has the training diverged"),
    ],
)
def test_bad_values_are_refused(change, count, message, values):
    with pytest.raises(ValueError, match=message):
        largest(values | change, count=count)


def test_a_mask_of_others_is_refused(values):
    with pytest.raises(ValueError, match=r"besides: .* got 'x'"):
        largest(values, count=1, besides={"x": torch.ones(2, dtype=torch.bool)})


def test_a_random_mask_keeps_as_many(values):
    like = largest(values, count=300)
    one, again, other = (random_weight_mask(like, seed=seed) for seed in (0, 0, 1))
    assert flat(one).sum() == 300
    assert torch.equal(flat(one), flat(again)) and not torch.equal(flat(one), flat(other))
    assert one["c"].shape == (2, 3, 4)
    assert {name: int(mask.sum()) for name, mask in one.items()} == {n: int(mask.sum()) for n, mask in like.items()}


def test_random_masks_of_two_masks_overlap_by_chance():
    half = torch.arange(1000) < 500
    one, other = ({"a": mask} for mask in (half, ~half))
    shared = [
        int((random_weight_mask(one, seed=seed)["a"] & random_weight_mask(other, seed=seed)["a"]).sum())
        for seed in range(9)
    ]
    assert abs(np.mean(shared) - 250) < 20


def test_weights_are_zero_inside_and_back_outside():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    before = [value.detach().clone() for value in model.parameters()]
    mask = {"0.weight": torch.tensor([[True, False, True], [False, False, True]])}
    with pytest.raises(KeyError), masked_weights(model, mask):
        assert torch.equal(model[0].weight, torch.where(mask["0.weight"], before[0], 0))
        assert torch.equal(model[0].bias, before[1])
        raise KeyError
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            {"2.weight": torch.ones(2, 3, dtype=torch.bool)},
            "mask: expected names of parameters of the model, got '2.weight'",
        ),
        (
            {"weight": torch.ones(2, 2, dtype=torch.bool)},
            r"mask of shape \(2, 3\) for 'weight', as the parameter, got \(2, 2\)",
        ),
        ({"weight": torch.ones(2, 3)}, "got torch.float32 for 'weight'"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        check_weight_mask(nn.Linear(3, 2), mask)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Ticket(0.5, {}, Path("run")), "mask: .* got a Ticket; a ticket has it as .mask"),
        (torch.ones(2, 3) > 0, "mask: .* got a Tensor; one tensor is a mask of heads"),
        ({"qaa": {"weight": torch.ones(2, 3) > 0}}, "mask: .* got a dict for 'qaa'"),
        ([], "mask: expected parameter name -> bool tensor, got a list"),
    ],
)
def test_what_is_no_weight_mask_is_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        require_weight_mask(mask)
