"""CPU times of several ways to do the same work, in one process, and their ratios."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping

from tqdm import tqdm

Cases = Mapping[Hashable, Callable[[], object]]
Seconds = dict[Hashable, list[float]]


def alternate(cases: Cases, turns: int) -> tuple[Seconds, dict[Hashable, object]]:
    """CPU seconds and last result of each case, run in turns so that a busy spell meets them all."""
    seconds, results = {name: [] for name in cases}, {}
    for name in tqdm([name for _ in range(turns) for name in cases], leave=False):
        start = time.process_time()
        results[name] = cases[name]()
        seconds[name].append(time.process_time() - start)
    return seconds, results


def ratio(what: str, expected: str, seconds: Seconds, numerator: Hashable, denominator: Hashable) -> dict:
    """One row of a table: how two cases compare, turn by turn."""
    ratios = [above / below for above, below in zip(seconds[numerator], seconds[denominator], strict=True)]
    return {
        "ratio of CPU times": what,
        "expected": expected,
        "median": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "seconds above": statistics.median(seconds[numerator]),
        "seconds below": statistics.median(seconds[denominator]),
        "turns": len(ratios),
    }
