"""TracIn: what a step on each training example would do to the loss of each test example, checkpoint by checkpoint."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm import tqdm

from xsub_utils.attribution.passes import AT_ONCE, SHARD, Batch, Checkpoint, Options, divided, length, taken
from xsub_utils.attribution.projection import Projection
from xsub_utils.attribution.score_cache import Pieces
from xsub_utils.gradients.capture import Loss, example_loss
from xsub_utils.gradients.factors import Part, added
from xsub_utils.gradients.prepared import prepared
from xsub_utils.training.finetune import load_finetuned


@dataclass(frozen=True)
class Influence:
    """TracIn scores, and what they are sums of.

    Attributes:
        parts: (checkpoints, groups, test, train). In cosine mode the contribution of each group of parameters to
            the cosine of the whole gradients, so that groups add up.
        groups: Names of the groups; "all" if they were not asked for.
        weights: (checkpoints,), what each checkpoint counts: learning rates, or 1.
        exact: Which scores were computed without projection; None if all were.
    """

    parts: Float[Tensor, "checkpoints groups test train"]
    groups: tuple[str, ...]
    weights: Float[Tensor, " checkpoints"]
    exact: Bool[Tensor, "test train"] | None = None

    @property
    def scores(self) -> Float[Tensor, "test train"]:
        """Weighted sum over checkpoints: positive where a step on the training example lowers the loss of the other."""
        return torch.einsum("cgmn,c->mn", self.parts, self.weights)

    @property
    def by_checkpoint(self) -> Float[Tensor, "checkpoints test train"]:
        """The scores of each checkpoint alone, unweighted."""
        return self.parts.sum(1)

    @property
    def by_group(self) -> dict[str, Float[Tensor, "test train"]]:
        """Group of parameters -> its contribution to the scores."""
        return dict(zip(self.groups, torch.einsum("cgmn,c->gmn", self.parts, self.weights), strict=True))


def influence(
    checkpoints: Sequence[nn.Module | str | Path],
    train: Iterable[Batch],
    test: Iterable[Batch],
    *,
    gates: Tensor | None = None,
    normalize: bool = True,
    weights: Sequence[float] | None = None,
    parameters: str | Sequence[str] | None = None,
    by_group: bool = False,
    weight_masks: Mapping[str, Bool[Tensor, "..."]] | None = None,
    test_groups: Sequence[Any] | None = None,
    loss: Loss = example_loss,
    dtype: torch.dtype | None = None,
    projection: int | None = None,
    rescore: int = 0,
    seed: int = 0,
    memory: float | None = None,
    out: str | Path | None = None,
    part: str = "encoder",
    progress: bool = True,
) -> Influence:
    """TracIn scores of every training example for every test example, exact over all parameters.

        I(z, z') = Σ_e η_e ⟨g_e(z), g_e(z')⟩,   g_e(z) = ∇ loss(θ_e, z), in cosine mode divided by its norm

    Args:
        checkpoints: Models, or folders `epoch-1`, … of `finetune` (see `checkpoints`); each is loaded once, and once
            more to score again.
        train, test: Labelled batches; row i of the scores is the i-th example of the batches in their order. Training
            batches of about 64 examples are fastest. A batch may also hold "gates", (examples, layers, heads), through
            which each of its examples runs; then not together with the argument `gates`.
        gates: Head mask or gates `(layers, heads)`, in force for both sides; None for the whole model.
        normalize: Cosine of the gradients, or their inner product.
        weights: η, one for each checkpoint; by default 1.
        parameters: Which count: groups such as "embeddings", "layer 3", "layer 3 attention", "head", or regular
            expressions for names; None for all: embeddings, LayerNorms, biases and tied weights included. Frozen ones
            (`requires_grad=False`) never count, as no step moves them, unless all are frozen.
        by_group: Keep the contributions of the groups apart.
        weight_masks: Parameter -> True where a weight is kept; the others are zero in the model, and have no gradient.
        test_groups: A label per test example. Gradients of the same label are averaged (in cosine mode after they were
            normalised), and the scores, in the order of first appearance, are those of the means: exact, and for few
            groups much cheaper.
        loss: Logits and labels of a batch -> one loss per example; by default cross-entropy, in the mean over the
            labels of an example.
        dtype: Of the gradients that are multiplied; `torch.bfloat16` halves memory, at an error of about 1e-3.
        projection: Entries that each side of a matrix is projected to, for many or long test examples; scores become
            estimates.
        rescore: With a projection, all training examples among these many highest or lowest of any test example
            are scored again, exactly.
        seed: Of the projection.
        memory: Bytes that the gradients of test examples and the pass of a training batch may take; test examples are
            done in as many turns as that needs. By default 4 GB, or on a GPU half of what is free.
        out: Folder for intermediate results: a run that was killed goes on there. None keeps nothing. Needs a loss that
            is a function of a module.
        part: Whose heads the gates are of, as in `head_gates`.
        progress: Show a bar on stderr, if it takes more than five seconds.

    Returns:
        An `Influence`; its `.scores` are (test, train). An example whose gradient is zero scores 0.

    Raises:
        ValueError: If there are no checkpoints or examples, checkpoints differ in shape, no head is left, an argument
            does not fit, the gradient of a parameter cannot be taken apart by example, or memory is too small.

    Source: Pruthi et al. 2020, section 3 (TracInCP); cosine: Choenni et al. 2023, section 3.
    """
    checkpoints, train, test = list(checkpoints), list(train), list(test)
    weights = None if weights is None else list(weights)
    gates = None if gates is None else gates.detach()
    _check(checkpoints, train, test, gates, weights, test_groups, projection, rescore, weight_masks, loss, out)
    options = Options(
        loss=loss,
        normalize=normalize,
        parameters=parameters,
        by_group=by_group,
        weight_masks=weight_masks or {},
        test_groups=None if test_groups is None else tuple(test_groups),
        dtype=dtype,
        projection=Projection(projection, seed) if projection else None,
        memory=_memory() if memory is None else memory,
        out=None if out is None else Path(out),
    )
    given = torch.ones(len(checkpoints)) if weights is None else torch.tensor(weights, dtype=torch.float64)
    run = _Run(checkpoints, test, gates, part, options, progress)
    parts, groups = run.over(train)
    found = Influence(parts, groups, given.to(parts))
    if not rescore:
        return found
    chosen = _candidates(found.scores, rescore)
    again, _ = replace(run, options=replace(options, projection=None)).over(_selected(train, chosen))
    parts[..., chosen] = again
    return replace(found, parts=parts, exact=chosen.expand(parts.shape[2], -1).clone())


@dataclass(frozen=True)
class _Run:
    """All checkpoints, with one set of test examples."""

    checkpoints: Sequence[nn.Module | str | Path]
    test: Sequence[Batch]
    gates: Tensor | None
    part: str
    options: Options
    progress: bool

    def over(self, train: Sequence[Batch]) -> tuple[Float[Tensor, "checkpoints groups test train"], tuple[str, ...]]:
        """Scores of these training examples, and the names of the groups."""
        found, shapes, groups = [], None, ()
        for number, given in enumerate(self.checkpoints):
            model = given if isinstance(given, nn.Module) else _loaded(Path(given))
            shapes = _same_shapes(number, model, shapes)
            test, train = (_on_device(side, model) for side in (self.test, train))
            trained = {name for name, value in model.named_parameters() if value.requires_grad} or set(shapes)
            with prepared(model, self.gates, self.options.weight_masks, self.part) as ready:
                at = Checkpoint(ready, self.options, trained)
                longest = max(test, key=lambda batch: sum(values[0].numel() for values in batch.values()))
                if not number:
                    at.verify(longest)
                fits = self._fitting(at, train, longest)
                pieces = Pieces(self.options, model, [self.gates, self.part, self.test, train, shapes, sorted(trained)])
                label = f"checkpoint {number + 1} of {len(self.checkpoints)}"
                found.append(self._at(at, train, test, pieces, fits, label))
            groups = at.groups
        return torch.stack(found), groups

    def _at(self, at: Checkpoint, train: Sequence, test: Sequence, pieces: Pieces, fits: int, label: str) -> Tensor:
        """(groups, test, train) of these batches at one checkpoint, so many test examples in a turn as fit."""
        count = sum(map(length, test))
        chunk = count if self.options.test_groups else fits
        starts = range(0, count, chunk)
        bar = tqdm(total=len(starts) * len(train), desc=f"influence, {label}", unit="batch", delay=5, leave=False,
                   disable=not self.progress)  # fmt: skip
        columns = []
        with bar:
            for start in starts:
                turn, side, rows = slice(start, min(start + chunk, count)), None, []
                for first in range(0, len(train), SHARD):
                    block = pieces.load(turn, first)
                    if block is None:
                        side = side or self._test_side(at, test, turn, fits)
                        block = torch.cat([at.scores(batch, *side) for batch in train[first : first + SHARD]], 1).cpu()
                        pieces.save(turn, first, block)
                    rows.append(block)
                    bar.update(len(train[first : first + SHARD]))
                columns.append(torch.cat(rows, 1))
        return torch.cat(columns, 2).transpose(1, 2)

    def _fitting(self, at: Checkpoint, train: Sequence[Batch], longest: Batch) -> int:
        """Test examples whose gradients fit into memory beside a training batch."""
        largest = max(train, key=lambda batch: sum(values.numel() for values in batch.values()))
        each, needed = at.choose_forms(longest, largest)
        if needed + each > self.options.memory:
            raise ValueError(
                f"memory={self.options.memory:.3g}: a batch of {length(largest)} training examples takes about "
                f"{needed / 1e6:.0f} MB and a test example {each / 1e6:.1f} MB; give at least {needed + each:.3g} "
                "bytes, smaller batches, dtype=torch.bfloat16, or a projection"
            )
        return int((self.options.memory - needed) // each)

    def _test_side(
        self, at: Checkpoint, test: Sequence[Batch], turn: slice, fits: int
    ) -> tuple[dict[str, Part], Tensor]:
        """Gradients and norms of these test examples, or of the means of all of a label."""
        if self.options.test_groups is None:
            return at.test_side(taken(test, turn.start, turn.stop, min(fits, AT_ONCE)))
        labels = list(dict.fromkeys(self.options.test_groups))
        place = torch.tensor([labels.index(label) for label in self.options.test_groups])
        means = nn.functional.one_hot(place, len(labels)).T.double() / torch.bincount(place)[:, None]
        parts: dict[str, Part] = {}
        first = 0
        for batch in taken(test, turn.start, turn.stop, min(fits, AT_ONCE)):
            some, norms = at.test_side(iter([batch]))
            counts = means[:, first : first + length(batch)].to(norms)
            counts = divided(counts, norms) if self.options.normalize else counts
            pooled = {name: one.pooled(counts) for name, one in some.items()}
            parts = {name: added([*([parts[name]] if name in parts else []), one], 0) for name, one in pooled.items()}
            first += length(batch)
        return parts, torch.ones(len(labels), device=norms.device, dtype=norms.dtype)


def _memory() -> float:
    return torch.cuda.mem_get_info()[0] / 2 if torch.cuda.is_available() else 4e9


def _candidates(scores: Tensor, count: int) -> Bool[Tensor, " train"]:
    """Training examples among the highest or lowest of any test example."""
    count = min(count, scores.shape[1])
    ends = torch.cat([scores.topk(count, largest=largest).indices for largest in (True, False)], 1)
    return torch.zeros(scores.shape[1], dtype=torch.bool).index_fill_(0, ends.flatten().unique(), True)


def _selected(batches: Sequence[Batch], chosen: Tensor) -> list[Batch]:
    """The chosen examples, batch by batch."""
    first, found = 0, []
    for batch in batches:
        kept = chosen[first : first + length(batch)].nonzero().flatten()
        first += length(batch)
        if len(kept):
            found.append({name: values[kept.to(values.device)] for name, values in batch.items()})
    return found


def _loaded(folder: Path) -> nn.Module:
    """A checkpoint of `finetune`."""
    if not folder.name.removeprefix("epoch-").isdigit():
        raise ValueError(f"checkpoints: {str(folder)!r} is no folder epoch-1, … of finetune; see checkpoints(folder)")
    model, _ = load_finetuned(folder.parent, int(folder.name.removeprefix("epoch-")))
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _on_device(batches: Sequence[Batch], model: nn.Module) -> list[Batch]:
    device = next(model.parameters()).device
    return [{name: values.to(device) for name, values in batch.items()} for batch in batches]


def _same_shapes(number: int, model: nn.Module, before: dict | None) -> dict[str, tuple[int, ...]]:
    shapes = {name: tuple(values.shape) for name, values in model.named_parameters()}
    if before is not None and shapes != before:
        name = next(name for name in {**before, **shapes} if before.get(name) != shapes.get(name))
        raise ValueError(
            f"checkpoints: {name} has shape {shapes.get(name)} in checkpoint {number + 1} and {before.get(name)} in "
            "the first; all have to be of one model"
        )
    return shapes


def _check(
    checkpoints: list,
    train: list,
    test: list,
    gates: Tensor | None,
    weights: list | None,
    test_groups: Sequence | None,
    projection: int | None,
    rescore: int,
    weight_masks: Mapping | None,
    loss: Loss,
    out: str | Path | None,
) -> None:
    for name, values in (("checkpoints", checkpoints), ("train", train), ("test", test)):
        if not values:
            raise ValueError(f"{name}: there are none; at least one would be right")
    for name, batches in (("train", train), ("test", test)):
        if empty := [number for number, batch in enumerate(batches) if "labels" not in batch or not length(batch)]:
            raise ValueError(f"{name}: batch {empty[0]} has no labels or no examples; see make_batches")
    if gates is not None and any("gates" in batch for batch in (*train, *test)):
        raise ValueError("gates: given for all examples, and in batches for each; one of the two would be right")
    if gates is not None and (gates.dim() != 2 or not gates.any()):
        raise ValueError(
            f"gates: of shape {tuple(gates.shape)}, {int((gates != 0).sum())} of them open; (layers, heads) with at "
            "least one head would be right"
        )
    if weights is not None and len(weights) != len(checkpoints):
        raise ValueError(f"weights: {len(weights)} for {len(checkpoints)} checkpoints; one each would be right")
    if test_groups is not None and len(test_groups) != sum(map(length, test)):
        raise ValueError(f"test_groups: {len(test_groups)} labels for {sum(map(length, test))} test examples")
    if projection and weight_masks:
        raise ValueError("projection: not together with weight_masks, which act on single weights; leave one out")
    name = getattr(loss, "__qualname__", "<no function>")
    if out is not None and "<" in name:
        raise ValueError(
            f"out: nothing tells results of the loss {name!r} from those of another; give a function of a "
            "module, or no folder"
        )
    if rescore < 0 or (rescore and not projection):
        raise ValueError(f"rescore={rescore}: only projected scores are scored again; give projection, such as 64")
