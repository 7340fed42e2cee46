"""Sparse fine-tuning beside ordinary fine-tuning, and the selection of the largest weights beside torch's pruning.

Steps are those of transformers' Trainer on the same batches: ordinary ones, and ones that run through a language's
mask and move nothing else.

    python benchmarks/bench_sft.py            # about seven minutes; writes bench_sft.csv beside this file
    python benchmarks/bench_sft.py --quick    # seconds; writes nothing
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from measure import CLASSES, alternate, parser, random_model, ratio, report
from torch import Tensor, nn
from torch.nn.utils import prune

from xsub_utils.models.encoders import quiet
from xsub_utils.training.language_masks import LanguageMask
from xsub_utils.training.rows import Rows
from xsub_utils.training.settings import Settings
from xsub_utils.training.sparse import SparseTrainer
from xsub_utils.training.trainer import EpochTrainer, training_arguments
from xsub_utils.weights.masks import largest, random_weight_mask

LANGUAGES = [f"language {number}" for number in range(6)]


@dataclass(frozen=True)
class Workload:
    """An encoder, its batches, and how often each measurement is repeated."""

    name: str
    layers: int
    width: int
    heads: int
    intermediate: int
    length: int
    vocabulary: int
    steps: int  # for each language
    repetitions: int
    batch_size: int = 64


SMALL = Workload("4 layers, width 96", 4, 96, 12, 192, 16, 800, steps=6, repetitions=5)
WIDE = Workload("4 layers, width 768", 4, 768, 12, 3072, 32, 8000, steps=1, repetitions=3, batch_size=32)
QUICK = replace(SMALL, name="quick", steps=1, repetitions=1)


class RandomRows(Rows):
    """Random sentences of one length, as many batches of each language."""

    def __init__(self, load: Workload):
        rng = torch.Generator().manual_seed(1)
        each = load.steps * load.batch_size
        count = each * len(LANGUAGES)
        ids = torch.randint(5, load.vocabulary, (count, load.length), generator=rng)
        labels = torch.randint(CLASSES, (count,), generator=rng)
        self.tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        self.languages = [language for language in LANGUAGES for _ in range(each)]
        self.lengths = self.tensors["attention_mask"].sum(1).numpy()
        self._ids, self._mask = ids.numpy(), None


def steps(load: Workload, make: Callable[..., EpochTrainer]) -> Tensor:
    """Weights after an epoch."""
    model, settings = random_model(load, load.vocabulary), Settings(epochs=1, batch_size=load.batch_size, eval_size=0)
    with TemporaryDirectory() as folder, quiet():
        arguments = training_arguments(Path(folder), settings, 0)
        arguments.save_strategy = "no"
        make(model, arguments, RandomRows(load), []).train()
    return model.classifier.out_proj.weight.detach()


def masked(load: Workload, mask: Callable[[nn.Module, int], object], through: bool) -> Callable[..., EpochTrainer]:
    """A trainer in which each language has such a mask."""
    model = random_model(load, load.vocabulary)
    found = {one: LanguageMask.of(model, one, mask(model, i), through) for i, one in enumerate(LANGUAGES)}
    return partial(SparseTrainer, masks=found, shared=through, order=("round-robin", 5.0))


def half_of_the_heads(model: nn.Module, number: int) -> Tensor:
    """Another half for each language."""
    config = model.config
    rng = torch.Generator().manual_seed(number)
    size = config.num_hidden_layers * config.num_attention_heads
    order = torch.randperm(size, generator=rng)
    return (order < size // 2).view(config.num_hidden_layers, -1)


def tenth_of_the_weights(model: nn.Module, number: int = 0) -> dict[str, Tensor]:
    """The same for all languages; of the encoder."""
    inside = {name: value.detach() for name, value in model.named_parameters() if name.startswith("roberta.")}
    return largest(inside, count=sum(value.numel() for value in inside.values()) // 10)


def half_of_the_weights(model: nn.Module, number: int) -> dict[str, Tensor]:
    """Another random half of the attention's matrices for each language."""
    like = {
        name: torch.arange(value.numel()).view(value.shape) % 2 == 0
        for name, value in model.named_parameters()
        if "attention" in name and value.dim() == 2
    }
    return random_weight_mask(like, seed=number)


def compare_steps(load: Workload) -> Iterator[dict]:
    """Rows of the table for the steps of one workload."""
    cases = {
        "ordinary": EpochTrainer,
        "half of the heads": masked(load, half_of_the_heads, True),
        "a tenth of the weights (LT-SFT)": masked(load, tenth_of_the_weights, False),
        "half of the attention's weights": masked(load, half_of_the_weights, False),
    }
    work = {name: partial(steps, load, make) for name, make in cases.items()}
    work["ordinary"]()  # warms up
    seconds, _ = alternate(work, load.repetitions)
    for name in list(cases)[1:]:
        expected = "at most 1.1" if "heads" in name else ""
        yield {"model": load.name, **ratio(f"step: {name} / ordinary", expected, seconds, name, "ordinary")}


def compare_selection(layers: int, repetitions: int) -> dict:
    """Half of the weights of as many matrices of 768 by 3,072 numbers: torch's global pruning, and `largest`."""
    rng = torch.Generator().manual_seed(0)
    values = {str(number): torch.randn(3072, 768, generator=rng) for number in range(layers)}
    count = sum(value.numel() for value in values.values()) // 2

    def torchs() -> list[Tensor]:
        modules = []
        for value in values.values():
            modules.append(nn.Linear(1, 1, bias=False))
            modules[-1].weight = nn.Parameter(value.clone())
        prune.global_unstructured([(one, "weight") for one in modules], prune.L1Unstructured, amount=count)
        return [one.weight_mask.bool() for one in modules]

    seconds, found = alternate({"torch": torchs, "ours": lambda: largest(values, count=count)}, repetitions)
    differing = sum(int((a ^ b).sum()) for a, b in zip(found["torch"], found["ours"].values(), strict=True))
    assert differing <= 2e-6 * count, f"{differing} weights are selected otherwise, more than ties explain"
    name = f"{2 * count / 1e6:.0f} M weights"
    return {"model": name, **ratio("selection: torch.nn.utils.prune / ours", "at least 5", seconds, "torch", "ours")}


def main() -> None:
    """Measures, prints and, unless in a hurry, writes the table."""
    quick = parser(__doc__).parse_args().quick
    torch.set_num_threads(1)
    rows = [row for load in ([QUICK] if quick else [SMALL, WIDE]) for row in compare_steps(load)]
    rows.append(compare_selection(2 if quick else 36, 1 if quick else 3))
    report(rows, __file__, quick=quick)


if __name__ == "__main__":
    main()
