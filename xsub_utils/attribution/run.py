"""All checkpoints one after the other, with one set of test examples."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from xsub_utils._internal.validation import invalid
from xsub_utils.attribution.loading import Load, check_shapes, load_checkpoint, parameter_shapes, structure_of
from xsub_utils.attribution.options import InfluenceOptions
from xsub_utils.attribution.passes import CheckpointPass, Gradients, divided
from xsub_utils.attribution.projection import Projection
from xsub_utils.attribution.score_cache import ScoreCache
from xsub_utils.attribution.slices import examples_between, on_device_of
from xsub_utils.gradients.factors import FactoredGradients, added
from xsub_utils.gradients.prepared import prepared
from xsub_utils.models.example_order import Batch, length

SHARD = 16  # batches of training examples between two saves
AT_ONCE = 64  # test examples in a backward pass


@dataclass(frozen=True)
class Run:
    """What is the same at all checkpoints; see `influence`."""

    checkpoints: Sequence[Any]
    load: Load | None
    test: Sequence[Batch]
    gates: Tensor | None
    weight_masks: Mapping[str, Tensor]
    test_groups: tuple[int, ...] | None  # number of the group of each test example
    options: InfluenceOptions
    memory: float
    out: Path | None
    progress: bool

    def over(self, train: Sequence[Batch]) -> tuple[Float[Tensor, "checkpoints groups test train"], tuple[str, ...]]:
        """Contributions to the scores of these training examples, and the names of the groups of parameters."""
        blocks: list[Tensor] = []
        projection = Projection(self.options.projection, self.options.seed) if self.options.projection else None
        groups: tuple[str, ...] = ()
        first: dict[str, tuple[int, ...]] = {}
        verified: set[tuple] = set()
        for number, entry in enumerate(self.checkpoints):
            model = load_checkpoint(entry, self.load)
            shapes = parameter_shapes(model)
            first = first or shapes
            check_shapes(number, shapes, first)
            with self._pass(model, projection) as (passing, trained):
                test, train = on_device_of(model, self.test), on_device_of(model, train)
                longest = max(test, key=lambda batch: sum(values[0].numel() for values in batch.values()))
                if (structure := structure_of(model)) not in verified:
                    passing.verify(longest)
                    verified.add(structure)
                fitting = self._fitting(passing, train, longest)
                data = [self.gates, self.weight_masks, self.test_groups, self.test, train, shapes, sorted(trained)]
                cache = ScoreCache(self.out, model, self.options, data)
                label = f"checkpoint {number + 1} of {len(self.checkpoints)}"
                blocks.append(self._at(passing, train, test, cache, fitting, label))
            groups = passing.groups
        return torch.stack(blocks), groups

    @contextmanager
    def _pass(self, model: nn.Module, projection: Projection | None) -> Iterator[tuple[CheckpointPass, set[str]]]:
        """A checkpoint made ready, and the names of the parameters that a step would move."""
        named = dict(model.named_parameters())
        trained = {name for name, value in named.items() if value.requires_grad} or set(named)
        with prepared(model, self.gates, self.weight_masks, self.options.part) as ready:
            yield (
                CheckpointPass(
                    ready,
                    self.options,
                    trained=trained,
                    weight_masks=self.weight_masks,
                    grouped=self.test_groups is not None,
                    projection=projection,
                ),
                trained,
            )

    def _at(
        self,
        passing: CheckpointPass,
        train: Sequence[Batch],
        test: Sequence[Batch],
        cache: ScoreCache,
        fitting: int,
        label: str,
    ) -> Float[Tensor, "groups test train"]:
        """Contributions at one checkpoint, computed for as many test examples in a turn as fit."""
        count = sum(map(length, test))
        chunk = count if self.test_groups else fitting
        starts = range(0, count, chunk)
        bar = tqdm(total=len(starts) * len(train), desc=f"influence, {label}", unit="batch", delay=5, leave=False,
                   disable=not self.progress)  # fmt: skip
        columns = []
        with bar:
            for start in starts:
                turn, side, rows = slice(start, min(start + chunk, count)), None, []
                for first in range(0, len(train), SHARD):
                    block = cache.load(turn, first)
                    if block is None:
                        side = side or self._test_side(passing, test, turn, fitting)
                        shard = train[first : first + SHARD]
                        block = torch.cat([passing.scores(batch, *side) for batch in shard], 1).cpu()
                        cache.save(turn, first, block)
                    rows.append(block)
                    bar.update(len(train[first : first + SHARD]))
                columns.append(torch.cat(rows, 1))
        return torch.cat(columns, 2).transpose(1, 2)

    def _fitting(self, passing: CheckpointPass, train: Sequence[Batch], longest: Batch) -> int:
        """Test examples whose gradients fit into memory beside a training batch."""
        largest = max(train, key=lambda batch: sum(values.numel() for values in batch.values()))
        each, needed = passing.choose_forms(longest, largest)
        if needed + each > self.memory:
            raise invalid(
                "memory",
                f"at least {needed + each:.3g} bytes (a batch of {length(largest)} training examples takes about "
                f"{needed / 1e6:.0f} MB and a test example {each / 1e6:.1f} MB)",
                f"{self.memory:.3g}",
                "or give smaller batches, dtype=torch.bfloat16, or a projection",
            )
        return int((self.memory - needed) // each)

    def _test_side(
        self, passing: CheckpointPass, test: Sequence[Batch], turn: slice, fitting: int
    ) -> tuple[Gradients, Tensor]:
        """Gradients and norms of these test examples, or of the means of all of a group."""
        batches = examples_between(test, turn.start, turn.stop, min(fitting, AT_ONCE))
        if self.test_groups is None:
            return passing.test_side(batches)
        place = torch.tensor(self.test_groups)
        means = nn.functional.one_hot(place).T.double() / torch.bincount(place)[:, None]
        sums: dict[str, FactoredGradients] = {}
        first = 0
        for batch in batches:
            gradients, norms = passing.test_side([batch])
            share = means[:, first : first + length(batch)].to(norms)
            share = divided(share, norms) if self.options.normalize else share
            pooled = {name: each.pooled(share) for name, each in gradients.items()}
            sums = {name: added([*([sums[name]] if name in sums else []), each]) for name, each in pooled.items()}
            first += length(batch)
        return sums, torch.ones(len(means), device=norms.device, dtype=norms.dtype)
