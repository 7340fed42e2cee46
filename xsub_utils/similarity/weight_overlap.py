"""How much two weight masks overlap, in all and by part of the model, beside chance."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from xsub_utils._internal.validation import one_of
from xsub_utils.similarity.chance import ratio
from xsub_utils.weights.masks import WeightMask, require_weight_mask
from xsub_utils.weights.prunable import matrix

PARTS = ("total", "stack", "layer", "component")


def mask_overlap(a: WeightMask, b: WeightMask, *, by: str = "total") -> pd.DataFrame:
    """Jaccard index of two weight masks, and what chance gives.

    Args:
        a, b: Name → True where a weight is kept. Only matrices that both name count: of models for different tasks one
            may have a pooler that the other lacks.
        by: "total", "stack", "layer" or "component"; what is in no layer, such as the pooler, counts in "total",
            "stack" and "component" only. Layers and components of encoder and decoder are told apart.

    Returns:
        part (a layer is a number, or with two stacks such as "decoder 1"), jaccard, expected (by chance, of masks that
        keep as many entries anywhere in the part), expected_within (as many of every matrix). Both are ratios of
        expected counts, which for n weights differ from the expected ratio by the order of 1 / n.

    Raises:
        ValueError: If the masks have no matrix in common, or one is of another shape, or `by` is unknown.

    Source: Foroutan et al. 2022, section 5.
    """
    one_of("by", by, PARTS)
    for argument, mask in (("a", a), ("b", b)):
        require_weight_mask(mask, argument)
    counts = _counts(a, b).assign(part=_parts([name for name in a if name in b], by)).dropna(subset="part")
    table = counts.groupby("part", sort=False)[["size", "a", "b", "both", "within"]].sum()
    size, kept, other = (table[name].to_numpy(dtype=float) for name in ("size", "a", "b"))
    shared = {"jaccard": table["both"], "expected": ratio(kept * other, size), "expected_within": table["within"]}
    found = {name: ratio(np.asarray(both), kept + other - np.asarray(both)) for name, both in shared.items()}
    return pd.DataFrame(found, index=table.index).reset_index()


def _parts(names: Sequence[str], by: str) -> pd.Series:
    """To which part each matrix belongs; none for what is in no layer."""
    places = [matrix(name) for name in names]
    two = len({place.stack for place in places}) > 1 and by in ("layer", "component")
    values = ["all" if by == "total" else getattr(place, by) for place in places]
    if two:
        values = [
            None if value is None else f"{place.stack} {value}" for place, value in zip(places, values, strict=True)
        ]
    return pd.Series(values, dtype=object)


def joint_overlap(masks: Iterable[WeightMask]) -> float:
    """Share of the weights that all masks keep among those that any of them keeps.

    Raises:
        ValueError: If there is no mask, or they are of different matrices or shapes.

    Source: Foroutan et al. 2022, section 5.
    """
    masks = list(masks)
    if not masks:
        raise ValueError("masks: there is none; one at least would be right")
    shapes = [{name: tuple(one.shape) for name, one in mask.items()} for mask in masks]
    if other := [number for number, one in enumerate(shapes) if one != shapes[0]]:
        raise ValueError(f"masks: number {other[0] + 1} has other matrices, or other shapes, than the first")
    every = some = 0
    for name in masks[0]:
        stack = [_array(name, one) for one in masks]
        every += np.count_nonzero(np.logical_and.reduce(stack))
        some += np.count_nonzero(np.logical_or.reduce(stack))
    return float(ratio(every, some))


def _counts(a: WeightMask, b: WeightMask) -> pd.DataFrame:
    """For each common matrix: size, entries kept by a, by b, by both, and by both by chance."""
    rows = []
    for name in (name for name in a if name in b):
        one, other = _array(name, a), _array(name, b)
        if one.shape != other.shape:
            raise ValueError(f"b: {name!r} is of shape {other.shape}, in a of {one.shape}; masks of one model, please")
        kept = np.count_nonzero(one), np.count_nonzero(other)
        rows.append((one.size, *kept, np.count_nonzero(one & other), kept[0] * kept[1] / max(one.size, 1)))
    if not rows:
        raise ValueError("a, b: the masks have no matrix in common")
    return pd.DataFrame(rows, columns=["size", "a", "b", "both", "within"])


def _array(name: str, mask: Mapping[str, Tensor]) -> np.ndarray:
    return mask[name].numpy(force=True)
