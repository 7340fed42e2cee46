"""TracIn scores beside the alternatives, on the same model and examples, in one process with one thread.

What is compared: `influence` with captum's `TracInCP`, with a loop that takes each gradient once, and with the least
time that the multiplications alone would need; all compute inner products over all parameters. And how the time grows.

    pip install captum==0.9.0
    python benchmarks/bench_tracin.py            # about six minutes; writes bench_tracin.csv beside this file
    python benchmarks/bench_tracin.py --quick    # seconds; writes nothing
"""

import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from measure import CLASSES, Seconds, alternate, parser, random_model, ratio, report
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from xsub_utils.attribution.options import InfluenceOptions
from xsub_utils.attribution.tracin import influence

Batch = dict[str, Tensor]
SQUARE = 2048


@dataclass(frozen=True)
class Workload:
    """An encoder, how many examples of one length are compared, and how often each measurement is repeated."""

    name: str
    layers: int
    width: int
    heads: int
    intermediate: int
    length: int
    train: int
    test: int
    target: str
    repetitions: int = 3
    vocabulary: int = 2000
    batch_size: int = 64
    captum_sizes: tuple[int, ...] = (1, 8)  # it goes backward through the whole batch for each of its examples


SMALL = Workload("4 layers, width 128", 4, 128, 4, 512, length=32, train=512, test=64, target="at least 6")
WIDE = Workload("2 layers, width 768", 2, 768, 12, 3072, 128, 48, 32, target="", repetitions=2, captum_sizes=(1,))
BASE = Workload("XLM-R base", 12, 768, 12, 3072, 128, 1024, 64, target="", vocabulary=250_002, batch_size=32)
QUICK = replace(SMALL, name="quick", length=16, train=48, test=8, repetitions=1)


def make_model(load: Workload, seed: int = 0) -> nn.Module:
    """The classifier of a workload."""
    return random_model(load, load.vocabulary, seed, deviation=0.1 if load.width < 200 else 0.03).eval()


def make_batches(load: Workload, examples: int, seed: int) -> list[Batch]:
    """Random sentences of the full length, so that none of the ways gains from padding."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, load.vocabulary, (examples, load.length), generator=rng)
    columns = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.randint(CLASSES, (examples,), generator=rng),
    }
    parts = {name: values.split(load.batch_size) for name, values in columns.items()}
    return [dict(zip(parts, rows, strict=True)) for rows in zip(*parts.values(), strict=True)]


@dataclass(frozen=True)
class Data:
    """Training and test examples."""

    train: list[Batch]
    test: list[Batch]

    @classmethod
    def of(cls, load: Workload) -> "Data":
        return cls(make_batches(load, load.train, 1), make_batches(load, load.test, 2))


def ours(models: list[nn.Module], data: Data, gates: Tensor | None = None, **options) -> Tensor:
    """Scores (test, train); there is memory for all test examples in one turn."""
    chosen = InfluenceOptions(**{"memory": 16e9, "normalize": False} | options)
    return influence(models, data.train, data.test, gates=gates, options=chosen, progress=False).scores


class Logits(nn.Module):
    """The model as captum calls it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(input_ids=ids, attention_mask=mask).logits


def captum(model: nn.Module, data: Data, batch_size: int) -> Tensor:
    """`TracInCP`; its quicker way, `sample_wise_grads_per_batch`, knows neither embeddings nor LayerNorms."""
    try:
        from captum.influence import TracInCP
    except ImportError as error:
        raise SystemExit("This benchmark needs a peer: pip install captum==0.9.0") from error
    names = ("input_ids", "attention_mask", "labels")
    train, test = (
        TensorDataset(*(torch.cat([batch[name] for batch in side]) for name in names))
        for side in (data.train, data.test)
    )
    checkpoints, loss = ["the weights that the model has"], nn.CrossEntropyLoss(reduction="none")
    peer = TracInCP(Logits(model), train, checkpoints, lambda *_: 1.0, loss_fn=loss, batch_size=batch_size)
    return peer.influence(DataLoader(test, batch_size))


def naive(model: nn.Module, data: Data) -> Tensor:
    """Each gradient once, example by example, then a matrix product for each batch."""
    test = torch.cat([gradients(model, batch) for batch in data.test])
    return torch.cat([test @ gradients(model, batch).T for batch in data.train], 1)


