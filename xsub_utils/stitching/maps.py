"""Linear maps from the states of one model to those of another, fitted or trained on the task of the other."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from xsub_utils._internal.amounts import amount, check_seed
from xsub_utils._internal.validation import invalid, one_of, whole
from xsub_utils.evaluation.scores import Batches
from xsub_utils.models.batch_checks import listed_batches
from xsub_utils.models.batches import IGNORED
from xsub_utils.stitching.halves import Batch, Gates, Pair, StateCache

KINDS = ("linear", "affine")
INITS = ("least_squares", "identity", "random")
_LAST_LR = 1e-5
_RANK = 1e-12  # eigenvalues of XᵀX below this share of the largest come from the rounding of float32


@dataclass(frozen=True)
class Stitched:
    """A map from the front model's states at a level to the end model's.

    Attributes:
        level: 0 for the embeddings, l for the output of layer l.
        weight: The linear part.
        bias: The vector that an affine map adds; None for a linear map.
        losses: Mean training loss of each epoch, in nats, taken before each step.
    """

    level: int
    weight: Float[Tensor, "end front"]
    bias: Float[Tensor, " end"] | None
    losses: tuple[float, ...] = ()

    def __call__(self, states: Float[Tensor, "*batch front"]) -> Float[Tensor, "*batch end"]:
        """The states as the end model is given them."""
        return nn.functional.linear(states.to(self.weight), self.weight, self.bias)


def stitch(
    front: nn.Module,
    end: nn.Module,
    batches: Batches,
    *,
    level: int,
    front_gates: Gates | None = None,
    end_gates: Gates | None = None,
    kind: str = "affine",
    init: str | Stitched = "least_squares",
    epochs: int = 10,
    lr: float = 3e-4,
    seed: int = 0,
    cache: StateCache | None = None,
) -> Stitched:
    """The map that lets the upper layers of one model go on from the lower layers of another.

    The front model's states at the level, mapped, replace those of the end model. Only the map is trained, by Adam on
    the loss of the end model's task; the learning rate falls along a cosine to 1e-5.

    Args:
        front: A transformers encoder, with or without a task head, which does not run.
        end: A model for the task of the batches. Both models have to read the same `input_ids`, so that models of
            different tokenizers cannot be stitched; their tasks, classes, widths and depths may differ.
        batches: Labelled batches of the end model's task; their order is drawn anew for each epoch.
        level: 0 stitches after the embeddings, l after layer l. After the last layer, only the head is the end's.
        front_gates, end_gates: Head masks or gates; None takes the full model.
        kind: "affine" or "linear" (without bias).
        init: "least_squares" (of the end's states on the front's, through the gates, without padding; the shortest of
            several solutions), "identity", "random" (the map of an untrained layer), or a map to begin with, whose
            kind then decides.
        epochs: Passes over the batches; 0 returns the initial map and needs no labels.
        lr: Learning rate at the start.
        seed: Seed of the order of the batches, and of a random map.
        cache: Holds states of models for other calls to use; None makes one of 1 GiB for this call.

    Raises:
        ValueError: If an option is unknown or out of range, there is nothing to learn from, the labels are not
            those of the end model, widths differ for "identity", a model is not supported, or training diverges.

    Source: Lenc & Vedaldi 2015, section 3; Bansal et al. 2021, section 2; for subnetworks of multilingual
        encoders Apostolikas et al. 2023, whose map is linear, is fitted to the full models with padding, and
        sees the batches always in the same order.

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.load_task("nli", ["qaa"], sizes={"train": 8, "test": 4})
        >>> model, tokenizer = xs.load_encoder("minibabel-base", "sequence", labels=task.labels)
        >>> twin = xs.random_twin(model, seed=0)
        >>> train = xs.make_batches(task.examples("train", "qaa"), tokenizer, task.kind)
        >>> made = xs.stitch(twin, model, train, level=2, epochs=1)
        >>> made.weight.shape, len(made.losses)
        (torch.Size([96, 96]), 1)
    """
    return stitch_fronts(
        [(front, front_gates)],
        end,
        batches,
        level=level,
        end_gates=end_gates,
        kind=kind,
        init=[init] if isinstance(init, Stitched) else init,
        epochs=epochs,
        lr=lr,
        seed=seed,
        cache=cache,
    )[0]


def stitch_fronts(
    fronts: Sequence[tuple[nn.Module, Gates | None]],
    end: nn.Module,
    batches: Batches,
    *,
    level: int,
    end_gates: Gates | None = None,
    kind: str = "affine",
    init: str | Sequence[Stitched] = "least_squares",
    epochs: int = 10,
    lr: float = 3e-4,
    seed: int = 0,
    cache: StateCache | None = None,
) -> list[Stitched]:
    """The maps from several fronts to one end: those of `stitch` but for rounding, in less time.

    The upper layers run on the mapped states of all fronts at once, each with the loss of its own, so that a step
    takes the memory of as many steps of `stitch`.

    Args:
        fronts: Models, each with its head mask or gates, or None.
        end, batches, level, end_gates, kind, epochs, lr, seed, cache: As for `stitch`.
        init: As for `stitch`, but with a list of maps, one for each front, to begin with.

    Raises:
        ValueError: As `stitch`, and if widths differ between fronts.
    """
    _check_options(kind, init, epochs, lr)
    whole("level", level)
    check_seed(seed)
    batches, cache = listed_batches(batches, labelled=bool(epochs)), cache or StateCache()
    if not fronts:
        raise invalid("fronts", "at least one front", "none")
    pairs = [Pair(cache.model(*front), cache.model(end, end_gates), level, cache) for front in fronts]
    if isinstance(init, str):
        starts = [_initial(pair, batches, kind, init, seed) for pair in pairs]
    else:
        starts = _given(init, pairs, batches[0], level)
    return _train(starts, pairs, batches, epochs, lr, seed) if epochs else starts


# The map before training


def _given(starts: Sequence[Stitched], pairs: Sequence[Pair], batch: Batch, level: int) -> list[Stitched]:
    """Maps to begin with, once they are known to fit."""
    kinds = {(start.level, *start.weight.shape, start.bias is None) for start in starts}
    widths = tuple(pairs[0].cache.states(model, batch, level).shape[-1] for model in (pairs[0].end, pairs[0].front))
    if len(starts) != len(pairs) or len(kinds) > 1 or next(iter(kinds))[:3] != (level, *widths):
        expected = f"for each of {len(pairs)} fronts a map of level, end, front {(level, *widths)}, all of one kind"
        raise invalid("init", expected, f"{len(starts)} maps of level, end, front, linear {sorted(kinds)}")
    return list(starts)


def _initial(pair: Pair, batches: Sequence[Batch], kind: str, init: str, seed: int) -> Stitched:
    x, y = (pair.cache.states(model, batches[0], pair.level) for model in (pair.front, pair.end))
    ins, outs = x.shape[-1], y.shape[-1]
    bias = torch.zeros(outs, dtype=torch.float64)
    if init == "least_squares":
        weight, bias = _least_squares(map(pair.tokens, batches), kind == "affine")
    elif init == "random":
        weight = torch.from_numpy(np.random.default_rng(seed).normal(0, ins**-0.5, (outs, ins)))
    elif ins == outs:
        weight = torch.eye(ins)
    else:
        expected = f"'least_squares' or 'random' from {ins} features of the front to {outs} of the end"
        raise invalid("init", expected, "'identity'")
    dtype = torch.promote_types(y.dtype, torch.float32)  # steps of Adam are too small for half precision
    weight, bias = (part.to(y.device, dtype) for part in (weight, bias))
    return Stitched(pair.level, weight, bias if kind == "affine" else None)


def _least_squares(pairs: Iterable[tuple[Tensor, Tensor]], affine: bool) -> tuple[Tensor, Tensor]:
    """Weight and bias of the regression of y on x, of least norm, from the normal equations."""
    count, sums = 0, [torch.zeros(()).double()] * 4
    for x, y in pairs:
        count += len(x)
        sums = [total + more for total, more in zip(sums, (x.sum(0), y.sum(0), x.T @ x, x.T @ y), strict=True)]
    if not count:
        raise invalid("batches", "at least one token", "an attention_mask that is 0 for all")
    sum_x, sum_y, xx, xy = sums
    if not affine:
        return _solve(xx, xy).T, torch.zeros_like(sum_y)
    weight = _solve(xx - sum_x.outer(sum_x) / count, xy - sum_x.outer(sum_y) / count).T
    return weight, (sum_y - weight @ sum_x) / count


def _solve(xx: Float[Tensor, "front front"], xy: Float[Tensor, "front end"]) -> Float[Tensor, "front end"]:
    """Map of least norm. Directions in which the front does not vary are mapped to 0, not to a multiple of rounding."""
    return torch.linalg.pinv(xx, rtol=_RANK, hermitian=True) @ xy


# Training


def _train(
    starts: Sequence[Stitched], pairs: Sequence[Pair], batches: Sequence[Batch], epochs: int, lr: float, seed: int
) -> list[Stitched]:
    """All maps at once: one tensor holds them, and Adam treats its entries one by one."""
    batches = [batch for batch in batches if (batch.get("labels", torch.zeros(1)) != IGNORED).any()]
    weight, bias = _stacked(starts)
    steps = epochs * len(batches)
    optimizer = torch.optim.Adam([part for part in (weight, bias) if part is not None], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, min(lr, _LAST_LR))
    losses = []
    for batch in tqdm(_order(batches, epochs, seed), total=steps, desc="stitching", delay=5, leave=False):
        loss = _losses(pairs, batch, weight, bias)
        optimizer.zero_grad()
        loss.sum().backward()
        losses.append(loss.detach())
        optimizer.step()
        schedule.step()
    means = torch.stack(losses).double().view(epochs, len(batches), -1).mean(1).T.tolist()
    weights, biases = weight.detach(), [None] * len(pairs) if bias is None else bias.detach().unbind()
    trained = [
        Stitched(starts[0].level, matrix.clone(), vector, tuple(course))
        for matrix, vector, course in zip(weights, biases, means, strict=True)
    ]
    _check_converged(trained, lr)
    return trained


def _check_converged(trained: Sequence[Stitched], lr: float) -> None:
    for number, stitched in enumerate(trained):
        if not (all(map(math.isfinite, stitched.losses)) and stitched.weight.isfinite().all()):
            front = f" from front {number}" if len(trained) > 1 else ""
            losses = f"mean losses{front} of the epochs {list(stitched.losses)}"
            raise invalid("lr", "a rate at which training converges", f"{lr} with {losses}", "take a smaller one")


def _stacked(starts: Sequence[Stitched]) -> tuple[Float[Tensor, "fronts end front"], Tensor | None]:
    """Weights and biases of all maps, to be trained."""
    widths = {start.weight.shape[1] for start in starts}
    if len(widths) > 1:
        raise invalid("fronts", "states of one width in a call", f"{sorted(widths)} features")
    weight = torch.stack([start.weight for start in starts]).requires_grad_()
    biases = [start.bias for start in starts if start.bias is not None]
    return weight, torch.stack(biases).requires_grad_() if biases else None


def _losses(
    pairs: Sequence[Pair], batch: Batch, weight: Float[Tensor, "fronts end front"], bias: Tensor | None
) -> Float[Tensor, " fronts"]:
    """Loss through each map: the mean over all labels but -100."""
    states = torch.stack([pair.states(batch) for pair in pairs]).to(weight)
    count, size = states.shape[:2]
    mapped = states.flatten(1, 2) @ weight.mT
    mapped = mapped if bias is None else mapped + bias.unsqueeze(1)
    repeated = {name: values.repeat(count, *[1] * (values.ndim - 1)) for name, values in batch.items()}
    labels, logits = pairs[0].end.run(repeated, mapped.view(count * size, states.shape[2], -1), pairs[0].level)
    counted = labels != IGNORED
    losses = nn.functional.cross_entropy(logits[counted].float(), labels[counted], reduction="none")
    return losses.view(count, -1).mean(1)


def _order(batches: Sequence[Batch], epochs: int, seed: int) -> Iterator[Batch]:
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        yield from (batches[i] for i in rng.permutation(len(batches)))


def _check_options(kind: str, init: str | Sequence[Stitched], epochs: int, lr: float) -> None:
    one_of("kind", kind, KINDS)
    if isinstance(init, str):
        one_of("init", init, INITS)
    whole("epochs", epochs, 0)
    amount("lr", lr, above=0)
