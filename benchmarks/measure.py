"""CPU times of several ways to do the same work, in one process, and their ratios; the model that does it."""

import argparse
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import pandas as pd
import torch
from tqdm import tqdm
from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

CLASSES = 3

Cases = Mapping[Hashable, Callable[[], object]]
Seconds = dict[Hashable, list[float]]


class Shape(Protocol):
    """What a workload says of its encoder; `length` is that of its longest sentence."""

    layers: int
    width: int
    heads: int
    intermediate: int
    length: int


def random_model(
    of: Shape, vocabulary: int, seed: int = 0, deviation: float = 0.02
) -> XLMRobertaForSequenceClassification:
    """An XLM-R classifier with random weights of this standard deviation: its cost does not depend on training."""
    config = XLMRobertaConfig(
        vocab_size=vocabulary,
        hidden_size=of.width,
        num_hidden_layers=of.layers,
        num_attention_heads=of.heads,
        intermediate_size=of.intermediate,
        max_position_embeddings=of.length + 2,
        num_labels=CLASSES,
        initializer_range=deviation,
    )
    torch.manual_seed(seed)
    return XLMRobertaForSequenceClassification(config)


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


def parser(description: str) -> argparse.ArgumentParser:
    """The command line of a script, described by the first line of its docstring."""
    made = argparse.ArgumentParser(description=description.partition("\n")[0])
    made.add_argument("--quick", action="store_true", help="a small part of the work, in seconds; writes nothing")
    return made


def report(rows: Iterable[dict], script: str, *, quick: bool) -> None:
    """Prints the table and, unless it was quick, writes it beside the script."""
    table = pd.DataFrame(list(rows))
    errors = [column for column in table if column.startswith("error")]
    table[errors] = table[errors].map(lambda error: f"{error:.0e}", na_action="ignore")
    table = table.round(3)
    print(table.to_string(index=False))
    if not quick:
        table.to_csv(Path(script).with_suffix(".csv"), index=False)
