"""Stitching beside the published procedure, on the same models and data, in one process with one thread.

What is compared: the training of a map at every level with the published procedure, which runs both models in full
in every step; and our own procedure without its shared or kept states.

    python benchmarks/bench_stitch.py            # writes bench_stitch.csv beside this file
    python benchmarks/bench_stitch.py --quick    # seconds; writes nothing
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import torch
from measure import alternate, parser, random_model, ratio, report
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    XLMRobertaForSequenceClassification,
)
from transformers.masking_utils import eager_mask

from xsub_utils.evaluation.scores import predictions
from xsub_utils.stitching.halves import StateCache
from xsub_utils.stitching.maps import Stitched, stitch, stitch_fronts
from xsub_utils.stitching.scores import stitched_score

Model = XLMRobertaForSequenceClassification
Batch = dict[str, Tensor]
PAD = 1
VOCABULARY = 1000
LR, LAST_LR = 3e-4, 1e-5
FRONTS = 4


@dataclass(frozen=True)
class Workload:
    """Two encoders of one size, the sentences that they read, and how often each measurement is repeated."""

    name: str
    layers: int
    heads: int
    width: int
    intermediate: int
    examples: int
    length: int
    batch_size: int
    epochs: int
    repetitions: int


WORKLOADS = [
    Workload("4 x 12 heads, width 96", 4, 12, 96, 192, 256, length=24, batch_size=32, epochs=10, repetitions=2),
    Workload("4 x 12 heads, width 768", 4, 12, 768, 3072, 16, length=32, batch_size=8, epochs=10, repetitions=1),
]


@dataclass(frozen=True)
class Pair:
    """Two models, a head mask of each, and sentences that carry the masked end model's own answers as labels."""

    front: Model
    end: Model
    front_mask: Tensor
    end_mask: Tensor
    batches: list[Batch]

    @property
    def gates(self) -> dict[str, Tensor]:
        return {"front_gates": self.front_mask, "end_gates": self.end_mask}


def make_pair(load: Workload) -> Pair:
    """Random weights, as the cost does not depend on training; about two heads of three are kept."""
    rng = torch.Generator().manual_seed(0)
    front, end = make_model(load, 1), make_model(load, 2)
    front_mask, end_mask = (torch.rand(load.layers, load.heads, generator=rng) > 1 / 3 for _ in range(2))
    batches = make_batches(load)
    answers, _ = predictions(end, batches, gates=end_mask)
    sizes = [len(batch["input_ids"]) for batch in batches]
    batches = [batch | {"labels": answer} for batch, answer in zip(batches, answers.split(sizes), strict=True)]
    return Pair(front, end, front_mask, end_mask, batches)


def make_model(load: Workload, seed: int) -> Model:
    """An XLM-R classifier that is not trained."""
    deviation = 0.1 if load.width < 200 else 0.05
    model = random_model(load, VOCABULARY, seed, deviation).eval().requires_grad_(False)
    model.set_attn_implementation("eager")  # as the published procedure has it; the faster one for heads this small
    return model


