"""How much two weight masks overlap, in all and by part of the model, beside chance."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.similarity.chance import ratio
from xsub_utils.weights.masks import WeightMask, require_weight_mask
from xsub_utils.weights.prunable import matrix

PARTS = ("total", "stack", "layer", "component")


def mask_overlap(a: WeightMask, b: WeightMask, *, by: str = "total") -> pd.DataFrame:
    """Jaccard index of two weight masks, and what chance gives.

    Args:
        a, b: Name -> True where a weight is kept. Only matrices that both name count: of models for different tasks one
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

    Example:
        >>> import torch
        >>> import xsub_utils as xs
        >>> name = "roberta.encoder.layer.{}.attention.self.query.weight"
        >>> a = {name.format(layer): torch.arange(8).view(2, 4) < 4 for layer in range(2)}
        >>> b = {name.format(layer): torch.arange(8).view(2, 4) < 2 + layer for layer in range(2)}
        >>> xs.mask_overlap(a, b, by="layer").round(3)
           part  jaccard  expected  expected_within
        0     1     0.50     0.200            0.200
        1     2     0.75     0.273            0.273
    """
    one_of("by", by, PARTS)
    for argument, mask in (("a", a), ("b", b)):
        require_weight_mask(mask, argument)
    counts = _counts(a, b).assign(part=_parts([name for name in a if name in b], by)).dropna(subset="part")
    table = counts.groupby("part", sort=False)[["size", "a", "b", "both", "within"]].sum()
    size, kept, other = (table[name].to_numpy(dtype=float) for name in ("size", "a", "b"))
    shared = {"jaccard": table["both"], "expected": ratio(kept * other, size), "expected_within": table["within"]}
    ratios = {name: ratio(np.asarray(both), kept + other - np.asarray(both)) for name, both in shared.items()}
    return pd.DataFrame(ratios, index=table.index).reset_index()


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
        raise invalid("masks", "at least one", "none")
    shapes = [{name: tuple(kept.shape) for name, kept in mask.items()} for mask in masks]
    if other := [number for number, matrices in enumerate(shapes) if matrices != shapes[0]]:
        raise invalid("masks", "the same matrices in every mask", f"others in number {other[0] + 1} than in the first")
    by_all = by_any = 0
    for name in masks[0]:
        stack = [_array(name, mask) for mask in masks]
        by_all += int(np.count_nonzero(np.logical_and.reduce(stack)))
        by_any += int(np.count_nonzero(np.logical_or.reduce(stack)))
    return float(ratio(by_all, by_any))


def _counts(a: WeightMask, b: WeightMask) -> pd.DataFrame:
    """For each common matrix: size, entries kept by a, by b, by both, and by both by chance."""
    rows = []
    for name in (name for name in a if name in b):
        first, second = _array(name, a), _array(name, b)
        if first.shape != second.shape:
            raise invalid("b", f"a mask of shape {first.shape} for {name!r}, as in a", second.shape)
        kept = np.count_nonzero(first), np.count_nonzero(second)
        rows.append((first.size, *kept, np.count_nonzero(first & second), kept[0] * kept[1] / max(first.size, 1)))
    if not rows:
        raise invalid("a, b", "masks with a matrix in common", f"{len(a)} and {len(b)} matrices, all different")
    return pd.DataFrame(rows, columns=["size", "a", "b", "both", "within"])


def _array(name: str, mask: Mapping[str, Tensor]) -> np.ndarray:
    return mask[name].numpy(force=True)
