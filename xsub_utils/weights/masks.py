"""Weight masks: which single weights of a model are kept, by parameter name."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xsub_utils._internal.amounts import check_seed
from xsub_utils._internal.validation import invalid, whole
from xsub_utils.models.modes import require_model

WeightMask = Mapping[str, Bool[Tensor, "..."]]
_LOW = 16  # bits of a float32 that the second pass looks at
_CHUNK = 2**16  # weights at a time, which stay in the cache


def largest(
    values: Mapping[str, Float[Tensor, "..."]], *, count: int, besides: WeightMask | None = None
) -> dict[str, Bool[Tensor, "..."]]:
    """Marks the entries with the largest magnitudes over all tensors together, exactly as many as asked for.

    Of equal magnitudes the first ones are taken, in the order of the tensors and of their entries.

    Args:
        values: Name -> tensor: weights, or their changes in a fine-tuning. Magnitudes are compared as float32.
        count: How many.
        besides: Entries that are marked already; `count` further ones are marked beside them.

    Raises:
        TypeError: If `count` is no whole number.
        ValueError: If `count` is negative or more than there are entries to mark, a value is nan, or `besides` does
            not fit.

    Example:
        >>> import torch
        >>> import xsub_utils as xs
        >>> xs.largest({"a": torch.tensor([1.0, -3.0]), "b": torch.tensor([2.0])}, count=2)
        {'a': tensor([False,  True]), 'b': tensor([True])}

    Note:
        The bits of positive floats are in the order of the floats. So two histograms, of their upper and lower halves,
        give the threshold exactly, without sorting.
    """
    bits = {name: _bits(name, tensor) for name, tensor in values.items()}
    if besides is not None:
        _check_besides(values, besides)
        for name, taken in besides.items():
            bits[name] = np.where(taken.reshape(-1).numpy(force=True), np.int32(-1), bits[name])
    whole("count", count)
    free = sum(int((magnitudes >= 0).sum()) if besides else len(magnitudes) for magnitudes in bits.values())
    if not 0 <= count <= free:
        raise invalid("count", f"0 to {free}, the entries that can be marked", count)
    threshold, ties = _threshold(list(bits.values()), count)
    masks = {}
    for name, magnitudes in bits.items():
        mask = magnitudes > threshold
        if ties:
            tied = np.flatnonzero(magnitudes == threshold)[:ties]
            mask[tied] = True
            ties -= len(tied)
        if besides is not None and name in besides:
            mask |= magnitudes < 0
        masks[name] = torch.from_numpy(mask).view(values[name].shape).to(values[name].device)
    return masks


def random_weight_mask(like: WeightMask, *, seed: int) -> dict[str, Bool[Tensor, "..."]]:
    """A weight mask drawn uniformly from all those that keep as many entries of every tensor.

    Args:
        like: Parameter name -> True where a weight is kept; the mask that needs a control.
        seed: Of the draw, at least 0. The mask enters the draw with it, so that with one seed the controls of two
            masks overlap by chance only.

    Raises:
        ValueError: If `like` is no weight mask.

    Example:
        >>> import torch
        >>> import xsub_utils as xs
        >>> mask = {"query": torch.arange(12).view(3, 4) < 5}
        >>> control = xs.random_weight_mask(mask, seed=0)
        >>> control["query"].shape, int(control["query"].sum()), control["query"].equal(mask["query"])
        (torch.Size([3, 4]), 5, False)
    """
    require_weight_mask(like, "like")
    seed = check_seed(seed)
    controls = {}
    for name, mask in like.items():
        flat = mask.reshape(-1).numpy(force=True)
        digest = hashlib.sha256(np.packbits(flat).tobytes()).digest()
        generator = np.random.default_rng([seed, *name.encode(), *digest])
        controls[name] = torch.from_numpy(generator.permutation(flat)).view(mask.shape).to(mask.device)
    return controls


def mask_digest(mask: Tensor | Mapping[str, Tensor]) -> str:
    """Tells a mask, of heads or of weights, from any other: 16 hex digits."""
    digest = hashlib.sha256()
    for name, kept in sorted((mask if isinstance(mask, Mapping) else {"": mask}).items()):
        digest.update(f"{name} {tuple(kept.shape)}".encode())
        digest.update(np.packbits(kept.reshape(-1).numpy(force=True)).tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def masked_weights(model: nn.Module, mask: WeightMask) -> Iterator[None]:
    """Weights that are zero where a mask does not keep them, for as long as the context lasts; then all are as before.

    Weights come back to the bit. What an optimiser changes inside of the context is lost: let it step outside.

    Args:
        model: It is changed in place.
        mask: Parameter name -> True where a weight is kept; parameters that are not named stay as they are.

    Raises:
        ValueError: If the mask does not fit the model.

    Example:
        >>> import xsub_utils as xs
        >>> model, _ = xs.load_encoder("minibabel-base", "mlm")
        >>> name = "roberta.encoder.layer.0.attention.self.query.weight"
        >>> weight = model.get_parameter(name)
        >>> with xs.masked_weights(model, xs.largest({name: weight}, count=100)):
        ...     int(weight.count_nonzero())
        100
        >>> int(weight.count_nonzero())
        9216
    """
    parameters = check_weight_mask(model, mask)
    before = [(parameters[name], parameters[name].detach().clone()) for name in mask]
    try:
        with torch.no_grad():
            for name, kept in mask.items():
                parameters[name].mul_(kept.to(parameters[name]))
        yield
    finally:
        with torch.no_grad():
            for parameter, values in before:
                parameter.copy_(values)


def require_weight_mask(mask: object, argument: str = "mask") -> None:
    """Raises unless this is a mapping of names to bool tensors.

    Raises:
        ValueError: If not.
    """
    expected = "parameter name -> bool tensor"
    if not isinstance(mask, Mapping):
        remedies = {"Ticket": "a ticket has it as .mask", "Tensor": "one tensor is a mask of heads"}
        name = type(mask).__name__
        raise invalid(argument, expected, f"a {name}", remedies.get(name, ""))
    for name, kept in mask.items():
        if not isinstance(kept, Tensor) or kept.dtype != torch.bool:
            got = kept.dtype if isinstance(kept, Tensor) else f"a {type(kept).__name__}"
            raise invalid(argument, expected, f"{got} for {name!r}")


def check_weight_mask(model: nn.Module, mask: Mapping[str, Tensor], argument: str = "mask") -> dict[str, nn.Parameter]:
    """The parameters of the model by name, tied ones by each of their names, if the mask fits them.

    Raises:
        TypeError: If something else than a model is given.
        ValueError: If not; it names the first parameter that does not.
    """
    require_model(model)
    require_weight_mask(mask, argument)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, kept in mask.items():
        if name not in parameters:
            raise invalid(argument, "names of parameters of the model", repr(name), "see model.named_parameters()")
        if kept.shape != parameters[name].shape:
            expected = f"a mask of shape {tuple(parameters[name].shape)} for {name!r}, as the parameter"
            raise invalid(argument, expected, tuple(kept.shape))
    return parameters


def _bits(name: str, tensor: Tensor) -> np.ndarray:
    """Magnitudes as whole numbers in the same order."""
    values = tensor.detach().reshape(-1).float().abs()
    bits = values.view(torch.int32).numpy(force=True)
    if len(bits) and bits.max() > np.float32(np.inf).view(np.int32):
        raise invalid("values", "numbers, which are large or small", f"nan in {name!r}", "has the training diverged?")
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
            chunk = part[start : start + _CHUNK]
            halves = chunk >> _LOW
            if upper is not None:
                halves = chunk[halves == upper] & (2**_LOW - 1)
            elif len(chunk) and chunk.min() < 0:
                halves = halves[chunk >= 0]
            counts += np.bincount(halves, minlength=2**_LOW)
    return counts


def _check_besides(values: Mapping[str, Tensor], besides: WeightMask) -> None:
    for name, taken in besides.items():
        if name not in values or taken.shape != values[name].shape or taken.dtype != torch.bool:
            expected = "bool tensors with names and shapes of the values"
            raise invalid("besides", expected, f"{name!r} of {taken.dtype} and shape {tuple(taken.shape)}")
