"""Head masks: random controls, set operations, and files."""

import io
import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from xsub_utils._internal.io import write_bytes_atomic
from xsub_utils._internal.places import file_to_write
from xsub_utils._internal.validation import invalid, one_of

_AXES = {"all": None, "layers": 0, "within": 1}
_INDEX = "index.json"


def random_mask(
    like: Bool[Tensor, "layers heads"], *, seed: int, per_layer: bool = False
) -> Bool[Tensor, "layers heads"]:
    """A mask drawn uniformly from all those that keep as many heads.

    Args:
        like: The mask that needs a control. It enters the draw together with the seed, so that with one seed
            the controls of two different masks overlap by chance only.
        seed: Of the draw, at least 0.
        per_layer: Whether every layer must keep as many heads as in `like`.

    Returns:
        The control, on the device of `like`.

    Raises:
        ValueError: If `like` is not boolean, or the seed is no integer of at least 0.

    Source: Prasanna et al. 2020, section 4, with the number of heads exact rather than expected.

    Example:
        >>> import xsub_utils as xs
        >>> mask = torch.tensor([[True, True, True], [True, False, False]])
        >>> control = xs.random_mask(mask, seed=0)
        >>> int(control.sum())
        4
        >>> xs.random_mask(mask, seed=0, per_layer=True).sum(dim=1)
        tensor([3, 1])
    """
    return _permuted(like, 1 if per_layer else None, "random", seed)


def shuffle_mask(
    mask: Bool[Tensor, "layers heads"], *, over: str = "all", seed: int = 0
) -> Bool[Tensor, "layers heads"]:
    """The mask with its entries permuted.

    Args:
        mask: It enters the draw as in `random_mask`.
        over: `"all"` permutes all positions and keeps the number of heads; `"layers"` permutes the layers for
            each head index and keeps how often an index is kept; `"within"` permutes the heads of each layer
            and keeps the number of heads per layer.
        seed: Of the permutation, at least 0.

    Raises:
        ValueError: If `over` is none of these, the mask is not boolean, or the seed is no integer of at least 0.

    Source: Apostolikas et al. 2023, the control of their stitching experiment, for `"layers"`.
    """
    return _permuted(mask, _AXES[one_of("over", over, _AXES)], "shuffle", seed)


def invert(mask: Bool[Tensor, "layers heads"]) -> Bool[Tensor, "layers heads"]:
    """The mask that keeps exactly the pruned heads.

    Raises:
        ValueError: If the mask is not boolean.

    Source: Prasanna et al. 2020, section 4 ("bad" subnetworks), without topping up to equal size.
    """
    return ~_checked(mask, "mask")


def union(masks: Iterable[Bool[Tensor, "layers heads"]]) -> Bool[Tensor, "layers heads"]:
    """The heads that at least one mask keeps.

    Raises:
        ValueError: If there is no mask, one is not boolean, or their shapes differ.
    """
    return _stacked(masks).any(dim=0)


def intersection(masks: Iterable[Bool[Tensor, "layers heads"]]) -> Bool[Tensor, "layers heads"]:
    """The heads that every mask keeps; over seeds, the "super-survivors".

    Raises:
        ValueError: If there is no mask, one is not boolean, or their shapes differ.
    """
    return _stacked(masks).all(dim=0)


def majority(masks: Iterable[Bool[Tensor, "layers heads"]]) -> Bool[Tensor, "layers heads"]:
    """The heads that more than half of the masks keep; a head that exactly half of them keep is pruned.

    Raises:
        ValueError: If there is no mask, one is not boolean, or their shapes differ.
    """
    votes = _stacked(masks)
    return 2 * votes.sum(dim=0) > len(votes)


def save_masks(path: str | Path, masks: Mapping[str, Bool[Tensor, "..."]], meta: Mapping[str, Any]) -> None:
    """Writes masks and their description to one file, whole or not at all; equal masks give equal bytes.

    An entry takes one bit, so that a mask of 85 million weights takes 11 MB.

    Args:
        path: Of the file, an npz archive; `numpy.load` opens it too and gives the bits, as `numpy.packbits` does.
        masks: Name → mask, of any shape.
        meta: What the masks are, as values that JSON can hold.

    Raises:
        TypeError: If a mask is not boolean, or `meta` holds what JSON cannot.
        StoreError: If the file cannot be written.

    Example:
        >>> import xsub_utils as xs
        >>> mask = torch.tensor([[True, False], [False, True]])
        >>> xs.save_masks("masks.npz", {"qaa": mask}, {"task": "nli"})
        >>> xs.load_masks("masks.npz")[1]
        {'task': 'nli'}
    """
    write_bytes_atomic(file_to_write(path), _archive(masks, meta))


