"""Gradients of one parameter for each example of a batch, in one of three forms; and their inner products.

- `Outer`: The gradient of a weight matrix is a sum of outer products, one for each position. The factors are far
  smaller than the matrix where few positions count, as behind the first token of a classifier.
- `Rows`: The gradient of an embedding has a row for each token that occurs.
- `Vector`: Any gradient, written out.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

_OVERHEAD = 256  # multiplications that an entry of the products of factors costs beside its own, as it is memory-bound
_BLOCK = 256  # pairs of rows of a token from which on a matrix product of its own pays
_PAIRS = 2**16  # of rows multiplied at a time


@dataclass(frozen=True)
class Vector:
    """Gradients of any parameter, written out: a row of entries for each example."""

    values: Float[Tensor, "examples entries"]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def size(self) -> int:
        """Bytes of an example."""
        return self.values.shape[1] * self.values.element_size()

    def to(self, dtype: torch.dtype) -> "Vector":
        return Vector(self.values.to(dtype))

    def squared_norms(self) -> Float[Tensor, " examples"]:
        return torch.linalg.vector_norm(self.values, dim=1, dtype=_wide(self.values.dtype)).square()

    def written_out(self) -> "Vector":
        return self

    def pooled(self, weights: Float[Tensor, "groups examples"]) -> "Vector":
        """Weighted sums over the examples."""
        return Vector(weights.to(self.values) @ self.values)

    def masked(self, mask: Tensor) -> "Vector":
        """Without the entries that a mask of the parameter's shape switches off."""
        return Vector(self.values * mask.flatten().to(self.values))


@dataclass(frozen=True)
class Outer:
    """Gradients of a matrix as factors: of each example the sum over positions of rows ⊗ columns."""

    rows: Float[Tensor, "examples positions height"]
    columns: Float[Tensor, "examples positions width"]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        """Bytes of an example."""
        positions, width = self.rows.shape[1], self.rows.shape[2] + self.columns.shape[2]
        return positions * width * self.rows.element_size()

    def to(self, dtype: torch.dtype) -> "Outer":
        return Outer(self.rows.to(dtype), self.columns.to(dtype))

    def compact(self) -> "Outer":
        """Without positions that no gradient reaches: padding, and all but the first token behind a classifier."""
        reached = (self.rows != 0).any(-1)
        most = int(reached.sum(1).max()) if len(self) else 0
        if most == reached.shape[1]:
            return self
        order = reached.int().argsort(dim=1, descending=True, stable=True)[:, :most, None]
        return Outer(*(side.gather(1, order.expand(-1, -1, side.shape[2])) for side in (self.rows, self.columns)))

    def is_smaller(self, positions: int) -> bool:
        """Whether factors cost less in an inner product with others of so many positions than written out."""
        (here, height), width = self.rows.shape[1:], self.columns.shape[2]
        return here * positions * (height + width + _OVERHEAD) < height * width

    def written_out(self, out: Tensor | None = None) -> Vector:
        """The matrices themselves, row after row; into `out`, (examples, height · width), if it is given."""
        shape = len(self), self.rows.shape[2], self.columns.shape[2]
        out = None if out is None else out.view(shape)
        return Vector(torch.bmm(self.rows.transpose(1, 2), self.columns, out=out).flatten(1))

    def squared_norms(self) -> Float[Tensor, " examples"]:
        rows, columns = (widened(torch.bmm(side, side.transpose(1, 2))) for side in (self.rows, self.columns))
        return (rows * columns).sum((1, 2))

    def pooled(self, weights: Float[Tensor, "groups examples"]) -> Vector:
        """Weighted sums over the examples, written out."""
        return self.written_out().pooled(weights)

    def masked(self, mask: Tensor) -> Vector:
        """Without the entries that a mask of the parameter's shape switches off, written out."""
        return self.written_out().masked(mask)


