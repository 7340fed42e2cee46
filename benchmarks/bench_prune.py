"""Head pruning beside its alternatives, on the same model and the same data, in one process with one thread.

What is compared: per-example with per-batch importance; the search for a subnetwork with the published
procedure, whose masks it has to find; and models without some of their heads with the full model.

    python benchmarks/bench_prune.py            # about three minutes; writes bench_prune.csv beside this file
    python benchmarks/bench_prune.py --quick    # seconds; writes nothing
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from measure import CLASSES, alternate, parser, random_model, ratio, report
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    XLMRobertaForSequenceClassification,
)
from transformers.masking_utils import eager_mask

from xsub_utils.heads.removal import remove_heads
from xsub_utils.heads.search import Subnetwork, find_subnetwork, head_importance

Model = XLMRobertaForSequenceClassification
Batch = dict[str, Tensor]
PAD = 1
VOCABULARY = 2000


@dataclass(frozen=True)
class Workload:
    """An encoder, the sentences that it reads and how often each measurement is repeated."""

    name: str
    layers: int
    heads: int
    width: int
    intermediate: int
    examples: int
    length: int
    batch_size: int
    repetitions: int


WORKLOADS = [
    Workload("6 x 8 heads, width 96", 6, 8, 96, 384, examples=192, length=32, batch_size=64, repetitions=5),
    Workload("4 x 12 heads, width 768", 4, 12, 768, 3072, examples=4, length=128, batch_size=4, repetitions=3),
]


def make_batches(load: Workload, bucket: bool = True) -> list[Batch]:
    """Random sentences of a quarter of the length to all of it, in batches by length or as they come."""
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(load.length // 4, load.length + 1, (load.examples,), generator=rng)
    ids = torch.randint(5, VOCABULARY, (load.examples, load.length), generator=rng)
    labels = torch.randint(CLASSES, (load.examples,), generator=rng)
    order = lengths.argsort() if bucket else torch.arange(load.examples)
    return [_pad(ids[rows], lengths[rows], labels[rows]) for rows in order.split(load.batch_size)]


def _pad(ids: Tensor, lengths: Tensor, labels: Tensor) -> Batch:
    longest = int(lengths.max())
    mask = torch.arange(longest) < lengths[:, None]
    inputs = ids[:, :longest].masked_fill(~mask, PAD)
    return {"input_ids": inputs, "attention_mask": mask.long(), "labels": labels}


# The published procedure, that of `run_bertology.py` and the scripts derived from it, on today's transformers:
# eager attention, a mask multiplied with the probabilities, gradients in all parameters.


def masked_probabilities(module, query, key, value, attention_mask, scaling, **_options):
    """Attention as transformers 4 computed it with a `head_mask`."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = scores.softmax(-1) * module.head_mask.view(-1, 1, 1)
    return (probabilities @ value).transpose(1, 2).contiguous(), probabilities


AttentionInterface.register("masked_probabilities", masked_probabilities)
AttentionMaskInterface.register("masked_probabilities", eager_mask)


def published_search(
    model: Model, batches: list[Batch], amount: float = 0.1, threshold: float = 0.0, reset: bool = True
) -> list[Tensor]:
    """All masks tried, the failing one included; without `reset` the gradients of a mask pile up."""
    model.set_attn_implementation("masked_probabilities")
    masks = [torch.ones(model.config.num_hidden_layers, model.config.num_attention_heads)]
    importance, score = published_importance(model, batches, masks[0], reset)
    original = score
    while score >= threshold * original and masks[-1].any():
        mask = masks[-1].clone()
        importance[mask == 0] = torch.inf
        order = importance.view(-1).argsort()[: max(1, int(mask.numel() * amount))]
        mask.view(-1)[order] = 0
        importance, score = published_importance(model, batches, mask, reset)
        masks.append(mask)
    return masks


def published_importance(model: Model, batches: list[Batch], mask: Tensor, reset: bool) -> tuple[Tensor, float]:
    """Importance per layer norm and accuracy, in one pass."""
    mask = mask.clone().requires_grad_()
    for layer, row in zip(model.roberta.encoder.layer, mask, strict=True):
        layer.attention.self.head_mask = row
    importance, correct, examples = torch.zeros_like(mask), 0, 0
    for batch in batches:
        model.zero_grad()
        if reset:
            mask.grad = None
        output = model(**batch)
        output.loss.backward()
        importance += mask.grad.abs()
        correct += int((output.logits.argmax(-1) == batch["labels"]).sum())
        examples += len(batch["labels"])
    return importance / (importance.norm(dim=-1, keepdim=True) + 1e-20), correct / examples


