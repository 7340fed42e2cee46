"""The two halves of a model at a level: what its lower layers give, and what its upper layers make of it.

Level 0 is the output of the embeddings, level l the output of layer l, before any norm that follows the last.
Models are never touched: a half is a copy of the modules that shares the weights.
"""

import copy
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from xsub_utils._internal.validation import invalid
from xsub_utils.evaluation.forward import check_labelled, check_labels, forward, predicted_labels, split_labels
from xsub_utils.heads.gates import head_gates
from xsub_utils.heads.removal import remove_heads, removes_like_masking
from xsub_utils.models.architecture_table import TABLE
from xsub_utils.models.architectures import head_shape, reads_first_token_only
from xsub_utils.models.modes import require_model

Batch = Mapping[str, Tensor]
States = Float[Tensor, "examples tokens features"]
Gates = Shaped[Tensor, "layers heads"]  # a mask, or factors

_MASK_PER_QUERY = ("eager", "sdpa")  # attention whose masks have a row per query


class CutModel:
    """A copy of a model in evaluation mode, with gates in force, that shares its weights and can be cut at a level.

    Args:
        model: A transformers encoder, with a task head if it is to `run`; left as it was.
        gates: Head mask or gates; None is the full model.

    Raises:
        ValueError: If the architecture is not supported or the gates do not fit.
    """

    def __init__(self, model: nn.Module, gates: Gates | None):
        require_model(model)
        self._paths = _paths(model)
        self.model = _sharing_copy(model)
        self._in_force = ExitStack()
        if gates is not None and self._can_lose(gates):
            self.model = remove_heads(self.model, gates.bool(), share=True)  # computes the same, in less time
        elif gates is not None:
            self._in_force.enter_context(head_gates(self.model, gates))
        self.base = _base(self.model)
        self.embeddings, layers = map(self.base.get_submodule, self._paths)
        self.layers = list(cast(nn.ModuleList, layers))
        self._first_only = reads_first_token_only(self.model)
        self._end_layers = [*self.layers[:-1], self._last_layer()]

    def _can_lose(self, gates: Gates) -> bool:
        """Whether the gates only keep or prune, and no other gates are in force that the heads would take along."""
        whole_heads = gates.shape == head_shape(self.model) and bool((gates == gates.bool()).all())
        return whole_heads and removes_like_masking(self.model, gates.bool())

    def check(self, level: int) -> None:
        """Raises a ValueError unless the model has such a level."""
        if not 0 <= level <= len(self.layers):
            last = len(self.layers)
            raise invalid("level", f"0 (embeddings) to {last}, as {type(self.model).__name__} has {last} layers", level)

    @torch.no_grad()
    def read(self, batch: Batch, levels: Collection[int]) -> dict[int, States]:
        """States of all tokens at each level, from the layers up to the last of these."""
        self._assemble(self.embeddings, self.layers[: max(levels)])
        found: dict[int, Tensor] = {}
        with ExitStack() as hooks:
            for level in levels:
                module = self.layers[level - 1] if level else self.embeddings
                hooks.enter_context(module.register_forward_hook(partial(_note, found, level)))
            self.base(**split_labels(self.model, batch)[1])
        return found

    def tokens_read(self, level: int) -> int | None:
        """Number of leading tokens whose states at the level matter to `run`; None for all."""
        return 1 if self._first_only and level == len(self.layers) else None

    def run(self, batch: Batch, states: States, level: int) -> tuple[Shaped[Tensor, "..."], Shaped[Tensor, "..."]]:
        """Labels of the batch, and the logits that follow from the states at a level.

        Raises:
            ValueError: If the model has no task head, or the batch no labels of its classes.
        """
        if self.base is self.model:
            raise invalid("end", "a model with a task head", type(self.model).__name__)
        left = self._end_layers[level:]
        self._assemble(_Given(states.to(next(self.model.parameters()))), left)
        labels, logits = forward(self.model, batch) if left else _run_head(self.model, batch, states.shape[1])
        return labels, logits

    def _last_layer(self) -> nn.Module:
        """The last layer, spared what a classifier that reads the first token alone never reads."""
        last: Any = self.layers[-1]
        spared = self._first_only and cast(Any, self.model).config._attn_implementation in _MASK_PER_QUERY
        if not spared or not hasattr(last.attention.self, "query"):  # no head is left there
            return last
        layer = _sharing_copy(last)
        layer.attention.self = _FirstQuery(layer.attention.self)
        return layer

    def _assemble(self, embeddings: nn.Module, layers: list[nn.Module]) -> None:
        for path, part in zip(self._paths, (embeddings, nn.ModuleList(layers)), strict=True):
            self.base.set_submodule(path, part)


