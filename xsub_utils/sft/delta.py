"""Sparse differences between a fine-tuned model and the one it came from: saved small, applied, reverted, added."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from xsub_utils.files import write_bytes_atomic

Change = tuple[Tensor, Tensor]  # places in the flattened parameter (int), and what is added there
_KINDS = ("index", "value", "whole")
_FORMAT = "xsub-sparse-delta"


@dataclass(frozen=True)
class SparseDelta:
    """What a fine-tuning changed.

    Attributes:
        changes: Parameter name → places of the changed entries in the flattened parameter, and by how much.
        whole: Parameter name → its values, for parameters that the model it came from does not have.
    """

    changes: Mapping[str, Change]
    whole: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of changed entries; whole parameters not counted."""
        return sum(len(index) for index, _ in self.changes.values())


def sparse_delta(model: nn.Module, base: nn.Module) -> SparseDelta:
    """What distinguishes a model from the one that it was fine-tuned from, up to the rounding of one addition.

    Parameters that the base does not have, such as a new task head, are kept whole.

    Raises:
        ValueError: If a parameter has another shape in the base, or none of them are in the base.

    Source: Ansell et al. 2022, section 3 (the difference of parameters, and its composition by addition).
    """
    before = _all_names(base)
    changes, whole = {}, {}
    for name, parameter in model.named_parameters():
        after = parameter.detach()
        if name not in before:
            whole[name] = after.clone()
            continue
        if after.shape != before[name].shape:
            raise ValueError(
                f"base: {name!r} is of shape {tuple(before[name].shape)} there and {tuple(after.shape)} in the model; "
                "the model that was fine-tuned would be right"
            )
        difference = (after - before[name].detach().to(after)).flatten()
        index = difference.nonzero().flatten()
        if len(index):
            changes[name] = (index, difference[index])
    if whole and len(whole) == len(list(model.named_parameters())):
        raise ValueError("base: it has no parameter of the model; the model that was fine-tuned would be right")
    return SparseDelta(changes, whole)


def sum_deltas(*deltas: SparseDelta) -> SparseDelta:
    """The changes of all deltas together; their order does not matter, to the bit.

    Raises:
        ValueError: If there are none, or several hold the same parameter whole: two task heads cannot be added.
    """
    if not deltas:
        raise ValueError("deltas: there are none; at least one would be right")
    held = [name for delta in deltas for name in delta.whole]
    changed = dict.fromkeys(name for delta in deltas for name in delta.changes)
    if twice := [name for name in held if held.count(name) > 1 or name in changed]:
        raise ValueError(f"deltas: {twice[0]!r} is whole in one and there in another; only changes can be added")
    changes = {name: _sum([delta.changes[name] for delta in deltas if name in delta.changes]) for name in changed}
    return SparseDelta(changes, {name: values for delta in deltas for name, values in delta.whole.items()})


def _sum(changes: list[Change]) -> Change:
    """At every place the values are added from the smallest to the largest, in float64."""
    places = torch.cat([index for index, _ in changes]).unique()
    stacked = torch.zeros(len(changes), len(places), dtype=torch.float64, device=places.device)
    for row, (index, values) in zip(stacked, changes, strict=True):
        row[torch.searchsorted(places, index)] = values.double()
    return places, stacked.sort(0).values.sum(0).to(changes[0][1].dtype)


@contextmanager
def apply_delta(model: nn.Module, *deltas: SparseDelta, scale: float = 1.0) -> Iterator[nn.Module]:
    """Adds deltas to a model for as long as the context lasts; then all its weights are as before, to the bit.

    Whole parameters are put in where the model has them, and left out where it has not: a task model takes the
    changes that a language model's fine-tuning made in the encoder.

    Args:
        model: It is changed in place, and given to the `with` statement.
        deltas: As in `sum_deltas`.
        scale: Factor of the changes, below 1 where the sum of several goes too far.

    Raises:
        ValueError: If a change is of a parameter that the model lacks, or that is too small for it.

    Source: Ansell et al. 2022, section 3.3; for dense differences and the factor, Ilharco et al. 2023 (task vectors).
    """
    parameters = _all_names(model)
    total = sum_deltas(*(_with_names_of(delta, model) for delta in deltas))
    for name, (index, _) in total.changes.items():
        size = parameters[name].numel() if name in parameters else 0
        if len(index) and int(index.max()) >= size:
            raise ValueError(
                f"deltas: a change of entry {int(index.max())} of {name!r}, of which the model has {size}; deltas of a "
                "model of the same shape would be right"
            )
    whole = {name: values for name, values in total.whole.items() if name in parameters}
    if wrong := [name for name, values in whole.items() if values.shape != parameters[name].shape]:
        raise ValueError(f"deltas: {wrong[0]!r} has another shape in the model; a head for the same labels is needed")
    flat = {name: parameters[name].detach().view(-1) for name in (*total.changes, *whole)}
    places = {name: index.to(flat[name].device) for name, (index, _) in total.changes.items()}
    before = {name: flat[name][index] for name, index in places.items()}
    replaced = {name: flat[name].clone() for name in whole}
    try:
        for name, (_, values) in total.changes.items():
            flat[name].index_copy_(0, places[name], before[name] + scale * values.to(before[name]))
        for name, values in whole.items():
            flat[name].copy_(values.flatten())
        yield model
    finally:
        for name, index in places.items():
            flat[name].index_copy_(0, index, before[name])
        for name, values in replaced.items():
            flat[name].copy_(values)


def _all_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name; a tied one by each of its names."""
    return dict(model.named_parameters(remove_duplicate=False))


def _with_names_of(delta: SparseDelta, model: nn.Module) -> SparseDelta:
    """The delta in which a parameter that is tied in the model has one name, that of the model."""
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    names = {name: own[id(parameter)] for name, parameter in _all_names(model).items()}
    changes = {names.get(name, name): change for name, change in delta.changes.items()}
    return SparseDelta(changes, {names.get(name, name): values for name, values in delta.whole.items()})


def save_delta(path: str | Path, delta: SparseDelta) -> None:
    """Writes a delta as safetensors, whole or not at all; places as int32 where these suffice."""
    tensors = {}
    for name, (index, values) in delta.changes.items():
        small = not len(index) or int(index.max()) < 2**31
        tensors[f"index:{name}"] = index.to(torch.int32 if small else torch.int64).cpu().contiguous()
        tensors[f"value:{name}"] = values.cpu().contiguous()
    tensors |= {f"whole:{name}": values.cpu().contiguous() for name, values in delta.whole.items()}
    write_bytes_atomic(Path(path), save(tensors, {"format": _FORMAT}))


def load_delta(path: str | Path) -> SparseDelta:
    """A delta as it was saved.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or was not written by `save_delta`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: there is no file {str(path)!r}")
    found: dict[str, dict[str, Tensor]] = {kind: {} for kind in _KINDS}
    try:
        with safe_open(str(path), "pt") as file:
            if (file.metadata() or {}).get("format") != _FORMAT:
                raise ValueError("it holds something else")
            for key in file.keys():  # noqa: SIM118 (it is no dict)
                kind, _, name = key.partition(":")
                found[kind][name] = file.get_tensor(key)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"path: {path} is damaged or holds no delta ({error}); save it again") from error
    changes = {name: (index.long(), found["value"][name]) for name, index in found["index"].items()}
    return SparseDelta(changes, found["whole"])
