"""Sparse differences between a fine-tuned model and the one it came from: saved small, applied, reverted, added."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from xsub_utils._internal.amounts import amount
from xsub_utils._internal.io import write_bytes_atomic
from xsub_utils._internal.validation import invalid, wrong_type
from xsub_utils.models.modes import require_model

_KINDS = ("index", "value", "whole")
_FORMAT = "xsub-sparse-delta"


@dataclass(frozen=True, eq=False)
class Change:
    """What is added to a parameter.

    Attributes:
        index: Places in the flattened parameter, ascending.
        values: What is added there.
        shape: Of the parameter.
    """

    index: Tensor
    values: Tensor
    shape: tuple[int, ...]


@dataclass(frozen=True)
class SparseDelta:
    """What a fine-tuning changed; `sparse_delta` finds it, `delta_weights` applies it.

    Attributes:
        changes: Parameter name -> its change.
        whole: Parameter name -> its values, for parameters that the model it came from does not have.
    """

    changes: Mapping[str, Change]
    whole: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of changed entries; whole parameters not counted."""
        return sum(len(change.index) for change in self.changes.values())


def sparse_delta(model: nn.Module, base: nn.Module) -> SparseDelta:
    """What distinguishes a model from the one that it was fine-tuned from, up to the rounding of one addition.

    Args:
        model: The fine-tuned model.
        base: The model that it was fine-tuned from. Parameters that it does not have, such as those of a new task
            head, are kept whole.

    Returns:
        The changes of all parameters that differ; its length is the number of changed entries.

    Raises:
        ValueError: If a parameter has another shape in the base, or none of them are in the base.

    Source: Ansell et al. 2022, section 3 (the difference of parameters, and its composition by addition).

    Example:
        >>> import copy
        >>> import torch
        >>> import xsub_utils as xs
        >>> base, _ = xs.load_encoder("minibabel-base", "sequence", labels=["no", "yes"])
        >>> tuned = copy.deepcopy(base)
        >>> with torch.no_grad():
        ...     _ = tuned.classifier.out_proj.bias.add_(0.5)
        >>> len(xs.sparse_delta(tuned, base))
        2
    """
    require_model(model)
    require_model(base, "base")
    before = _all_names(base)
    changes, whole = {}, {}
    for name, parameter in model.named_parameters():
        after = parameter.detach()
        if name not in before:
            whole[name] = after.clone()
            continue
        if after.shape != before[name].shape:
            got = f"{name!r} of shape {tuple(before[name].shape)} instead of {tuple(after.shape)}"
            raise invalid("base", "the model that was fine-tuned", got)
        difference = (after - before[name].detach().to(after)).flatten()
        index = difference.nonzero().flatten()
        if len(index):
            changes[name] = Change(index, difference[index], tuple(after.shape))
    if whole and len(whole) == len(list(model.named_parameters())):
        raise invalid("base", "the model that was fine-tuned", "one that has no parameter of the model")
    return SparseDelta(changes, whole)


def sum_deltas(*deltas: SparseDelta) -> SparseDelta:
    """The changes of all deltas together; their order does not matter, to the bit.

    Raises:
        ValueError: If there are none, they are of parameters of different shapes, or several hold the same parameter
            whole: two task heads cannot be added.
    """
    for delta in deltas:
        _require_delta(delta, "deltas")
    if not deltas:
        raise invalid("deltas", "at least one", "none")
    held = [name for delta in deltas for name in delta.whole]
    changed = dict.fromkeys(name for delta in deltas for name in delta.changes)
    if twice := [name for name in held if held.count(name) > 1 or name in changed]:
        got = f"{twice[0]!r}, which one holds whole and another one holds too"
        raise invalid("deltas", "changes of the same parameters, which can be added", got)
    changes = {name: _sum([delta.changes[name] for delta in deltas if name in delta.changes]) for name in changed}
    return SparseDelta(changes, {name: values for delta in deltas for name, values in delta.whole.items()})


