"""A subnetwork and the search that it comes from: read at other thresholds, written to a folder, and loaded."""

import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from xsub_utils._internal.io import explained, sha256, sync, write_bytes_atomic, write_json
from xsub_utils._internal.places import folder_to_write
from xsub_utils._internal.validation import invalid, wrong_type
from xsub_utils.evaluation.metrics import metric_named

_RECORD, _TENSORS = "subnetwork.json", "subnetwork.safetensors"
_FORMAT = "xsub_utils.Subnetwork 1"


@dataclass(frozen=True, eq=False)
class Step:
    """One mask of a search: what the masked model scores, and how important each head is to it.

    Attributes:
        mask: True = kept.
        score: Score of the masked model on the data that decide when to stop.
        importance: Importance in the masked model, of removed heads too; None for the last mask of a search.
    """

    mask: Bool[Tensor, "layers heads"]
    score: float
    importance: Float[Tensor, "layers heads"] | None

    @property
    def kept(self) -> int:
        """Number of heads kept."""
        return int(self.mask.sum())


@dataclass(frozen=True, eq=False)
class Subnetwork:
    """A mask and the search that it comes from.

    Attributes:
        mask: The last mask before the first that fails the threshold; True = kept.
        failed: The first mask that fails; None if none did.
        trajectory: Every mask tried, from the full model on; each is part of the one before.
        baseline: Score of the full model.
        metric: The metric of all scores.
        retain: Share of the baseline that the mask keeps; None after a search for a sparsity.

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.load_task("mlm", ["qaa"], sizes={"train": 2, "importance": 4, "validation": 4})
        >>> model, tokenizer = xs.load_encoder("minibabel-base", "mlm")
        >>> importance, validation = (
        ...     xs.make_batches(task.examples(split, "qaa"), tokenizer, "mlm") for split in ("importance", "validation")
        ... )
        >>> subnetwork = xs.find_subnetwork(model, importance, validation, metric="perplexity", sparsity=0.5, step=0.25)
        >>> [step.kept for step in subnetwork.trajectory]
        [48, 36, 24]
        >>> folder = subnetwork.save("subnetwork")
        >>> bool((xs.Subnetwork.load(folder).mask == subnetwork.mask).all())
        True
    """

    mask: Bool[Tensor, "layers heads"]
    failed: Bool[Tensor, "layers heads"] | None
    trajectory: Sequence[Step]
    baseline: float
    metric: str
    retain: float | None = None

    def __repr__(self) -> str:
        score = next(step.score for step in self.trajectory if torch.equal(step.mask, self.mask))
        kept = f"{int(self.mask.sum())} of {self.mask.numel()} heads"
        return f"Subnetwork({kept}, {self.metric} {score:.3f}, full model {self.baseline:.3f})"

    def at(self, retain: float) -> "Subnetwork":
        """The subnetwork that the same search gives at another threshold.

        Args:
            retain: Share of the baseline to keep, as in `find_subnetwork`.

        Raises:
            ValueError: If the search ended before a mask failed this threshold.
        """
        return cut(self.trajectory, self.metric, retain)

    def table(self) -> pd.DataFrame:
        """Score against sparsity, one row per mask of the search.

        Returns:
            Columns `step`, `kept` (heads), `sparsity` (share of the heads removed), `score` and `retention`: the score
            as a share of the baseline or, where lower is better, the baseline as a share of the score.
        """
        rows = [(index, step.kept, step.score) for index, step in enumerate(self.trajectory)]
        table = pd.DataFrame(rows, columns=["step", "kept", "score"])
        table.insert(2, "sparsity", 1 - table["kept"] / self.mask.numel())
        return table.assign(retention=metric_named(self.metric).oriented(table["score"] / self.baseline))

    def save(self, folder: str | Path) -> Path:
        """Writes the subnetwork with its whole search to a folder, completely or not at all.

        Args:
            folder: A new or empty folder, or one with a saved subnetwork, which is replaced.

        Returns:
            The folder: `subnetwork.json` with metric, thresholds and scores, `subnetwork.safetensors` with masks and
            importances.

        Raises:
            ValueError: If the folder holds anything else.
            StoreError: If it cannot be written.
        """
        folder = folder_to_write(folder, "folder")
        if folder.resolve() in (here := Path.cwd().resolve(), *here.parents):
            got = f"{str(folder)!r}, where this process works"
            raise invalid("folder", "a folder of its own", got, "name one in it")
        present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if present - {_RECORD, _TENSORS} or (folder.exists() and not folder.is_dir()):
            holds = f"{folder} with {', '.join(sorted(present))}" if present else f"the file {folder}"
            raise invalid("folder", "a new or empty one, or a saved subnetwork", holds, "choose another")
        _write(folder.resolve(), self)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Subnetwork":
        """The subnetwork that `save` wrote, with its whole search, every number as it was.

        Args:
            folder: As for `save`.

        Raises:
            FileNotFoundError: If there is no such folder, or no subnetwork in it.
            ValueError: If it is damaged.
        """
        folder = Path(folder).expanduser()
        for name in (_RECORD, _TENSORS):
            if not (folder / name).is_file():
                problem = f"{folder}, which lacks {name}" if folder.is_dir() else f"{folder}, which does not exist"
                raise FileNotFoundError(str(invalid("folder", "one that Subnetwork.save wrote", problem)))
        try:
            record = json.loads((folder / _RECORD).read_text("utf-8"))
            if record["format"] != _FORMAT or record["sha256"] != sha256(folder / _TENSORS):
                raise ValueError(f"{_RECORD} does not fit {_TENSORS}")
            return cls(**_read(record, load((folder / _TENSORS).read_bytes())))
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            expected = "one that Subnetwork.save wrote"
            raise invalid("folder", expected, f"{folder}, which is damaged ({error})", "save it again") from error