def make_batches(load: Workload) -> list[Batch]:
    """Random sentences of a quarter of the length to all of it, in batches by length."""
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(load.length // 4, load.length + 1, (load.examples,), generator=rng).sort().values
    ids = torch.randint(5, VOCABULARY, (load.examples, load.length), generator=rng)
    return [_pad(*rows) for rows in zip(ids.split(load.batch_size), lengths.split(load.batch_size), strict=True)]


def _pad(ids: Tensor, lengths: Tensor) -> Batch:
    longest = int(lengths.max())
    mask = torch.arange(longest) < lengths[:, None]
    inputs = ids[:, :longest].masked_fill(~mask, PAD)
    return {"input_ids": inputs, "attention_mask": mask.long(), "labels": torch.zeros(len(ids), dtype=torch.long)}


# The published procedure on today's transformers, without the faults that would lead to other maps: both models in
# full at every step, eager attention, a mask multiplied with the probabilities.


def masked_probabilities(module, query, key, value, attention_mask, scaling, **_options):
    """Attention as transformers 4 computed it with a `head_mask`."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = scores.softmax(-1) * module.head_mask.view(-1, 1, 1)
    return (probabilities @ value).transpose(1, 2).contiguous(), probabilities


AttentionInterface.register("masked_probabilities", masked_probabilities)
AttentionMaskInterface.register("masked_probabilities", eager_mask)


def published(pair: Pair, level: int, epochs: int) -> Stitched:
    """A map by least squares, then trained in the batches and the order that ours uses."""
    models = ((pair.front, pair.front_mask), (pair.end, pair.end_mask))
    for model, mask in models:
        model.set_attn_implementation("masked_probabilities")
        for layer, row in zip(model.roberta.encoder.layer, mask, strict=True):
            layer.attention.self.head_mask = row.float()
    stitched = train_in_full(pair, level, epochs)
    for model, _ in models:
        model.set_attn_implementation("eager")
    return stitched


def train_in_full(pair: Pair, level: int, epochs: int) -> Stitched:
    """Only the map takes gradients, but all layers of both models run."""
    stitching_layer = initial_map(pair, level)
    optimizer = torch.optim.Adam(stitching_layer.parameters(), LR)
    steps = epochs * len(pair.batches)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, LAST_LR)
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        for i in rng.permutation(len(pair.batches)):
            logits = stitched_logits(pair, level, pair.batches[i], stitching_layer)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, pair.batches[i]["labels"]).backward()
            optimizer.step()
            schedule.step()
    return Stitched(level, stitching_layer.weight.detach(), stitching_layer.bias.detach())


def stitched_logits(pair: Pair, level: int, batch: Batch, stitching_layer: nn.Module) -> Tensor:
    """Both models in full, the output of a layer of the second replaced."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    states = layer_output(pair.front, level, inputs)
    replaced = pair.end.roberta.encoder.layer[level - 1]
    with replaced.register_forward_hook(lambda *_: stitching_layer(states)):
        return pair.end(**inputs).logits


@torch.no_grad()
def layer_output(model: Model, level: int, inputs: Batch) -> Tensor:
    """Output of a layer, by a hook."""
    found = []
    with model.roberta.encoder.layer[level - 1].register_forward_hook(lambda *call: found.append(call[2])):
        model(**inputs)
    return found[0]


def initial_map(pair: Pair, level: int) -> nn.Linear:
    """Least squares on the tokens that are not padding."""
    sides = []
    for model in (pair.front, pair.end):
        inputs = [{name: batch[name] for name in ("input_ids", "attention_mask")} for batch in pair.batches]
        parts = [layer_output(model, level, one)[one["attention_mask"] == 1] for one in inputs]
        sides.append(torch.cat(parts).double())
    x, y = sides
    weight = torch.linalg.pinv(x - x.mean(0), rtol=1e-6) @ (y - y.mean(0))
    layer = nn.Linear(*weight.shape)
    layer.weight.data = weight.T.float().contiguous()
    layer.bias.data = (y.mean(0) - x.mean(0) @ weight).float()
    return layer


def ours(pair: Pair, level: int, epochs: int, **options) -> Stitched:
    """With states of its own, or of the given cache."""
    return stitch(pair.front, pair.end, pair.batches, level=level, epochs=epochs, lr=LR, **pair.gates, **options)


def compare(load: Workload) -> list[dict]:
    """All rows of the table for one workload."""
    pair = make_pair(load)
    ours(pair, load.layers, 1)  # warms up
    parts = (compare_training, compare_fronts, compare_memory, compare_sharing)
    return [{"model": load.name, **line} for part in parts for line in part(load, pair)]


def compare_training(load: Workload, pair: Pair) -> list[dict]:
    """The published procedure, level by level as it is run; ours at each level alone, and at all with one cache."""
    levels = range(1, load.layers + 1)
    cases = {("published", level): partial(published, pair, level, load.epochs) for level in levels}
    cases |= {("ours", level): partial(ours, pair, level, load.epochs) for level in levels}
    cases["ours"] = partial(ours_at_all, pair, levels, load.epochs)
    seconds, results = alternate(cases, load.repetitions)
    check_maps(pair, [(results["published", level], results["ours"][level - 1]) for level in levels])
    seconds["published"] = [sum(turn) for turn in zip(*(seconds["published", level] for level in levels), strict=True)]
    return [
        ratio("all levels: published / ours", "at least 4", seconds, "published", "ours"),
        *(
            ratio(f"level {level} alone: published / ours", "", seconds, ("published", level), ("ours", level))
            for level in levels
        ),
    ]


def ours_at_all(pair: Pair, levels: range, epochs: int) -> list[Stitched]:
    """One map per level; both models read the data once."""
    cache = StateCache(levels=levels)
    return [ours(pair, level, epochs, cache=cache) for level in levels]


def check_maps(pair: Pair, maps: list[tuple[Stitched, Stitched]]) -> None:
    """Raises unless both procedures led to the same accuracy, and to the same map but for rounding."""
    for right, found in maps:
        for part, other in ((found.weight, right.weight), (found.bias, right.bias)):
            error = float((part - other).norm() / other.norm())
            assert error < 0.01, f"maps of level {found.level} differ by {error:.1%}"
        scores = [stitched_score(one, pair.front, pair.end, pair.batches, **pair.gates) for one in (right, found)]
        assert scores[0] == scores[1], f"accuracies of level {found.level}: published {scores[0]}, ours {scores[1]}"


def compare_fronts(load: Workload, pair: Pair) -> list[dict]:
    """Several fronts of one end, as a study has them: each by the published procedure, and all at once."""
    rng, level = torch.Generator().manual_seed(3), load.layers // 2
    masks = [torch.rand(pair.front_mask.shape, generator=rng) > 1 / 3 for _ in range(FRONTS)]
    pairs = [replace(pair, front_mask=mask) for mask in masks]
    fronts = [(pair.front, mask) for mask in masks]
    options = {"end_gates": pair.end_mask, "epochs": load.epochs, "lr": LR}
    cases = {
        "published": lambda: [published(one, level, load.epochs) for one in pairs],
        "alone": lambda: [ours(one, level, load.epochs) for one in pairs],
        "together": lambda: stitch_fronts(fronts, pair.end, pair.batches, level=level, **options),
    }
    seconds, results = alternate(cases, load.repetitions)
    for one, right, found in zip(pairs, results["published"], results["together"], strict=True):
        check_maps(one, [(right, found)])
    what = f"level {level}, {FRONTS} fronts of one end: {{}} / ours, together"
    return [
        ratio(what.format("published"), "at least 4", seconds, "published", "together"),
        ratio(what.format("ours, each alone"), "", seconds, "alone", "together"),
    ]


def compare_memory(load: Workload, pair: Pair) -> list[dict]:
    """What it costs to keep no states."""
    level = load.layers // 2
    cases = {
        "none": lambda: ours(pair, level, load.epochs, cache=StateCache(max_bytes=0)),
        "all": lambda: ours(pair, level, load.epochs),
    }
    seconds, results = alternate(cases, load.repetitions)
    assert torch.equal(results["none"].weight, results["all"].weight), "kept states give another map"
    return [ratio(f"level {level}: ours, no states kept / ours", "", seconds, "none", "all")]


def compare_sharing(load: Workload, pair: Pair) -> list[dict]:
    """Two fronts and two ends at all levels, without training: each pair alone, and with one cache."""

    def pairs(make_cache: Callable[[], StateCache | None]) -> None:
        cache = make_cache()
        swapped = replace(pair, front_mask=pair.end_mask, end_mask=pair.front_mask)
        for level, front, end in product(range(load.layers + 1), (pair, swapped), (pair, swapped)):
            ours(replace(pair, front_mask=front.front_mask, end_mask=end.end_mask), level, 0, cache=cache)

    levels = range(load.layers + 1)
    cases = {"alone": partial(pairs, lambda: None), "shared": partial(pairs, lambda: StateCache(levels=levels))}
    seconds, _ = alternate(cases, load.repetitions)
    return [ratio("2 x 2 pairs, closed form: each alone / one cache", "", seconds, "alone", "shared")]


def main() -> None:
    """Measures, prints and, unless in a hurry, writes the table."""
    quick = parser(__doc__).parse_args().quick
    torch.set_num_threads(1)
    loads = [replace(WORKLOADS[0], examples=96, epochs=3, repetitions=1)] if quick else WORKLOADS
    report([line for load in loads for line in compare(load)], __file__, quick=quick)


if __name__ == "__main__":
    main()
