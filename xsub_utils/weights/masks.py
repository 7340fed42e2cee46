"""Weight masks: which single weights of a model are kept, by parameter name."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

WeightMask = Mapping[str, Bool[Tensor, "..."]]
_LOW = 16  # bits of a float32 that the second pass looks at
_CHUNK = 2**16  # weights at a time, which stay in the cache


def largest(
    values: Mapping[str, Float[Tensor, "..."]], *, count: int, besides: WeightMask | None = None
) -> dict[str, Bool[Tensor, "..."]]:
    """Marks the entries with the largest magnitudes over all tensors together, exactly as many as asked for.

    Of equal magnitudes the first ones are taken, in the order of the tensors and of their entries.

    Args:
        values: Name → tensor: weights, or their changes in a fine-tuning. Magnitudes are compared as float32.
        count: How many.
        besides: Entries that are marked already; `count` further ones are marked beside them.

    Raises:
        ValueError: If `count` is negative or more than there are entries to mark, a value is nan, or `besides` does
            not fit.

    Note:
        The bits of positive floats are in the order of the floats. So two histograms, of their upper and lower halves,
        give the threshold exactly, without sorting.
    """
    bits = {name: _bits(name, tensor) for name, tensor in values.items()}
    if besides is not None:
        _check_besides(values, besides)
        for name, taken in besides.items():
            bits[name] = np.where(taken.reshape(-1).numpy(force=True), np.int32(-1), bits[name])
    free = sum(int((one >= 0).sum()) if besides else len(one) for one in bits.values())
    if not 0 <= count <= free:
        raise ValueError(f"count={count}: from 0 to the {free} entries that can be marked would be right")
    threshold, ties = _threshold(list(bits.values()), count)
    found = {}
    for name, one in bits.items():
        mask = one > threshold
        if ties:
            at = np.flatnonzero(one == threshold)[:ties]
            mask[at] = True
            ties -= len(at)
        if besides is not None and name in besides:
            mask |= one < 0
        found[name] = torch.from_numpy(mask).view(values[name].shape).to(values[name].device)
    return found


def random_weight_mask(like: WeightMask, *, seed: int) -> dict[str, Bool[Tensor, "..."]]:
    """A weight mask drawn uniformly from all those that keep as many entries of every tensor.

    The mask enters the draw together with the seed, so that with one seed those of two masks overlap by chance only.
    """
    found = {}
    for name, mask in like.items():
        flat = mask.reshape(-1).numpy(force=True)
        generator = np.random.default_rng([seed, *name.encode(), *hashlib.sha256(np.packbits(flat)).digest()])
        found[name] = torch.from_numpy(generator.permutation(flat)).view(mask.shape).to(mask.device)
    return found


def mask_digest(mask: Tensor | Mapping[str, Tensor]) -> str:
    """Tells a mask, of heads or of weights, from any other: 16 hex digits."""
    found = hashlib.sha256()
    for name, one in sorted((mask if isinstance(mask, Mapping) else {"": mask}).items()):
        found.update(f"{name} {tuple(one.shape)}".encode())
        found.update(np.packbits(one.reshape(-1).numpy(force=True)))
    return found.hexdigest()[:16]


@contextmanager
def masked_weights(model: nn.Module, mask: WeightMask) -> Iterator[None]:
    """Sets the weights that are not kept to zero, for as long as the context lasts; then all are as before, to the bit.

    Weights that an optimiser changes inside of the context are lost: let it step outside.

    Raises:
        ValueError: If the mask does not fit the model.
    """
    parameters = check_weight_mask(model, mask)
    kept = [(parameters[name], parameters[name].detach().clone()) for name in mask]
    try:
        with torch.no_grad():
            for name, one in mask.items():
                parameters[name].mul_(one.to(parameters[name]))
        yield
    finally:
        with torch.no_grad():
            for parameter, values in kept:
                parameter.copy_(values)


def require_weight_mask(mask: object, argument: str = "mask") -> None:
    """Raises ValueError unless this is a mapping of names to bool tensors."""
    if not isinstance(mask, Mapping):
        meant = {"Ticket": "; a ticket has it as .mask", "Tensor": "; one tensor is a mask of heads"}
        name = type(mask).__name__
        raise ValueError(f"{argument}: a {name}; parameter name → bool tensor would be right{meant.get(name, '')}")
    for name, one in mask.items():
        if not isinstance(one, Tensor) or one.dtype != torch.bool:
            kind = one.dtype if isinstance(one, Tensor) else type(one).__name__
            raise ValueError(f"{argument}: {name!r} is of {kind}; a bool tensor would be right")


def check_weight_mask(model: nn.Module, mask: Mapping[str, Tensor], argument: str = "mask") -> dict[str, nn.Parameter]:
    """The parameters of the model by name, tied ones by each of their names, if the mask fits them.

    Raises:
        ValueError: If not; it names the first parameter that does not.
    """
    require_weight_mask(mask, argument)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, one in mask.items():
        if name not in parameters:
            raise ValueError(f"{argument}: the model has no parameter {name!r}; see model.named_parameters()")
        if one.shape != parameters[name].shape:
            raise ValueError(
                f"{argument}: that of {name!r} is of shape {tuple(one.shape)}; {tuple(parameters[name].shape)}, as the "
                "parameter, would be right"
            )
    return parameters


def _bits(name: str, tensor: Tensor) -> np.ndarray:
    """Magnitudes as whole numbers in the same order."""
    values = tensor.detach().reshape(-1).float().abs()
    bits = values.view(torch.int32).numpy(force=True)
    if len(bits) and bits.max() > np.float32(np.inf).view(np.int32):
        raise ValueError(f"values: {name!r} holds nan, which is neither large nor small; has the training diverged?")
    return bits


def _threshold(parts: Sequence[np.ndarray], count: int) -> tuple[int, int]:
    """A number that fewer than `count` entries, or as many, exceed, and how many that equal it are wanted besides."""
    if not count:
        return 2**31 - 1, 0
    counts = _histogram(parts, None)
    upper, above = _place(counts, count)
    lower, more = _place(_histogram(parts, upper), count - above)
    return (upper << _LOW) + lower, count - above - more


def _place(counts: np.ndarray, count: int) -> tuple[int, int]:
    """The bin in which the entry of this rank lies, from above, and how many entries lie above the bin."""
    from_above = counts[::-1].cumsum()
    place = int(np.searchsorted(from_above, count))
    return len(counts) - 1 - place, int(from_above[place - 1]) if place else 0


def _histogram(parts: Sequence[np.ndarray], upper: int | None) -> np.ndarray:
    """How often each upper half occurs; or, under one upper half, each lower one."""
    counts = np.zeros(2**_LOW, dtype=np.int64)
    for part in parts:
        for start in range(0, len(part), _CHUNK):
            some = part[start : start + _CHUNK]
            halves = some >> _LOW
            if upper is not None:
                halves = some[halves == upper] & (2**_LOW - 1)
            elif len(some) and some.min() < 0:
                halves = halves[some >= 0]
            counts += np.bincount(halves, minlength=2**_LOW)
    return counts


def _check_besides(values: Mapping[str, Tensor], besides: WeightMask) -> None:
    for name, taken in besides.items():
        if name not in values or taken.shape != values[name].shape or taken.dtype != torch.bool:
            raise ValueError(f"besides: {name!r} is no tensor among the values, or its mask is not of their shape")