@dataclass(frozen=True)
class Rows:
    """Gradients of an embedding: one row for each distinct token of an example, sorted by token.

    Attributes:
        example: Number of the example that each row belongs to.
        token: Id of its token.
        values: The row.
        examples: How many there are, those without rows included.
        vocabulary: Rows of the embedding.
    """

    example: Int[Tensor, " rows"]
    token: Int[Tensor, " rows"]
    values: Float[Tensor, "rows width"]
    examples: int
    vocabulary: int

    @classmethod
    def summed(cls, example: Tensor, token: Tensor, values: Tensor, examples: int, vocabulary: int) -> "Rows":
        """Rows of the same example and token become one; rows of zeros, such as those of padding, are left out."""
        used = (values != 0).any(-1)
        example, token, values = example[used], token[used], values[used]
        pairs, place = torch.unique(token * examples + example, return_inverse=True)
        total = values.new_zeros(len(pairs), values.shape[1]).index_add_(0, place, values)
        return cls(pairs % examples, pairs // examples, total, examples, vocabulary)

    def __len__(self) -> int:
        return self.examples

    @property
    def size(self) -> int:
        """Bytes of an example, in the mean, rounded up."""
        total = self.values.numel() * self.values.element_size() + 16 * len(self.token)
        return -(-total // max(1, self.examples))

    def to(self, dtype: torch.dtype) -> "Rows":
        return replace(self, values=self.values.to(dtype))

    def squared_norms(self) -> Float[Tensor, " examples"]:
        squares = widened(self.values).square().sum(1)
        return squares.new_zeros(self.examples).index_add_(0, self.example, squares)

    def pooled(self, weights: Float[Tensor, "groups examples"]) -> "Rows":
        """Weighted sums over the examples."""
        groups = len(weights)
        group = torch.cat([torch.full_like(self.example, number) for number in range(groups)])
        values = torch.cat([self.values * weight[self.example, None].to(self.values) for weight in weights])
        return Rows.summed(group, self.token.repeat(groups), values, groups, self.vocabulary)

    def masked(self, mask: Tensor) -> "Rows":
        """Without the entries that a mask of the parameter's shape switches off."""
        kept = mask.to(self.values.device)[self.token]
        return replace(self, values=self.values * kept.to(self.values))

    def written_out(self) -> Vector:
        """The matrices themselves, row after row."""
        matrices = self.values.new_zeros(self.examples, self.vocabulary, self.values.shape[1])
        matrices[self.example, self.token] = self.values
        return Vector(matrices.flatten(1))

    def as_outer(self) -> Outer:
        """As factors, for a matrix that is used both as an embedding and otherwise: tied weights."""
        rank = torch.arange(len(self.token), device=self.token.device)
        order = self.example.argsort(stable=True)
        counts = torch.bincount(self.example, minlength=self.examples)
        place = torch.empty_like(rank)
        place[order] = rank - (counts.cumsum(0) - counts).repeat_interleave(counts)
        shape = self.examples, int(counts.max()) if self.examples else 0
        one_hot = self.values.new_zeros(*shape, self.vocabulary)
        one_hot[self.example, place, self.token] = 1
        values = self.values.new_zeros(*shape, self.values.shape[1])
        values[self.example, place] = self.values
        return Outer(one_hot, values)


FactoredGradients = Vector | Outer | Rows
_Form = TypeVar("_Form", Vector, Outer, Rows)


def joined(batches: Sequence[FactoredGradients]) -> FactoredGradients:
    """The gradients of several batches, one after the other; all in one form."""
    if rows := _all_in(Rows, batches):
        starts = torch.tensor([0, *map(len, rows)]).cumsum(0).tolist()
        example = torch.cat([batch.example + start for batch, start in zip(rows, starts, strict=False)])
        tokens, values = [batch.token for batch in rows], [batch.values for batch in rows]
        return Rows.summed(example, torch.cat(tokens), torch.cat(values), starts[-1], rows[0].vocabulary)
    if outer := _all_in(Outer, batches):
        longest = max(batch.rows.shape[1] for batch in outer)
        return Outer(*(torch.cat([_padded(side, longest) for side in sides]) for sides in _sides(outer)))
    return Vector(torch.cat([batch.values for batch in _all_in(Vector, batches)]))


def added(uses: Sequence[FactoredGradients]) -> FactoredGradients:
    """The gradient of a parameter that the model uses several times in a pass: the sum over its uses.

    Args:
        uses: What each use contributes to the gradients of the same examples.
    """
    if len(uses) == 1:
        return uses[0]
    if rows := _all_in(Rows, uses):
        example, token = torch.cat([use.example for use in rows]), torch.cat([use.token for use in rows])
        values = torch.cat([use.values for use in rows])
        return Rows.summed(example, token, values, len(rows[0]), rows[0].vocabulary)
    factors = [use.as_outer() if isinstance(use, Rows) else use for use in uses]
    if outer := _all_in(Outer, factors):
        return Outer(*(torch.cat(sides, 1) for sides in _sides(outer)))
    return Vector(reduce(operator.add, [use.written_out().values for use in factors]))


def inner(x: FactoredGradients, y: FactoredGradients) -> Float[Tensor, "examples others"]:
    """Inner products of the gradients of all examples of x with all of y; both in one form."""
    if isinstance(x, Vector) and isinstance(y, Vector):
        return widened(x.values @ y.values.T)
    if isinstance(x, Outer) and isinstance(y, Outer):
        (n, t), (m, s) = x.rows.shape[:2], y.rows.shape[:2]
        products = [a.flatten(0, 1) @ b.flatten(0, 1).T for a, b in ((x.rows, y.rows), (x.columns, y.columns))]
        return (widened(products[0]) * widened(products[1])).view(n, t, m, s).sum((1, 3))
    if isinstance(x, Rows) and isinstance(y, Rows):
        return _inner_of_rows(x, y)
    raise TypeError(f"gradients: expected two of one form, got {type(x).__name__} and {type(y).__name__}")


def _inner_of_rows(x: Rows, y: Rows) -> Tensor:
    """Only tokens that both sides have count: the frequent ones as products of blocks, the others pair by pair."""
    total = x.values.new_zeros(len(x), len(y), dtype=_wide(x.values.dtype))
    (first, count), (other_first, other_count) = _common_blocks(x.token, y.token)
    pairs = count * other_count
    frequent = pairs >= _BLOCK
    blocks = torch.stack([first, first + count, other_first, other_first + other_count], 1)[frequent].tolist()
    for start, stop, other_start, other_stop in blocks:
        a, b = slice(start, stop), slice(other_start, other_stop)
        total[x.example[a, None], y.example[b]] += widened(x.values[a] @ y.values[b].T)
    first, other_first, other_count, pairs = (column[~frequent] for column in (first, other_first, other_count, pairs))
    place = torch.arange(int(pairs.sum()), device=first.device) - (pairs.cumsum(0) - pairs).repeat_interleave(pairs)
    width = other_count.repeat_interleave(pairs)
    rows, others = first.repeat_interleave(pairs) + place // width, other_first.repeat_interleave(pairs) + place % width
    for row, other in zip(rows.split(_PAIRS), others.split(_PAIRS), strict=True):
        products = widened((x.values[row] * y.values[other]).sum(1))
        total.index_put_((x.example[row], y.example[other]), products, accumulate=True)
    return total


def _common_blocks(x: Tensor, y: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """First row and number of rows, in two sorted lists, of all tokens that both have."""
    (tokens, counts), (others, other_counts) = (torch.unique_consecutive(side, return_counts=True) for side in (x, y))
    firsts, other_firsts = counts.cumsum(0) - counts, other_counts.cumsum(0) - other_counts
    here, there = torch.isin(tokens, others), torch.isin(others, tokens)
    return (firsts[here], counts[here]), (other_firsts[there], other_counts[there])


def widened(values: Tensor) -> Tensor:
    """In float32 at least: sums of half precision are kept in it."""
    return values.to(_wide(values.dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _all_in(form: type[_Form], gradients: Sequence[FactoredGradients]) -> list[_Form]:
    """The gradients, if all of them are in this form; else an empty list."""
    same = [each for each in gradients if isinstance(each, form)]
    return same if len(same) == len(gradients) else []


def _sides(gradients: Sequence[Outer]) -> tuple[list[Tensor], list[Tensor]]:
    return [each.rows for each in gradients], [each.columns for each in gradients]


def _padded(side: Tensor, positions: int) -> Tensor:
    """With positions of zeros at the end."""
    return torch.nn.functional.pad(side, (0, 0, 0, positions - side.shape[1]))
