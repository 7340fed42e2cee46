"""The order of training: examples of similar length together, or every batch of one language."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int
from torch.utils.data import Sampler

from xsub_utils._internal.amounts import amount
from xsub_utils._internal.validation import one_of
from xsub_utils.training.rows import Rows

ORDERS = ("round-robin", "proportional", "temperature")
POOL = 50  # batches among which examples are sorted by length


class LengthGrouped(Sampler[int]):
    """Random order of the examples in which those of a batch are similarly long, so that little is padded.

    Args:
        rows: The examples.
        batch_size: Examples per batch.
        seed: With the epoch, decides the order and the masking.
    """

    def __init__(self, rows: Rows, batch_size: int, seed: int) -> None:
        self.rows, self.batch_size, self.seed, self.epoch = rows, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; accelerate calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        self.rows.start_epoch(rng)
        return iter(self._order(rng).tolist())

    def _order(self, rng: np.random.Generator) -> Int[np.ndarray, " examples"]:
        count, size = len(self), self.batch_size
        shuffled = rng.permutation(count)
        pool = np.arange(count) // (size * POOL)
        grouped = shuffled[np.lexsort((self.rows.lengths[shuffled], pool))]
        full = count // size * size  # the batch that is not full stays at the end
        return np.concatenate([rng.permutation(grouped[:full].reshape(-1, size)).ravel(), grouped[full:]])


def check_order(order: str, temperature: float) -> None:
    """Raises unless the order is known and the temperature above 0.

    Raises:
        ValueError: If `order` is none of `ORDERS`, or the temperature not above 0.
    """
    one_of("order", order, ORDERS)
    amount("temperature", temperature, above=0)


class ByLanguage(Sampler[list[int]]):
    """Batches of one language each, of similarly long examples; seed and epoch alone decide them.

    Args:
        rows: The examples.
        batch_size: Examples per batch, about: there are as many batches as mixed ones would be, divided among the
            languages by their numbers of examples, but at least one of each; those of a language are equally large.
        seed: With the epoch, decides the order, and the masking for masked language modelling.
        order: "round-robin" (a batch of each language in turn, in a new order each round; those of a language with
            fewer are spread evenly), "proportional" (all batches of all languages in random order) or "temperature" (as
            many; the language of each is drawn with probability n^(1/T), n being its examples, which start anew when
            used up).
        temperature: T; 1 is proportional in the mean, more favours languages with few examples.

    Raises:
        ValueError: As `check_order`.

    Source: temperature as in Conneau et al. 2020, section 3.1 (α = 1 / T).
    """

    def __init__(self, rows: Rows, batch_size: int, seed: int, order: str, temperature: float) -> None:
        check_order(order, temperature)
        self.rows, self.batch_size, self.seed, self.epoch = rows, batch_size, seed, 0
        self.order, self.temperature = order, temperature
        languages = np.array(rows.languages)
        self.places = [np.flatnonzero(languages == language) for language in dict.fromkeys(rows.languages)]
        self.counts = _shared_out(-(-len(rows) // batch_size), [len(places) for places in self.places])

    def __len__(self) -> int:
        return sum(self.counts)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; accelerate calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        self.rows.start_epoch(rng)
        waiting = [self._batches(number, rng) for number in range(len(self.places))]
        for number in self._turns(rng).tolist():
            if not waiting[number]:
                waiting[number] = self._batches(number, rng)
            yield waiting[number].pop().tolist()

    def _batches(self, number: int, rng: np.random.Generator) -> list[np.ndarray]:
        """The examples of a language in batches, in random order."""
        places, count = self.places[number], self.counts[number]
        shuffled = rng.permutation(places)
        by_length = shuffled[np.argsort(self.rows.lengths[shuffled], kind="stable")]
        batches = np.array_split(by_length, count)
        return [batches[i] for i in rng.permutation(count)]

    def _turns(self, rng: np.random.Generator) -> Int[np.ndarray, " batches"]:
        """Number of the language of each batch."""
        numbers = np.arange(len(self.places))
        if self.order == "temperature":
            sizes = np.array([len(places) for places in self.places])
            weights = (sizes / sizes.max()) ** (1 / self.temperature)
            return rng.choice(numbers, size=len(self), p=weights / weights.sum())
        turns = np.repeat(numbers, self.counts)
        if self.order == "proportional":
            return rng.permutation(turns)
        when = np.concatenate([(np.arange(count) + rng.random(count)) / count for count in self.counts])
        return turns[np.argsort(when)]


def _shared_out(total: int, sizes: Sequence[int]) -> list[int]:
    """So many batches, at least one each, divided in proportion to sizes by the largest remainders."""
    exact = np.array(sizes) * total / sum(sizes)
    counts = np.maximum(1, exact.astype(int))
    for number in np.argsort(counts - exact, kind="stable")[: max(0, total - int(counts.sum()))]:
        counts[number] += 1
    return counts.tolist()
