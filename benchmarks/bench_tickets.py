"""Lottery tickets beside torch's pruning: selection, memory, training steps, and stored masks.

python benchmarks/bench_tickets.py            # about seven minutes; writes bench_tickets.csv beside this file
python benchmarks/bench_tickets.py --quick    # seconds; writes nothing
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from bench_sft import QUICK, SMALL, WIDE, RandomRows, Workload
from measure import alternate, parser, random_model, ratio, report
from torch import Tensor, nn
from torch.nn.utils import prune

from xsub_utils.heads.masks import load_masks, save_masks
from xsub_utils.models.encoders import quiet
from xsub_utils.similarity.weight_overlap import mask_overlap
from xsub_utils.training.masked import mask_permanently
from xsub_utils.training.settings import Settings
from xsub_utils.training.trainer import EpochTrainer, training_arguments
from xsub_utils.weights.criteria import keep_largest
from xsub_utils.weights.prunable import prunable_weights

MATRICES = 36  # of 3,072 x 768 weights: 85 million, those of the layers of BERT base


def weights(count: int, seed: int = 0) -> dict[str, Tensor]:
    """Matrices of random weights, by names as in a model."""
    rng = torch.Generator().manual_seed(seed)
    return {f"encoder.layer.{i}.output.dense.weight": torch.randn(3072, 768, generator=rng) for i in range(count)}


def of_torch(values: dict[str, Tensor]) -> list[Tensor]:
    """Masks of `torch.nn.utils.prune.global_unstructured`."""
    modules = []
    for value in values.values():
        modules.append(nn.Linear(1, 1, bias=False))
        modules[-1].weight = nn.Parameter(value)
    prune.global_unstructured([(one, "weight") for one in modules], prune.L1Unstructured, amount=0.5)
    return [one.weight_mask for one in modules]


def ours(values: dict[str, Tensor]) -> list[Tensor]:
    """Masks of `keep_largest`."""
    return list(keep_largest(values, sparsity=0.5).values())


def selection(count: int, turns: int) -> Iterator[dict]:
    """Rows for the selection of the larger half of the weights: time, and what it adds to the peak of a process."""
    values = weights(count)
    cases = {"torch": lambda: of_torch(values), "ours": lambda: ours(values)}
    seconds, found = alternate(cases, turns)
    differing = sum(int((a.bool() ^ b).sum()) for a, b in zip(found["torch"], found["ours"], strict=True))
    size = sum(one.numel() for one in values.values())
    assert differing <= 2e-6 * size, f"{differing} weights are selected otherwise, more than ties explain"
    name = f"{size / 1e6:.0f} M weights"
    yield {"model": name, **ratio("selection: torch.nn.utils.prune / ours", "at least 10", seconds, "torch", "ours")}
    added = {one: peak(one, max(count, 12)) for one in ("torch", "ours")}
    yield {
        "model": name,
        "ratio of CPU times": "memory of the selection in MB, added to the weights: torch / ours",
        "expected": "at least 2",
        "median": added["torch"] / added["ours"],
        "seconds above": added["torch"],
        "seconds below": added["ours"],
        "turns": 1,
    }


def peak(case: str, count: int) -> float:
    """MB that a selection adds to the peak of a fresh process that holds the weights."""
    command = [sys.executable, __file__, "--memory", case, str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent).stdout)


def measure_peak(case: str, count: int) -> None:
    """Prints it, in that process."""
    torch.set_num_threads(1)
    small = weights(1)
    {"torch": of_torch, "ours": ours}[case](small)  # what is loaded on first use
    values = weights(count)
    before = memory("VmRSS")
    found = {"torch": of_torch, "ours": ours}[case](values)
    print(memory("VmHWM") - before)
    del found


def memory(what: str) -> float:
    """MB that this process holds (VmRSS), or held at most (VmHWM); `getrusage` would count that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{what}:\s+(\d+) kB", status)[1]) / 1024


def steps(load: Workload, prepare: Callable[[nn.Module], None]) -> Tensor:
    """Weights after an epoch."""
    model, settings = random_model(load, load.vocabulary), Settings(epochs=1, batch_size=load.batch_size, eval_size=0)
    prepare(model)
    with TemporaryDirectory() as folder, quiet():
        arguments = training_arguments(Path(folder), settings, 0)
        arguments.save_strategy = "no"
        EpochTrainer(model, arguments, RandomRows(load), []).train()
    return model.classifier.out_proj.weight.detach()


def of_pruning(model: nn.Module) -> None:
    """The forward pass multiplies weights and masks, as in the published code."""
    for name, mask in keep_largest(prunable_weights(model), sparsity=0.5).items():
        prune.custom_from_mask(model.get_submodule(name.removesuffix(".weight")), "weight", mask)


def ticket(model: nn.Module) -> None:
    """Half of the weights."""
    mask_permanently(model, keep_largest(prunable_weights(model), sparsity=0.5))


def training(load: Workload) -> Iterator[dict]:
    """Rows for the steps of one workload."""
    work = {name: partial(steps, load, prepare) for name, prepare in
            {"dense": lambda model: None, "ticket": ticket, "torch": of_pruning}.items()}  # fmt: skip
    work["dense"]()  # warms up
    seconds, _ = alternate(work, load.repetitions)
    for above, expected in (("ticket", "at most 1.1"), ("torch", "")):
        what = {"ticket": "step: ticket / dense", "torch": "step: torch.nn.utils.prune / dense"}[above]
        yield {"model": load.name, **ratio(what, expected, seconds, above, "dense")}


def storage(count: int) -> Iterator[dict]:
    """Size of a stored mask, and seconds to compare two."""
    a, b = (keep_largest(weights(count, seed), sparsity=0.5) for seed in (0, 1))
    with TemporaryDirectory() as folder:
        save_masks(Path(folder) / "mask.npz", a, {})
        size = (Path(folder) / "mask.npz").stat().st_size / 1e6
        assert all(torch.equal(one, a[name]) for name, one in load_masks(Path(folder) / "mask.npz")[0].items())
    start = time.perf_counter()
    mask_overlap(a, b)
    seconds = time.perf_counter() - start
    name = f"{sum(one.numel() for one in a.values()) / 1e6:.0f} M weights"
    yield {
        "model": name,
        "ratio of CPU times": "stored mask in MB",
        "expected": "at most 11",
        "median": size,
        "turns": 1,
    }
    yield {"model": name, "ratio of CPU times": "seconds for the Jaccard index of two masks", "expected": "below 0.2",
           "median": seconds, "turns": 1}  # fmt: skip


def main() -> None:
    """Measures, prints and, unless in a hurry, writes the table."""
    command = parser(__doc__)
    command.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    args = command.parse_args()
    if args.memory:
        measure_peak(args.memory[0], int(args.memory[1]))
        return
    torch.set_num_threads(1)
    count, turns = (2, 1) if args.quick else (MATRICES, 3)
    rows = [*selection(count, turns), *storage(count)]
    rows += [row for load in ([QUICK] if args.quick else [SMALL, WIDE]) for row in training(load)]
    report(rows, __file__, quick=args.quick)


if __name__ == "__main__":
    main()
