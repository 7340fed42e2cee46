"""TracIn: what a step on each training example would do to the loss of each test example, checkpoint by checkpoint."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xsub_utils._internal.validation import invalid
from xsub_utils.attribution.checks import check_gates, check_numbers, check_options
from xsub_utils.attribution.loading import Load, check_checkpoints
from xsub_utils.attribution.options import InfluenceOptions
from xsub_utils.attribution.run import Run
from xsub_utils.attribution.slices import chosen_examples
from xsub_utils.models.batch_checks import listed_batches
from xsub_utils.models.example_order import Batch, example_order


@dataclass(frozen=True)
class Influence:
    """TracIn scores, and what they are sums of.

    Attributes:
        contributions: (checkpoints, groups, test, train). In cosine mode what each group of parameters contributes to
            the cosine of the gradients in all parameters, so that groups add up.
        groups: Names of the groups of parameters; "all" if they were not asked for.
        weights: (checkpoints,), what each checkpoint counts: learning rates, or 1.
        exact: Which scores were computed without projection; None if all were.
    """

    contributions: Float[Tensor, "checkpoints groups test train"]
    groups: tuple[str, ...]
    weights: Float[Tensor, " checkpoints"]
    exact: Bool[Tensor, "test train"] | None = None

    @property
    def scores(self) -> Float[Tensor, "test train"]:
        """Weighted sum over checkpoints: positive where a step on the training example lowers the loss of the other."""
        return torch.einsum("cgmn,c->mn", self.contributions, self.weights)

    @property
    def by_checkpoint(self) -> Float[Tensor, "checkpoints test train"]:
        """The scores of each checkpoint alone, unweighted."""
        return self.contributions.sum(1)

    @property
    def by_group(self) -> dict[str, Float[Tensor, "test train"]]:
        """Group of parameters -> its contribution to the scores."""
        return dict(zip(self.groups, torch.einsum("cgmn,c->gmn", self.contributions, self.weights), strict=True))


def influence(
    checkpoints: Sequence[Any],
    train: Iterable[Batch],
    test: Iterable[Batch],
    *,
    gates: Tensor | None = None,
    weight_masks: Mapping[str, Bool[Tensor, "..."]] | None = None,
    weights: Sequence[float] | None = None,
    test_groups: Sequence[Any] | None = None,
    options: InfluenceOptions = InfluenceOptions(),  # noqa: B008  # it is frozen
    load: Load | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> Influence:
    """TracIn scores of every training example for every test example, exact over all parameters.

        I(z, z') = Σ_e η_e ⟨g_e(z), g_e(z')⟩,   g_e(z) = ∇ loss(θ_e, z), in cosine mode divided by its norm

    Args:
        checkpoints: Models of one shape, or their folders: a `checkpoint-500` of a Trainer or any other that
            `save_pretrained` wrote, with tokenizer or without; an `epoch-3` of `finetune` (see `checkpoints`), whose
            own folder stands for its last epoch. Models in folders are loaded in float32, one at a time, as the class
            that they were saved as; each is loaded once more to be rescored.
        train, test: Labelled batches; row i of the scores is the i-th example that `make_batches` was given, however it
            sorted them, and batches from elsewhere keep their order. Training batches of about 64 examples are fastest.
            Labels of a decoder-only language model are its inputs, -100 where nothing is predicted, as for `evaluate`.
            A batch may also hold "gates", (examples, layers, heads), through which each of its examples runs; then not
            together with the argument `gates`.
        gates: Head mask or gates `(layers, heads)`, in force for both sides; None for the full model.
        weight_masks: Parameter -> True where a weight is kept; the others are zero in the model, and have no gradient.
        weights: η, one for each checkpoint, such as learning rates; by default 1.
        test_groups: A label per test example, in the order of the examples. Gradients of the same label are averaged
            (in cosine mode after they were normalised), and the scores, in the order of first appearance, are those of
            the means: exact, and for few groups much cheaper.
        options: Cosine or inner product, which parameters, loss, precision, projection, memory; see
            `InfluenceOptions`.
        load: Function from an entry of `checkpoints`, whatever it may be, to a model on the device to compute on.
        out: Folder for intermediate results: a run that was killed goes on there. None keeps nothing. Needs a loss that
            is a function of a module.
        progress: Show a bar on stderr, if it takes more than five seconds.

    Returns:
        An `Influence`; its `.scores` are (test, train). An example whose gradient is zero scores 0.

    Raises:
        ValueError: If there are no checkpoints or examples, a folder is not that of a model, checkpoints differ in
            shape, no head is left, a loss or gradient is not finite, an argument does not fit, the gradient of a
            parameter cannot be taken apart by example, or memory is too small.

    Source: Pruthi et al. 2020, section 3 (TracInCP); cosine: Choenni et al. 2023, section 3.

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.load_task("nli", ["qaa", "qba"], sizes={"train": 6, "test": 2})
        >>> model, tokenizer = xs.load_encoder("minibabel-base", "sequence", labels=task.labels)
        >>> train = xs.make_batches(task.examples("train"), tokenizer, task.kind)
        >>> test = xs.make_batches(task.examples("test", "qaa"), tokenizer, task.kind)
        >>> options = xs.InfluenceOptions(by_group=True)
        >>> found = xs.influence([model], train, test, options=options, progress=False)
        >>> found.scores.shape  # (test, train)
        torch.Size([2, 12])
        >>> list(found.by_group)[:2]
        ['embeddings', 'layer 1 attention']
    """
    checkpoints, train, test = _listed(checkpoints), listed_batches(train, "train"), listed_batches(test, "test")
    weights = None if weights is None else list(weights)
    check_gates(gates, [*train, *test])
    gates = None if gates is None else gates.detach()
    check_numbers(checkpoints, test, weights, test_groups)
    check_options(options, weight_masks, out)
    if load is not None and not callable(load):
        raise invalid("load", "a function from an entry of checkpoints to a model", repr(load))
    check_checkpoints(checkpoints, load)
    run = Run(
        checkpoints=checkpoints,
        load=load,
        test=test,
        gates=gates,
        weight_masks=weight_masks or {},
        test_groups=None if test_groups is None else _numbered(test_groups, example_order(test)),
        options=options,
        memory=_default_memory() if options.memory is None else options.memory,
        out=None if out is None else Path(out),
        progress=progress,
    )
    contributions, groups = run.over(train)
    counts = torch.ones(len(checkpoints)) if weights is None else torch.tensor(weights, dtype=torch.float64)
    by_batch = Influence(contributions, groups, counts.to(contributions))
    if options.rescore:
        by_batch = _rescored(by_batch, run, train)
    return _in_example_order(by_batch, train, test, grouped=test_groups is not None)


def _numbered(test_groups: Sequence[Any], order: Tensor) -> tuple[int, ...]:
    """The number of the group of each test example, where it stands in the batches."""
    labels = list(dict.fromkeys(test_groups))
    places = torch.empty_like(order).index_copy_(0, order, torch.tensor([labels.index(label) for label in test_groups]))
    return tuple(places.tolist())


def _in_example_order(by_batch: Influence, train: Sequence[Batch], test: Sequence[Batch], grouped: bool) -> Influence:
    """Scores whose rows and columns are in the order of the examples; rows of groups are already."""
    columns = example_order(train)
    rows = torch.arange(by_batch.contributions.shape[2]) if grouped else example_order(test)
    exact = None if by_batch.exact is None else by_batch.exact[rows][:, columns]
    return replace(by_batch, contributions=by_batch.contributions[:, :, rows][..., columns], exact=exact)


def _listed(checkpoints: Sequence[Any]) -> list[Any]:
    if isinstance(checkpoints, str | Path | torch.nn.Module):
        raise invalid("checkpoints", "a list", type(checkpoints).__name__, "put it into one: [checkpoint]")
    return list(checkpoints)


def _rescored(estimated: Influence, run: Run, train: Sequence[Batch]) -> Influence:
    """With exact scores for the training examples that seem to matter most."""
    chosen = _extreme_examples(estimated.scores, run.options.rescore)
    exactly = replace(run, options=replace(run.options, projection=None, rescore=0))
    contributions = estimated.contributions
    contributions[..., chosen], _ = exactly.over(chosen_examples(train, chosen))
    return replace(estimated, exact=chosen.expand(contributions.shape[2], -1).clone())


def _extreme_examples(scores: Float[Tensor, "test train"], count: int) -> Bool[Tensor, " train"]:
    """Training examples among the highest or lowest of any test example."""
    count = min(count, scores.shape[1])
    ends = torch.cat([scores.topk(count, largest=largest).indices for largest in (True, False)], 1)
    return torch.zeros(scores.shape[1], dtype=torch.bool).index_fill_(0, ends.flatten().unique(), True)


def _default_memory() -> float:
    return torch.cuda.mem_get_info()[0] / 2 if torch.cuda.is_available() else 4e9