def _require_delta(delta: object, argument: str) -> None:
    if not isinstance(delta, SparseDelta):
        raise wrong_type(argument, "a SparseDelta", f"a {type(delta).__name__}", "sparse_delta gives one")


def _sum(changes: list[Change]) -> Change:
    """At every place the values are added from the smallest to the largest, in float64."""
    if len({change.shape for change in changes}) > 1:
        shapes = " and ".join(str(change.shape) for change in changes)
        raise invalid("deltas", "changes of models of one shape", f"a parameter of shapes {shapes}")
    places = torch.cat([change.index for change in changes]).unique()
    stacked = torch.zeros(len(changes), len(places), dtype=torch.float64, device=places.device)
    for row, change in zip(stacked, changes, strict=True):
        row[torch.searchsorted(places, change.index)] = change.values.double()
    kind = reduce(torch.promote_types, [change.values.dtype for change in changes])
    return Change(places, stacked.sort(0).values.sum(0).to(kind), changes[0].shape)


@contextmanager
def delta_weights(model: nn.Module, *deltas: SparseDelta, scale: float = 1.0) -> Iterator[nn.Module]:
    """Weights with deltas added to them, for as long as the context lasts; then all are as before, to the bit.

    Whole parameters are put in where the model has them, and left out where it has not: a task model takes the
    changes that a language model's fine-tuning made in the encoder.

    Args:
        model: It is changed in place, and given to the `with` statement.
        deltas: As in `sum_deltas`.
        scale: Factor of the changes, below 1 where the sum of several goes too far.

    Raises:
        ValueError: If a change is of a parameter that the model lacks, or that has another shape.

    Source: Ansell et al. 2022, section 3.3; for dense differences and the factor, Ilharco et al. 2023 (task vectors).

    Example:
        >>> import copy
        >>> import torch
        >>> import xsub_utils as xs
        >>> base, _ = xs.load_encoder("minibabel-base", "sequence", labels=["no", "yes"])
        >>> tuned = copy.deepcopy(base)
        >>> with torch.no_grad():
        ...     _ = tuned.classifier.out_proj.bias.add_(0.5)
        >>> with xs.delta_weights(base, xs.sparse_delta(tuned, base), scale=0.1):
        ...     base.classifier.out_proj.bias.tolist()
        [0.05000000074505806, 0.05000000074505806]
        >>> base.classifier.out_proj.bias.tolist()
        [0.0, 0.0]
    """
    require_model(model)
    amount("scale", scale, least=-math.inf)
    parameters = _all_names(model)
    total = sum_deltas(*(_with_names_of(delta, model) for delta in deltas))
    whole = {name: values for name, values in total.whole.items() if name in parameters}
    shapes = {name: change.shape for name, change in total.changes.items()}
    for name, shape in (shapes | {name: values.shape for name, values in whole.items()}).items():
        here = f"of shape {tuple(parameters[name].shape)}" if name in parameters else "not"
        if name not in parameters or parameters[name].shape != tuple(shape):
            got = f"one of {name!r}, which is of shape {tuple(shape)} in the delta and {here} in the model"
            raise invalid("deltas", "deltas of a model of the same shape", got)
    before = {name: parameters[name].detach().view(-1)[change.index.to(parameters[name].device)]
              for name, change in total.changes.items()}  # fmt: skip
    replaced = {name: parameters[name].detach().clone() for name in whole}
    try:
        for name, change in total.changes.items():
            _put(parameters[name], change.index, before[name] + scale * change.values.to(before[name]))
        for name, values in whole.items():
            parameters[name].data.copy_(values)
        yield model
    finally:
        for name, change in total.changes.items():
            _put(parameters[name], change.index, before[name])
        for name, values in replaced.items():
            parameters[name].data.copy_(values)