def _paths(model: nn.Module) -> tuple[str, str]:
    """Paths, in the base model, of the module whose output enters the first layer and of the list of layers.

    Raises:
        ValueError: If the table knows none, or which layer attends in which way is decided by its place in the list.
    """
    stitchable = ", ".join(sorted(name for name, known in TABLE.items() if known.inputs))
    expected = f"a model whose layers need nothing of each other but their states ({stitchable})"
    config = getattr(model, "config", None)
    architecture = TABLE.get(model_type := getattr(config, "model_type", type(model).__name__))
    if architecture is None or not architecture.inputs:
        raise invalid("model", expected, model_type, "stitch one of those, or register_architecture with `inputs`")
    layers, number = architecture.encoder.layer.rsplit(".", 1)
    if number != "{}":
        raise invalid("model", "layers in one list", architecture.encoder.layer, "such a model cannot be cut")
    modules = dict(_base(model).named_modules())
    for path in (layers, architecture.inputs[0]):
        if path not in modules:
            remedy = f"if the paths are wrong, register_architecture({model_type!r}, …, replace=True) corrects them"
            raise invalid("model", f"a {model_type} model with {path}", type(model).__name__, remedy)
    kinds = set(getattr(config, "layer_types", None) or ())
    if len(kinds) > 1 and not hasattr(modules[f"{layers}.0"], "attention_type"):
        mixed = f"{model_type} with {' and '.join(sorted(kinds))} by the number of the layer"
        raise invalid("model", "layers that attend in one way, or know in which", mixed, "such a model cannot be cut")
    return [path for path in architecture.inputs if path in modules][-1], layers


class StateCache:
    """States of models, computed once for all stitches that need them, as far as they fit.

    Pairs of models that share a front, an end, or their data share this work if they are given one cache. It
    holds on to models and batches, and takes both to stay as they are. States that do not fit are computed
    again whenever they are needed, and come out the same.

    Args:
        max_bytes: Most that the states kept may take, in bytes on the device of their model. One level of a
            model takes 4 · tokens · width in float32, padding included.
        levels: Levels to compute together as soon as one of them is asked for, since a single pass gives all,
            for as long as there is room; by default none but the one asked for.

    Raises:
        ValueError: If `max_bytes` is negative.
    """

    def __init__(self, max_bytes: int = 2**30, levels: Iterable[int] = ()):
        if max_bytes < 0:
            raise invalid("max_bytes", "0 or more", max_bytes)
        self.max_bytes, self.bytes, self._full = max_bytes, 0, max_bytes == 0
        self._levels = frozenset(levels)
        self._models: dict[tuple, CutModel] = {}
        self._states: dict[tuple, States] = {}
        self._alive: dict[int, object] = {}  # so that nothing else gets their ids

    def model(self, model: nn.Module, gates: Gates | None) -> CutModel:
        """The copy of a model under gates."""
        key = self._key(model), _content(gates)
        if key not in self._models:
            self._models[key] = CutModel(model, gates)
        return self._models[key]

    def states(self, model: CutModel, batch: Batch, level: int) -> States:
        """States of all tokens of a batch, from the `model` of this cache, at a level.

        Raises:
            ValueError: If there is no such level.
        """
        model.check(level)
        key = self._key(model), self._key(batch)
        if (*key, level) not in self._states:
            together = level in self._levels and not self._full
            wanted = self._wanted(model, level, together)
            found = model.read(batch, [one for one in wanted if (*key, one) not in self._states])
            self._keep({(*key, one): states for one, states in found.items()})
            return found[level]
        return self._states[*key, level]

    def _wanted(self, model: CutModel, level: int, together: bool) -> set[int]:
        return {level, *self._levels.intersection(range(len(model.layers) + 1))} if together else {level}

    def _keep(self, found: Mapping[tuple, States]) -> None:
        for key, states in found.items():
            if self.bytes + states.nbytes <= self.max_bytes:
                self._states[key] = states
                self.bytes += states.nbytes
            else:
                self._full = True

    def _key(self, thing: object) -> int:
        self._alive[id(thing)] = thing
        return id(thing)


