"""Centred kernel alignment against gram matrices in float64 numpy, its invariants, and its expectation on noise."""

import re

import numpy as np
import pytest
import torch

from xsub_utils.similarity import cka as cka_module
from xsub_utils.similarity.cka import cka, cka_matrix, minibatch_cka

METHODS = ("gram", "features")


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def levels(size=300, widths=(24, 40, 7), seed=0, dtype=torch.float32):
    """Correlated levels with means far from zero and very different scales."""
    base = noise(size, 12, seed=99, dtype=torch.float64)
    mixed = [base @ noise(12, width, seed=seed + width, dtype=torch.float64) for width in widths]
    found = [10.0**i * (x + noise(*x.shape, seed=seed + i, dtype=torch.float64) + 20) for i, x in enumerate(mixed)]
    return [x.to(dtype) for x in found]


def centred_gram(x, debiased):
    """Doubly centred, or U-centred as by Székely and Rizzo, from their definitions."""
    gram = x.double().numpy() @ x.double().numpy().T
    size = len(gram)
    if not debiased:
        centring = np.eye(size) - 1 / size
        return centring @ gram @ centring
    np.fill_diagonal(gram, 0)
    rows = gram.sum(1)
    gram = gram - rows[:, None] / (size - 2) - rows / (size - 2) + rows.sum() / ((size - 1) * (size - 2))
    np.fill_diagonal(gram, 0)
    return gram


def hsic(x, y, debiased=True):
    product = (centred_gram(x, debiased) * centred_gram(y, debiased)).sum()
    return product / (len(x) * (len(x) - 3)) if debiased else product


def oracle(xs, ys, debiased):
    own = [[hsic(x, x, debiased) for x in side] for side in (xs, ys)]
    cross = np.array([[hsic(x, y, debiased) for y in ys] for x in xs])
    return torch.from_numpy(cross / np.sqrt(np.outer(*own)))