def cut(trajectory: Sequence[Step], metric: str, retain: float) -> Subnetwork:
    """The subnetwork at a threshold; masks after the first failure do not count, even if they pass.

    Raises:
        ValueError: If `retain` is no share, or the search ended before a mask failed it.
    """
    check_share("retain", retain)
    baseline = trajectory[0].score
    passing = [metric_named(metric).keeps(step.score, baseline, retain) for step in trajectory]
    if all(passing) and trajectory[-1].kept:
        raise invalid(
            "retain",
            "a share that the last mask of the search fails",
            f"{retain}, still met by its {trajectory[-1].kept} heads",
            "search with full_trajectory=True",
        )
    first = len(passing) if all(passing) else passing.index(False)
    failed = None if all(passing) else trajectory[first].mask
    return Subnetwork(trajectory[first - 1].mask, failed, trajectory, baseline, metric, retain)


def check_share(argument: str, value: float) -> None:
    """Raises unless a value is a share.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is outside of [0, 1].
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise wrong_type(argument, "a share in [0, 1]", repr(value))
    if not 0 <= value <= 1:
        raise invalid(argument, "a share in [0, 1]", value)


def _write(folder: Path, subnetwork: Subnetwork) -> None:
    """Writes a subnetwork beside its place and moves it there."""
    suffix = secrets.token_hex(4)
    partial, replaced = (folder.with_name(f".{folder.name}.{suffix}.{end}") for end in ("partial", "replaced"))
    with explained(folder):
        partial.mkdir(parents=True)
        try:
            write_bytes_atomic(partial / _TENSORS, save(_tensors(subnetwork)))
            write_json(partial / _RECORD, _record(subnetwork) | {"sha256": sha256(partial / _TENSORS)})
            if folder.exists():
                folder.rename(replaced)
            partial.rename(folder)
            sync(folder.parent)
        finally:
            if replaced.exists() and not folder.exists():
                replaced.rename(folder)
            for leftover in (partial, replaced):
                shutil.rmtree(leftover, ignore_errors=True)


def _record(subnetwork: Subnetwork) -> dict[str, Any]:
    """What is no tensor, as JSON holds it; it keeps every digit of a float."""
    return {
        "format": _FORMAT,
        "metric": subnetwork.metric,
        "retain": subnetwork.retain,
        "baseline": subnetwork.baseline,
        "kept": int(subnetwork.mask.sum()),
        "steps": [
            {"kept": step.kept, "score": step.score, "importance": step.importance is not None}
            for step in subnetwork.trajectory
        ],
    }


def _tensors(subnetwork: Subnetwork) -> dict[str, Tensor]:
    tensors = {"mask": subnetwork.mask} | ({} if subnetwork.failed is None else {"failed": subnetwork.failed})
    for index, step in enumerate(subnetwork.trajectory):
        tensors[f"mask.{index}"] = step.mask
        if step.importance is not None:
            tensors[f"importance.{index}"] = step.importance
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def _read(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields of a subnetwork."""
    trajectory = [
        Step(
            tensors[f"mask.{index}"],
            step["score"],
            tensors[f"importance.{index}"] if step["importance"] else None,
        )
        for index, step in enumerate(record["steps"])
    ]
    kept = {name: record[name] for name in ("baseline", "metric", "retain")}
    return {"mask": tensors["mask"], "failed": tensors.get("failed"), "trajectory": trajectory, **kept}