def load_masks(path: str | Path) -> tuple[dict[str, Bool[Tensor, "..."]], dict[str, Any]]:
    """Masks by name, in the order they were saved, and their description.

    Args:
        path: Of a file that `save_masks` wrote.

    Returns:
        Name → mask, and the description.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or was not written by `save_masks`.

    Example:
        >>> import xsub_utils as xs
        >>> xs.save_masks("masks.npz", {"qaa": torch.tensor([[True, False]])}, {})
        >>> masks, _ = xs.load_masks("masks.npz")
        >>> masks["qaa"]
        tensor([[ True, False]])
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(str(invalid("path", "a file that save_masks wrote", f"{path}, which does not exist")))
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            index = json.loads(archive.read(_INDEX))
            masks = {name: _unpacked(archive.read(f"{name}.npy"), shape) for name, shape in index["masks"].items()}
            return masks, index["meta"]
    except Exception as error:  # zip, its compressors, JSON and numpy have one each for damage
        got = f"{path}, which is damaged or holds something else ({error})"
        raise invalid("path", "a file that save_masks wrote", got, "save them again") from error


def _permuted(
    mask: Bool[Tensor, "layers heads"], axis: int | None, purpose: str, seed: int
) -> Bool[Tensor, "layers heads"]:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise invalid("seed", "an integer of at least 0", repr(seed))
    kept = _array(_checked(mask, "mask"))
    generator = np.random.default_rng([seed, *purpose.encode(), *np.packbits(kept)])
    return torch.from_numpy(generator.permuted(kept, axis=axis)).to(mask.device)


def _checked(mask: Any, argument: str) -> Bool[Tensor, "..."]:
    """The mask, if it is one."""
    if not isinstance(mask, Tensor):
        raise invalid(argument, "a tensor of torch.bool", f"a {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise invalid(argument, "a tensor of torch.bool", f"one of {mask.dtype}", "mask > 0.5 makes gates a mask")
    return mask


def _stacked(given: Iterable[Tensor]) -> Bool[Tensor, "masks layers heads"]:
    masks = [_checked(mask, "masks") for mask in given]
    shapes = {tuple(mask.shape) for mask in masks}
    if len(shapes) != 1:
        raise invalid("masks", "at least one, all of one shape", f"shapes {sorted(shapes)}" if masks else "none")
    return torch.stack(masks)


def _archive(masks: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    """A zip of uncompressed members, all with zip's earliest date, so that only their content decides its bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        index = {
            "masks": {name: list(mask.shape) for name, mask in masks.items()},
            "meta": json.loads(json.dumps(meta, sort_keys=True)),
        }
        archive.writestr(zipfile.ZipInfo(_INDEX), json.dumps(index, indent=2))
        for name, mask in masks.items():
            if "\0" in name:
                raise invalid("masks", "names without a null character", repr(name))
            if mask.dtype != torch.bool:
                raise TypeError(str(invalid("masks", "tensors of torch.bool", f"{name!r} of {mask.dtype}")))
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, np.packbits(_array(mask)), allow_pickle=False)
    return buffer.getvalue()


def _array(mask: Tensor) -> np.ndarray:
    """The mask row by row, however it lies in memory."""
    return mask.contiguous().numpy(force=True)


def _unpacked(data: bytes, shape: list[int]) -> Bool[Tensor, "..."]:
    bits = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    entries = math.prod(shape)
    if bits.dtype != np.uint8 or bits.shape != (-(-entries // 8),):
        raise ValueError(f"it holds {bits.dtype} {bits.shape} instead of the bits of a mask of shape {tuple(shape)}")
    return torch.from_numpy(np.unpackbits(bits, count=entries).view(bool).reshape(shape))