def gradients(model: nn.Module, batch: Batch) -> Tensor:
    """(examples, all parameters), by autograd."""
    parameters = list(model.parameters())
    rows = torch.empty(len(batch["labels"]), sum(one.numel() for one in parameters))
    for i, row in enumerate(rows):
        one = {name: values[i : i + 1] for name, values in batch.items()}
        loss = nn.functional.cross_entropy(model(one["input_ids"], one["attention_mask"]).logits, one["labels"])
        torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)], out=row)
    return rows


# The floor: multiplications and additions that no way of computing the same can do without, at the speed of a large
# matrix product. What is element-wise, such as softmax, LayerNorm or the embeddings, is left out.


def linear_layers(load: Workload, heads: int) -> Iterator[tuple[int, int, int]]:
    """Inputs, outputs and the tokens of a sentence on which the logits depend, of every linear layer."""
    inner = load.width * heads // load.heads
    for layer in range(load.layers):
        read = 1 if layer == load.layers - 1 else load.length  # the head reads the first token alone
        yield load.width, inner, read  # queries
        yield from 2 * [(load.width, inner, load.length)]  # keys, values
        yield inner, load.width, read
        yield load.width, load.intermediate, read
        yield load.intermediate, load.width, read
    yield load.width, load.width, 1
    yield load.width, CLASSES, 1


