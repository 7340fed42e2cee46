"""Checkpoints: what stands for a model is checked before anything is computed, and loaded when its turn comes."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from xsub_utils._internal.validation import invalid
from xsub_utils.models.loading import from_pretrained, readable
from xsub_utils.models.modes import quiet, seeded
from xsub_utils.training.finetune import load_finetuned
from xsub_utils.training.folders import RECORD, checkpoints

Load = Callable[[Any], nn.Module]  # one entry of `checkpoints` -> a model
Shapes = Mapping[str, tuple[int, ...]]  # by the name of a parameter
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_OTHERWISE = "load= takes a function that loads anything else"


def check_checkpoints(entries: Sequence[Any], load: Load | None) -> None:
    """Makes sure that entries are models or folders of models, all of one shape, as far as that is seen unloaded.

    Raises:
        ValueError: If there are none, one is something else, a folder lacks something, or shapes differ.
    """
    if not entries:
        raise invalid("checkpoints", "at least one model or folder", "none")
    first: dict[str, tuple[int, ...]] = {}
    for number, entry in enumerate(entries if load is None else ()):
        if isinstance(entry, str | Path):
            _check_folder(_folder(entry))
        elif not isinstance(entry, nn.Module):
            raise invalid("checkpoints", "models or their folders", type(entry).__name__, _OTHERWISE)
        shapes = _shapes(entry)
        check_shapes(number, {name: shape for name, shape in shapes.items() if name in first}, first, partial=True)
        first = first or dict(shapes)


def load_checkpoint(entry: Any, load: Load | None) -> nn.Module:
    """The model that an entry stands for; of a folder, on the GPU if there is one.

    Raises:
        ValueError: If weights of the model are not in its folder, or `load` gives something else than a model.
    """
    if load is not None:
        model = load(entry)
        if not isinstance(model, nn.Module):
            remedy = "return the first of them" if isinstance(model, tuple) else ""
            raise invalid("load", "a function that returns a model", f"{type(model).__name__} from it", remedy)
        return model
    if isinstance(entry, nn.Module):
        return entry
    return _load_folder(_folder(entry)).to("cuda" if torch.cuda.is_available() else "cpu")


def check_shapes(number: int, shapes: Shapes, first: Shapes, partial: bool = False) -> None:
    """Makes sure that a checkpoint is of the same model as the first.

    Args:
        number: Of the checkpoint, from 0.
        shapes, first: Shapes of the parameters of both.
        partial: Whether some parameters may be missing here.

    Raises:
        ValueError: If a parameter differs in its shape.
    """
    for name in {**shapes, **({} if partial else first)}:
        if shapes.get(name) != first.get(name):
            raise invalid(
                "checkpoints",
                "all of one model",
                f"{name} of shape {shapes.get(name)} in checkpoint {number + 1} and {first.get(name)} in the first",
            )


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name of each parameter -> its shape."""
    return {name: tuple(values.shape) for name, values in model.named_parameters()}


def structure_of(model: nn.Module) -> tuple:
    """What decides how gradients come about: class, settings and parameters of a model, but not their values."""
    named = model.named_parameters()
    return type(model), str(getattr(model, "config", "")), tuple((name, tuple(values.shape)) for name, values in named)


def _shapes(entry: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of a model, or of what lies in its folder as safetensors."""
    if isinstance(entry, nn.Module):
        return parameter_shapes(entry)
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(_folder(entry).glob("model*.safetensors")):
        with readable(path, "checkpoints"), safe_open(path, "pt") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes


def _folder(entry: str | Path) -> Path:
    """The folder of a checkpoint; that of a whole fine-tuning stands for its last one."""
    folder = Path(entry).expanduser()
    finished = (folder / RECORD).is_file() and not (folder / "config.json").is_file() and any(folder.glob("epoch-*"))
    return checkpoints(folder)[-1] if finished else folder


def _check_folder(folder: Path) -> None:
    """Says what a folder lacks to be that of a model."""
    if missing := _missing(folder):
        inside = sorted(path.name for path in (*folder.glob("checkpoint-*"), *folder.glob("epoch-*")) if path.is_dir())
        remedy = f"its checkpoints are {', '.join(inside)}" if inside else _OTHERWISE
        raise invalid("checkpoints", "folders of models, as save_pretrained or a Trainer writes them",
                      f"{str(folder)!r}, {missing}", remedy)  # fmt: skip


def _missing(folder: Path) -> str:
    """What a folder lacks to be that of a model of transformers; nothing if that is what it holds."""
    import transformers

    if not folder.is_dir():
        return "which is no folder"
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        return "which has no config.json" + (" but an adapter, to be merged with its model" if adapter else "")
    if not any((folder / name).is_file() for name in _WEIGHTS):
        return f"which has no weights ({_WEIGHTS[0]})"
    try:
        named = json.loads((folder / "config.json").read_text("utf-8")).get("architectures") or []
    except (ValueError, AttributeError):
        return "whose config.json is no JSON object"
    if not named:
        return "whose config.json names no architectures"
    return "" if hasattr(transformers, named[0]) else f"whose architecture {named[0]} transformers does not have"


def _load_folder(folder: Path) -> nn.Module:
    """The model in a folder, in float32; its class is the one that it was saved as."""
    import transformers

    if (folder.parent / RECORD).is_file() and folder.name.removeprefix("epoch-").isdigit():
        return load_finetuned(folder.parent, int(folder.name.removeprefix("epoch-")))[0]
    name = json.loads((folder / "config.json").read_text("utf-8"))["architectures"][0]
    with quiet(), seeded(0):
        kind = getattr(transformers, name)
        model, report = from_pretrained(kind, folder, "checkpoints", local_files_only=True)
    if lacking := sorted(report["missing_keys"]):
        listed = ", ".join(lacking[:3]) + (", …" if len(lacking) > 3 else "")
        raise invalid("checkpoints", f"all weights of a {name}", f"{str(folder)!r} without {listed}")
    return model