def compare(load: Workload) -> list[dict]:
    """All rows of the table for one workload."""
    model, batches = random_model(load, VOCABULARY, deviation=0.05).eval(), make_batches(load)
    head_importance(model, batches)  # warms up
    parts = (compare_importance, compare_searches, compare_removal)
    return [{"model": load.name, **line} for part in parts for line in part(load, model, batches)]


def compare_importance(load: Workload, model: Model, batches: list[Batch]) -> list[dict]:
    """Importance per example and per batch."""
    cases = {per: partial(head_importance, model, batches, per=per) for per in ("example", "batch")}
    seconds, _ = alternate(cases, 3 * load.repetitions)
    return [ratio("importance: per example / per batch", "at most 1.1", seconds, "example", "batch")]


def compare_searches(load: Workload, model: Model, batches: list[Batch]) -> list[dict]:
    """Searches down to no heads: in the same batches, and each in the batches that it would make."""
    search = partial(find_subnetwork, model, batches, retain=0)
    published = partial(published_search, random_model(load, VOCABULARY, deviation=0.05).eval())
    unsorted = make_batches(replace(load, batch_size=load.batch_size // 2), bucket=False)
    cases = {
        "published": partial(published, batches),
        "ours": partial(search, per="batch"),
        "published, unsorted": partial(published, unsorted),
        "ours, per example": search,
    }
    seconds, results = alternate(cases, load.repetitions)
    check_masks(results["published"], results["ours"])
    same, shipped = "search: published / ours", "search: published, unsorted / ours, bucketed"
    return [
        ratio(same, "at least 1.5", seconds, "published", "ours"),
        ratio(shipped, "at least 1.5", seconds, "published, unsorted", "ours, per example"),
    ]


def check_masks(published: list[Tensor], ours: Subnetwork) -> None:
    """Raises unless both searches went through the same masks."""
    for theirs, step in zip(published, ours.trajectory, strict=True):
        assert torch.equal(theirs.bool(), step.mask), f"masks of {step.kept} heads differ"


def compare_removal(load: Workload, model: Model, batches: list[Batch]) -> list[dict]:
    """Forward passes of the full model and of models with a share of their heads removed."""
    kept = {share: find_subnetwork(model, batches[:1], sparsity=share).mask for share in (0.25, 0.5, 0.75)}
    cases = {"whole": partial(forward, model, batches)}
    cases |= {share: partial(forward, remove_heads(model, mask), batches) for share, mask in kept.items()}
    seconds, _ = alternate(cases, 2 * load.repetitions)
    return [
        ratio(
            f"forward: whole / {share:.0%} of heads removed",
            f"ideal {ideal_speedup(load, batches, int(mask.sum())):.2f}",
            seconds,
            "whole",
            share,
        )
        for share, mask in kept.items()
    ]


@torch.no_grad()
def forward(model: Model, batches: list[Batch]) -> None:
    """One pass over the data."""
    for batch in batches:
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def ideal_speedup(load: Workload, batches: list[Batch], kept: int) -> float:
    """Operations of the encoder with all heads over those with some, if nothing else took time."""

    def operations(heads: int) -> int:
        size = load.width // load.heads
        shapes = [batch["input_ids"].shape for batch in batches]
        per_token = [4 * heads * size * (load.width + length / 2) for _, length in shapes]
        feed_forward = 2 * load.layers * load.width * load.intermediate
        return sum(
            rows * length * (attention + feed_forward)
            for (rows, length), attention in zip(shapes, per_token, strict=True)
        )

    return operations(load.layers * load.heads) / operations(kept)


def main() -> None:
    """Measures, prints and, unless in a hurry, writes the table."""
    quick = parser(__doc__).parse_args().quick
    torch.set_num_threads(1)
    loads = [replace(WORKLOADS[0], examples=64, repetitions=1)] if quick else WORKLOADS
    report([line for load in loads for line in compare(load)], __file__, quick=quick)


if __name__ == "__main__":
    main()