def operations(load: Workload, heads: int | None = None) -> tuple[int, int]:
    """Floating-point operations of the passes of all examples, and of their gradients and inner products.

    A layer with t tokens costs 2 t · inputs · outputs forward, as much backward to its inputs, and as much for the
    gradient of its weights. A pair of gradients costs 2 · inputs · outputs, or 2 t² (inputs + outputs) if they stay
    factors, which then need not be multiplied: whichever is less for all pairs. Attention multiplies queries with keys
    and probabilities with values: 4 · read · length · inner forward, twice that backward.
    """
    heads = load.heads if heads is None else heads
    examples, pairs = load.train + load.test, load.train * load.test
    passes = products = 0
    for inputs, outputs, tokens in linear_layers(load, heads):
        passes += examples * 4 * tokens * inputs * outputs
        written_out = 2 * inputs * outputs * (examples * tokens + pairs)
        products += min(written_out, pairs * 2 * tokens**2 * (inputs + outputs))
    read = [load.length] * (load.layers - 1) + [1]
    passes += examples * sum(12 * tokens * load.length * load.width * heads // load.heads for tokens in read)
    return passes, products


def product(size: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Callable[[], Tensor]:
    """A large square matrix product, ready to run."""
    x, y = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return lambda: x @ y.T


def with_floor(seconds: Seconds, size: int, count: int) -> Seconds:
    """So many operations at the speed of the product in the same turn, beside what was measured."""
    return seconds | {"floor": [turn * count / (2 * size**3) for turn in seconds["product"]]}


def compare(load: Workload) -> list[dict]:
    """All rows of the table for one workload."""
    model, data = make_model(load), Data.of(load)
    exact = ours([copy.deepcopy(model).double()], data)  # warms up, too
    rows = [*compare_ways(load, model, data, exact), *compare_forms(load, model, data, exact)]
    if load.target:
        rows += compare_sizes(load, model, data)
    return [{"model": load.name, **row} for row in rows]


def with_errors(row: dict, result: Tensor, exact: Tensor) -> dict:
    """The row with the largest error of the scores of one case, as a share of the largest score."""
    return row | {"error": float((result.double() - exact).abs().max() / exact.abs().max())}


def compare_ways(load: Workload, model: nn.Module, data: Data, exact: Tensor) -> list[dict]:
    """The peer, whose better batch size counts, the loop, and ours in half precision; once each, as they are slow."""
    ways = {f"captum, batch size {size}": partial(captum, model, data, size) for size in load.captum_sizes}
    peers = list(ways)
    ways |= {"loop": partial(naive, model, data), "ours": partial(ours, [model], data)}
    ways |= {"ours, bfloat16": partial(ours, [model], data, dtype=torch.bfloat16)}
    products = {"float32": product(SQUARE // 4), "bfloat16": product(SQUARE // 4, torch.bfloat16)}
    seconds, results = alternate(ways | products, 1)
    best = min(peers, key=lambda name: seconds[name])
    slower = seconds["bfloat16"][0] / seconds["float32"][0]
    native = "" if slower < 1 else f"bfloat16 is not native here: a matrix product takes {slower:.1f} times as long"
    expected = {best: load.target, "ours, bfloat16": native}
    rows = [
        with_errors(ratio(f"{name} / ours", expected.get(name, ""), seconds, name, "ours"), results[name], exact)
        for name in ways
        if name != "ours"
    ]
    assert all(row["error"] < (0.05 if "bfloat16" in row["ratio of CPU times"] else 1e-4) for row in rows), rows
    return rows


def compare_forms(load: Workload, model: nn.Module, data: Data, exact: Tensor) -> list[dict]:
    """Ours against the floor, and projected."""
    cases = {
        "product": product(SQUARE),
        "ours": partial(ours, [model], data),
        "projection": partial(ours, [model], data, projection=64),
    }
    seconds, results = alternate(cases, load.repetitions)
    seconds = with_floor(seconds, SQUARE, sum(operations(load)))
    correlation = float(torch.corrcoef(torch.stack([results["projection"].flatten().double(), exact.flatten()]))[0, 1])
    projected = f"ours / ours, projection=64 (correlation of scores {correlation:.3f})"
    return [
        with_errors(ratio("ours / floor", "at most 2.5", seconds, "ours", "floor"), results["ours"], exact),
        with_errors(ratio(projected, "", seconds, "ours", "projection"), results["projection"], exact),
    ]


def compare_sizes(load: Workload, model: nn.Module, data: Data) -> list[dict]:
    """How the time grows with examples and checkpoints, and through half of the heads."""
    loads = {"train": replace(load, train=load.train // 2), "test": replace(load, test=load.test // 2)}
    mask = (torch.arange(load.heads) % 2 == 0).repeat(load.layers, 1)
    cases = {name: partial(ours, [model], Data.of(fewer)) for name, fewer in loads.items()}
    cases["ours"] = partial(ours, [model], data)
    cases["heads"] = partial(ours, [model], data, gates=mask)
    cases["checkpoints"] = partial(ours, [model, make_model(load, 1), make_model(load, 2)], data)
    seconds, _ = alternate(cases, load.repetitions)
    whole = sum(operations(load))
    floors = {name: whole / sum(operations(fewer)) for name, fewer in loads.items()}
    floors["heads"] = whole / sum(operations(load, load.heads // 2))
    return [
        *(
            ratio(f"ours: {what}", f"floor {floors[name]:.2f}", seconds, "ours", name)
            for name, what in (
                ("train", f"{load.train} / {load.train // 2} training examples"),
                ("test", f"{load.test} / {load.test // 2} test examples"),
                ("heads", "all / half of the heads"),
            )
        ),
        ratio("ours: 3 checkpoints / 1", "linear 3.00", seconds, "checkpoints", "ours"),
    ]


def clocked(work: Callable[[], Tensor], turns: int) -> list[float]:
    """Seconds of each turn by the clock, until a GPU is done."""
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        work()[0, 0].item()
        seconds.append(time.perf_counter() - start)
    return seconds


def compare_device(load: Workload, device: str) -> list[dict]:
    """By the clock: examples per second, and how near to the speed of the matrix products of a GPU that is."""
    model, data, size = make_model(load).to(device), Data.of(load), 4 * SQUARE
    memory = 0.6 * torch.cuda.mem_get_info()[0] if device == "cuda" else 4e9
    passes, products = operations(load)
    types, rows = (torch.float32, torch.bfloat16), []
    speeds = {dtype: 2 * size**3 / min(clocked(product(size, dtype, device), 5)) for dtype in types}
    for dtype in types:
        work = partial(ours, [model], data, dtype=dtype, memory=memory)
        work()
        turns = clocked(work, load.repetitions)
        floor = passes / speeds[torch.float32] + products / speeds[dtype]  # the passes are those of the model
        each = (load.train + load.test) / statistics.median(turns)
        what = f"{device}, by the clock: {str(dtype)[6:]}, floor / ours: share of the peak"
        seconds = {"ours": turns, "floor": [floor] * len(turns)}
        rows.append({"model": load.name, **ratio(what, f"{each:.0f} examples/s", seconds, "floor", "ours")})
    return rows


def main() -> None:
    """Measures, prints and, unless in a hurry, writes the table."""
    quick = parser(__doc__).parse_args().quick
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="captum")
    rows = [row for load in ([QUICK] if quick else [SMALL, WIDE]) for row in compare(load)]
    if torch.cuda.is_available():
        rows += compare_device(QUICK if quick else BASE, "cuda")
    report(rows, __file__, quick=quick)


if __name__ == "__main__":
    main()