@dataclass(frozen=True)
class Pair:
    """Two models, where they are cut, and the states of both."""

    front: CutModel
    end: CutModel
    level: int
    cache: StateCache

    def states(self, batch: Batch) -> Float[Tensor, "examples tokens front"]:
        """States of the front, of those tokens that the end reads."""
        return self.cache.states(self.front, batch, self.level)[:, : self.end.tokens_read(self.level)]

    def tokens(self, batch: Batch) -> tuple[Float[Tensor, "tokens front"], Float[Tensor, "tokens end"]]:
        """States of the tokens that are not padding at both ends of the map, in float64."""
        x, y = (self.cache.states(model, batch, self.level) for model in (self.front, self.end))
        mask = batch.get("attention_mask", torch.ones(x.shape[:2])) != 0
        return x[mask.to(x.device)].double().to(y.device), y[mask.to(y.device)].double()


class _Given(nn.Module):
    """In place of the embeddings: the states that it is given."""

    def __init__(self, states: Tensor):
        super().__init__()
        self.states = states

    def forward(self, *_inputs: object, **_options: object) -> Tensor:
        return self.states


class _FirstQuery(nn.Module):
    """Self-attention of BERT and its kin, from the first token alone to all; `forward` lets no other pass."""

    def __init__(self, attention: nn.Module):
        super().__init__()
        self.attention = attention

    def forward(self, states: Tensor, attention_mask: Tensor | None = None, **_options: object) -> tuple[Tensor, None]:
        full: Any = self.attention
        projections = ((full.query, states[:, :1]), (full.key, states), (full.value, states))
        query, key, value = (
            project(of).unflatten(-1, (-1, full.attention_head_size)).transpose(1, 2) for project, of in projections
        )
        mask = None if attention_mask is None else attention_mask[:, :, :1]
        context = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return context.transpose(1, 2).flatten(2), None


def _base(model: nn.Module) -> nn.Module:
    """The model without its task head."""
    return cast(nn.Module, getattr(model, "base_model", model))


def _sharing_copy(model: Any) -> Any:
    """Modules of its own, in evaluation mode, over the same weights, none of which takes gradients."""
    shared: dict[int, Tensor] = {
        id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in model.parameters()
    }
    shared |= {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, shared).eval()


def _note(found: dict[int, Tensor], level: int, _module: nn.Module, _inputs: tuple, output: object) -> None:
    """A forward hook."""
    found[level] = cast(Tensor, output[0] if isinstance(output, tuple) else output)


def _content(gates: Gates | None) -> tuple | None:
    """What tells gates apart."""
    return None if gates is None else (tuple(gates.shape), gates.double().numpy(force=True).tobytes())


def _run_head(model: nn.Module, batch: Batch, tokens: int) -> tuple[Tensor, Tensor]:
    """Labels, and logits from the first tokens, without any layer, which `forward` would ask for."""
    check_labelled(batch)
    labels, inputs = split_labels(model, batch)
    assert labels is not None
    logits = model(**{name: values[:, :tokens] for name, values in inputs.items()}).logits
    check_labels(labels, logits)
    return predicted_labels(model, labels, logits), logits
