"""Centred kernel alignment beside its alternatives, on the same representations, in one process with one thread.

What is compared: `cka_matrix` with the fastest package that could be found, pytorch-cka, and with the published
procedure, one pair of gram matrices at a time; how its time grows; and the memory that it takes.

    pip install pytorch-cka==1.1.3
    python benchmarks/bench_cka.py            # about four minutes; writes bench_cka.csv beside this file
    python benchmarks/bench_cka.py --quick    # seconds; writes nothing
"""

import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from measure import alternate, parser, ratio, report
from torch import Tensor

from xsub_utils.similarity.cka import cka_matrix

WIDTH = 768
LEVELS = 13
Levels = list[Tensor]


def make_levels(examples: int, seed: int, count: int = LEVELS) -> Levels:
    """Random levels, each a noisy copy of the one below; all models start from the same inputs."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, WIDTH, generator=torch.Generator().manual_seed(0)) + 0.3
    levels = []
    for _ in range(count):
        x = x + 0.5 * torch.randn(x.shape, generator=rng)
        levels.append(x)
    return levels


def peer() -> Callable[[Levels, Levels], Tensor]:
    """`cka_from_features` of pytorch-cka, which is debiased."""
    try:
        from cka import cka_from_features
    except ImportError as error:
        raise SystemExit("This benchmark needs a peer: pip install pytorch-cka==1.1.3") from error
    return cka_from_features


def published(xs: Levels, ys: Levels) -> Tensor:
    """Biased, as the published scripts compute it: two gram matrices for every pair, doubly centred, in numpy."""
    arrays = [[x.numpy() for x in side] for side in (xs, ys)]
    return torch.tensor([[published_pair(x, y) for y in arrays[1]] for x in arrays[0]], dtype=torch.float64)


def published_pair(x: np.ndarray, y: np.ndarray) -> float:
    """Alignment of two representations."""
    k, l = (center(z @ z.T) for z in (x, y))  # noqa: E741
    return float((k * l).sum() / (np.linalg.norm(k) * np.linalg.norm(l)))


def center(gram: np.ndarray) -> np.ndarray:
    """The gram matrix of the centred features."""
    return gram - gram.mean(0) - gram.mean(1, keepdims=True) + gram.mean()


def compare_packages(examples: int, turns: int) -> list[dict]:
    """The fastest package, on float64, where it is as exact as ours on float32, and on float32."""
    xs, ys = make_levels(examples, 1), make_levels(examples, 2)
    double = [[x.double() for x in side] for side in (xs, ys)]
    cases = {
        "float64": partial(peer(), *double),
        "float32": partial(peer(), xs, ys),
        "ours": partial(cka_matrix, xs, ys),
    }
    seconds, results = alternate(cases, turns)
    exact = cka_matrix(*double)
    errors = {name: float((result - exact).abs().max()) for name, result in results.items()}
    assert errors["float64"] < 1e-6 and errors["ours"] < 1e-6, f"results differ: {errors}"
    what = "debiased: pytorch-cka, {} / ours"
    return [
        with_errors(ratio(what.format(name), expected, seconds, name, "ours"), errors, name, "ours")
        for name, expected in (("float64", "at least 5"), ("float32", ""))
    ]


def compare_published(examples: int, turns: int) -> list[dict]:
    """The published procedure, on float32 as it gets them from the model."""
    xs, ys = make_levels(examples, 1), make_levels(examples, 2)
    cases = {"published": partial(published, xs, ys), "ours": partial(cka_matrix, xs, ys, debiased=False)}
    seconds, results = alternate(cases, turns)
    exact = cka_matrix([x.double() for x in xs], [y.double() for y in ys], debiased=False)
    errors = {name: float((result - exact).abs().max()) for name, result in results.items()}
    assert errors["published"] < 1e-4 and errors["ours"] < 1e-6, f"results differ: {errors}"
    row = ratio("biased: published / ours", "at least 10", seconds, "published", "ours")
    return [with_errors(row, errors, "published", "ours")]


def compare_sizes(examples: list[int], turns: int) -> list[dict]:
    """How the time grows with the examples, from the first number on, and with the levels."""
    sides = {size: (make_levels(size, 1), make_levels(size, 2)) for size in examples}
    cases = {size: partial(cka_matrix, *sides[size]) for size in examples}
    xs, ys = sides[examples[0]]
    cases |= {"half": partial(cka_matrix, xs[: LEVELS // 2], ys[: LEVELS // 2]), "self": partial(cka_matrix, xs)}
    seconds, _ = alternate(cases, turns)
    first = examples[0]
    rows = [
        ratio(f"ours: {size:,} / {first:,} examples", f"square {(size / first) ** 2:.2f}", seconds, size, first)
        for size in examples[1:]
    ]
    levels = f"ours: {LEVELS} x {LEVELS} / {LEVELS // 2} x {LEVELS // 2} levels"
    return [
        *rows,
        ratio(levels, f"linear {LEVELS / (LEVELS // 2):.2f}", seconds, first, "half"),
        ratio("ours: two models / one with itself", "linear 2.00", seconds, first, "self"),
    ]


def measure_memory(examples: int) -> dict:
    """Peak memory beyond that of the input, in a fresh process."""
    command = [sys.executable, __file__, "--peak", str(examples)]
    peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    what = f"memory: peak beyond the input of {examples:,} examples, MB"
    return {"ratio of CPU times": what, "expected": "under 1000", "median": peak, "turns": 1}


def peak(examples: int) -> float:
    """MB that one call adds to the largest resident size of this process so far."""
    xs, ys = make_levels(examples, 1), make_levels(examples, 2)
    cka_matrix([x[:300] for x in xs], [y[:300] for y in ys])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cka_matrix(xs, ys)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def with_errors(row: dict, errors: dict, above: str, below: str) -> dict:
    """The row with the errors of its two cases."""
    return row | {"error above": errors[above], "error below": errors[below]}


def main() -> None:
    """Measures, prints and, unless in a hurry, writes the table."""
    command = parser(__doc__)
    command.add_argument("--peak", type=int, metavar="EXAMPLES", help="print the memory of one call and end")
    options = command.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        return print(peak(options.peak))
    size, turns, sizes, slow = (300, 1, [300, 600], 2000) if options.quick else (2000, 3, [2000, 500, 4000, 8192], 8192)
    memory = measure_memory(slow)  # first: a child process starts with the peak of its parent as its own
    rows = [*compare_packages(size, turns), *compare_published(size, turns), *compare_sizes(sizes, min(turns, 2))]
    report([*rows, memory], __file__, quick=options.quick)


if __name__ == "__main__":
    main()