def test_two_features_by_hand():
    """Centred: x = (1, 1, -1, -1), y = (1, -1, 1, -1) and z = x + y / 2; CKA = Σ_i (x·z_i)² / (|x|² |zᵀz|)."""
    x, y = torch.tensor([[1.0], [1], [-1], [-1]]), torch.tensor([[1.0], [-1], [1], [-1]])
    assert cka(x + 3, y, debiased=False) == 0
    assert cka(x + 3, x + y / 2, debiased=False) == pytest.approx(16 / (4 * 5))
    assert cka(x + 3, torch.hstack([x, y]), debiased=False) == pytest.approx(1 / np.sqrt(2))


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_agrees_with_gram_matrices(dtype, tolerance, method, debiased):
    xs, ys = levels(dtype=dtype), levels(widths=(31, 5), seed=7, dtype=dtype)
    found = cka_matrix(xs, ys, debiased=debiased, method=method)
    assert found.dtype == torch.float64 and found.shape == (3, 2)
    torch.testing.assert_close(found, oracle(xs, ys, debiased), rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", [4, 5, 63, 64, 129])
@pytest.mark.parametrize("debiased", [True, False])
def test_blocks_of_any_size(size, debiased, monkeypatch):
    monkeypatch.setattr(cka_module, "_BLOCK", 32)
    xs, ys = levels(size, dtype=torch.float64), levels(size, (3,), seed=5, dtype=torch.float64)
    for method in METHODS:
        found = cka_matrix(xs, ys, debiased=debiased, method=method)
        torch.testing.assert_close(found, oracle(xs, ys, debiased), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("debiased", [True, False])
def test_levels_with_themselves(method, debiased):
    xs = levels()
    found = cka_matrix(xs, debiased=debiased, method=method)
    torch.testing.assert_close(found, cka_matrix(xs, xs, debiased=debiased, method=method), rtol=0, atol=1e-7)
    torch.testing.assert_close(found.diagonal(), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(found, found.T, rtol=0, atol=1e-7)


@pytest.mark.parametrize("size", [4, 10, 200])
def test_many_features_in_float32(size):
    """The debiased estimate is then a small rest of large terms."""
    base = noise(size, 768)
    xs = [base + noise(size, 768, seed=seed) + 50 for seed in (1, 2)]
    found, exact = cka_matrix(xs, method="gram"), cka_matrix([x.double() for x in xs])
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)


def test_many_examples_in_float32():
    """Sums over 4 million entries in float32 alone would be off by 1e-5 and more."""
    base = noise(2000, 32)
    x, y = base + noise(2000, 32, seed=1), base + noise(2000, 32, seed=2)
    exact = cka_matrix([x.double()], [y.double()])
    for method in METHODS:
        torch.testing.assert_close(cka_matrix([x], [y], method=method), exact, rtol=0, atol=1e-7)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_invariant_to_rotation_scale_and_shift(scale, debiased):
    x, _, y = levels(200)
    rotation = torch.linalg.qr(noise(24, 24, dtype=torch.float64)).Q
    moved = ((x.double() @ rotation + 5) * scale).float()
    assert cka(x, moved, debiased=debiased) == pytest.approx(1, abs=1e-6)
    assert cka(moved, y, debiased=debiased) == pytest.approx(cka(x, y, debiased=debiased), abs=1e-6)


@pytest.mark.parametrize(("size", "biased"), [(100, 0.885), (500, 0.607)])
def test_independent_noise(size, biased):
    x, y = noise(size, 768, seed=1), noise(size, 768, seed=2)
    assert cka(x, y, debiased=False) == pytest.approx(biased, abs=0.005)
    assert cka(x, y) == pytest.approx(0, abs=0.03)


def test_debiased_scatters_around_zero():
    found = [cka(noise(20, 50, seed=2 * seed), noise(20, 50, seed=2 * seed + 1)) for seed in range(49)]
    assert min(found) < 0 < max(found)
    assert abs(np.mean(found)) < 3 * np.std(found) / 7


def test_auto_takes_the_cheaper_form(monkeypatch):
    taken = []
    for name in ("_gram_products", "_feature_products"):
        compute = getattr(cka_module, name)
        monkeypatch.setattr(
            cka_module, name, lambda *args, name=name, compute=compute: taken.append(name) or compute(*args)
        )
    few, many = noise(40, 64), noise(400, 16)
    cka(few, few)
    cka(many, many)
    assert taken == ["_gram_products", "_feature_products"]


def test_one_batch_is_the_whole():
    xs, ys = levels(), levels(widths=(31,), seed=7)
    assert torch.equal(minibatch_cka([(xs, ys)]), cka_matrix(xs, ys))
    assert torch.equal(minibatch_cka([(xs, None)]), cka_matrix(xs))


def test_batches_sum_before_they_divide():
    xs, ys, sizes = levels(), levels(widths=(31,), seed=7), (100, 150, 50)
    pieces = [[x.split(sizes) for x in side] for side in (xs, ys)]
    batches = [tuple([x[number] for x in side] for side in pieces) for number in range(3)]
    cross, own = np.zeros(3), np.zeros((4, 1))
    for size, (left, right) in zip(sizes, batches, strict=True):
        cross += [size * hsic(x, right[0]) for x in left]
        own += [[size * hsic(x, x)] for x in [*left, *right]]
    expected = cross / np.sqrt(own[:3, 0] * own[3, 0])
    np.testing.assert_allclose(minibatch_cka(iter(batches))[:, 0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("debiased", [True, False])
def test_constant_level(method, debiased):
    """Also where rounding makes it vary by a unit in the last place."""
    xs = levels(100)
    row = noise(1, 24) + 3
    xs[1] = (row * (1 + 1e-7 * noise(100, 24, seed=3))).float()
    with pytest.warns(RuntimeWarning, match=r"^CKA is nan: xs\[1\] does not vary over the examples$") as caught:
        found = cka_matrix(xs, debiased=debiased, method=method)
    assert len(caught) == 1
    nan = torch.zeros(3, 3, dtype=torch.bool)
    nan[1] = nan[:, 1] = True
    assert torch.equal(found.isnan(), nan)


def test_constants_on_both_sides_make_one_warning():
    x, zero = noise(50, 8), torch.zeros(50, 8)
    expected = "CKA is nan: xs[1] does not vary over the examples; ys[0] does not vary over the examples"
    with pytest.warns(RuntimeWarning, match=re.escape(expected)) as caught:
        found = cka_matrix([x, zero], [zero, x])
    assert len(caught) == 1
    assert found.isnan().tolist() == [[True, False], [True, True]]


def test_small_variance_is_no_constant():
    x = noise(100, 8, dtype=torch.float64)
    assert cka((1000 + x).float(), x.float()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_equally_distant_examples_have_no_debiased_estimate(method):
    with pytest.warns(RuntimeWarning, match=r"xs\[0\] has no debiased HSIC above rounding"):
        found = cka_matrix([torch.eye(6)], [noise(6, 3)], method=method)
    assert found.isnan().all()
    assert not cka_matrix([torch.eye(6)], [noise(6, 3)], debiased=False, method=method).isnan()


def test_leaves_its_input_alone():
    x = noise(50, 8).requires_grad_()
    before = x.detach().clone()
    assert not cka_matrix([x]).requires_grad
    assert torch.equal(x, before)


def test_constant_in_float32_beside_float64():
    constant = (noise(1, 24) + 3) * (1 + 1e-7 * noise(100, 24, seed=3))
    with pytest.warns(RuntimeWarning, match="y does not vary"):
        assert np.isnan(cka(noise(100, 8).double(), constant))


def test_half_precision_is_raised():
    x, y = noise(60, 8).half(), noise(60, 9, seed=1).bfloat16()
    assert cka(x, y) == cka(x.float(), y.float())


X = noise(10, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cka(X, X[:9]), "y: expected the 10 examples of x, got 9 examples"),
        (lambda: cka_matrix([X, X[:9]]), "xs[1]: expected the 10 examples of xs[0], got 9"),
        (lambda: cka_matrix([X], [X, X[:9]]), "ys[1]: expected the 10 examples of xs[0], got 9"),
        (lambda: cka(X[:3], X[:3]), "x: expected at least 4 examples for the debiased estimate, got 3"),
        (lambda: cka(X[:1], X[:1], debiased=False), "x: expected at least 2 examples for the biased estimate, got 1"),
        (lambda: cka(X, X / 0), "y: expected finite values, got nan or infinity"),
        (lambda: cka_matrix([X, X.log()]), "xs[1]: expected finite values"),
        (lambda: cka_matrix([]), "xs: expected one tensor per level, got none"),
        (lambda: cka_matrix([X], []), "ys: expected one tensor per level"),
        (
            lambda: cka_matrix([X], method="grams"),
            "method: expected one of auto, gram, features, got 'grams'; did you mean",
        ),
        (lambda: minibatch_cka([]), "batches: expected at least one batch, got none"),
        (lambda: minibatch_cka([([X], [X]), ([X, X], [X])]), "batches: expected the levels of the first batch"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call()