def _put(parameter: nn.Parameter, index: Tensor, values: Tensor) -> None:
    """Values at these places, wherever the parameter is by now."""
    flat = parameter.detach().view(-1)
    flat.index_copy_(0, index.to(flat.device), values.to(flat))


def _all_names(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by name; a tied one by each of its names."""
    return dict(model.named_parameters(remove_duplicate=False))


def _with_names_of(delta: SparseDelta, model: nn.Module) -> SparseDelta:
    """The delta in which a parameter that is tied in the model has one name, that of the model."""
    _require_delta(delta, "deltas")
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    names = {name: own[id(parameter)] for name, parameter in _all_names(model).items()}
    for name in delta.changes:
        if sum(names.get(other) == names.get(name, name) for other in delta.changes) > 1:
            got = f"one that changes {name!r} and a parameter that is tied to it in the model"
            raise invalid("deltas", "deltas of a model with the same parameters tied", got)
    changes = {names.get(name, name): change for name, change in delta.changes.items()}
    return SparseDelta(changes, {names.get(name, name): values for name, values in delta.whole.items()})


def save_delta(path: str | Path, delta: SparseDelta) -> None:
    """Writes a delta as safetensors, whole or not at all.

    Args:
        path: Of the file. Places are stored as int32 where these suffice.
        delta: From `sparse_delta`, for instance.

    Raises:
        StoreError: If the file cannot be written.

    Example:
        >>> import xsub_utils as xs
        >>> base, _ = xs.load_encoder("minibabel-base", "mlm")
        >>> xs.save_delta("delta.safetensors", xs.sparse_delta(base, base))
        >>> len(xs.load_delta("delta.safetensors"))
        0
    """
    _require_delta(delta, "delta")
    tensors = {}
    for name, change in delta.changes.items():
        small = not len(change.index) or int(change.index.max()) < 2**31
        tensors[f"index:{name}"] = change.index.to(torch.int32 if small else torch.int64).cpu().contiguous()
        tensors[f"value:{name}"] = change.values.cpu().contiguous()
    shapes = {name: change.shape for name, change in delta.changes.items()}
    tensors |= {f"whole:{name}": values.cpu().contiguous() for name, values in delta.whole.items()}
    write_bytes_atomic(path, save(tensors, {"format": _FORMAT, "shapes": json.dumps(shapes)}))


def load_delta(path: str | Path) -> SparseDelta:
    """A delta as it was saved.

    Args:
        path: Of a file that `save_delta` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or was not written by `save_delta`.

    Example:
        >>> import xsub_utils as xs
        >>> model, _ = xs.load_encoder("minibabel-base", "sequence", labels=["no", "yes"])
        >>> base, _ = xs.load_encoder("minibabel-base", "mlm")
        >>> xs.save_delta("delta.safetensors", xs.sparse_delta(model, base))
        >>> list(xs.load_delta("delta.safetensors").whole)[-1]  # the base has no task head
        'classifier.out_proj.weight'
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(str(invalid("path", "a file that save_delta wrote", f"no file {str(path)!r}")))
    tensors: dict[str, dict[str, Tensor]] = {kind: {} for kind in _KINDS}
    try:
        with safe_open(str(path), "pt") as file:
            about = file.metadata() or {}
            if about.get("format") != _FORMAT:
                raise ValueError("it holds something else")
            shapes = json.loads(about["shapes"])
            for key in file.keys():  # noqa: SIM118 (it is no dict)
                kind, _, name = key.partition(":")
                tensors[kind][name] = file.get_tensor(key)
    except (SafetensorError, ValueError, KeyError) as error:
        got = f"{str(path)!r}, which is damaged or holds no delta ({error})"
        raise invalid("path", "a file that save_delta wrote", got, "save it again") from error
    changes = {
        name: Change(index.long(), tensors["value"][name], tuple(shapes[name]))
        for name, index in tensors["index"].items()
    }
    return SparseDelta(changes, tensors["whole"])
