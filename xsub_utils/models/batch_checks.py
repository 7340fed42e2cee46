"""The door that all batches pass: what every function that takes batches asks of them."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from xsub_utils._internal.validation import invalid
from xsub_utils.models.batches import IGNORED
from xsub_utils.models.example_order import Batch, NumberedBatch, length


def listed_batches(batches: Iterable[Batch], name: str = "batches", *, labelled: bool = True) -> list[Batch]:
    """The batches as a list, if they are batches.

    Args:
        batches: Dicts of tensors, one row for each example in every tensor.
        name: Of the argument, for errors.
        labelled: Whether they need labels, of which one at least counts.

    Raises:
        ValueError: If there is none, a single one is given instead of a list, something else than a dict of tensors, a
            batch without examples or with tensors of several lengths, or there are no labels.
    """
    if isinstance(batches, Mapping):
        raise invalid(name, "a list of batches", "a single one", f"put it into a list: [{name}]")
    if isinstance(batches, str | Tensor) or not isinstance(batches, Iterable):
        raise invalid(name, "a list of batches, as make_batches gives them", f"a {type(batches).__name__}")
    listed = list(batches)
    if not listed:
        raise invalid(name, "at least one batch", "none")
    for number, batch in enumerate(listed):
        _check_batch(batch, name, number, labelled)
    if labelled and all((batch["labels"] == IGNORED).all() for batch in listed):
        raise invalid(name, "at least one label that counts", f"{IGNORED} everywhere", "were all of them cut off?")
    return listed


def _check_batch(batch: Any, name: str, number: int, labelled: bool) -> None:
    if not isinstance(batch, Mapping):
        expected = "batches that are dicts of tensors, as make_batches gives them"
        raise invalid(name, expected, f"a {type(batch).__name__} as batch {number}")
    for column, values in batch.items():
        if not isinstance(values, Tensor):
            got = f"a {type(values).__name__} as {column!r} of batch {number}"
            raise invalid(name, "batches that are dicts of tensors", got)
    if labelled and "labels" not in batch:
        raise invalid(name, "dicts that hold 'labels'", f"only {sorted(batch)}")
    sizes = {column: len(values) if values.ndim else 1 for column, values in batch.items()}
    if len(set(sizes.values())) != 1:
        got = ", ".join(f"{size} in {column!r}" for column, size in sizes.items()) or "an empty dict"
        raise invalid(name, "as many examples in every tensor of a batch", f"{got} of batch {number}")
    if not length(batch):
        raise invalid(name, "at least one example in each batch", f"none in batch {number}")
    if isinstance(batch, NumberedBatch) and len(batch.rows) != length(batch):
        got = f"{length(batch)} in batch {number}, which numbers {len(batch.rows)}"
        raise invalid(name, "the examples that make_batches put there", got, "dict(batch) forgets the numbers")


def check_inputs(model: nn.Module, inputs: Batch) -> None:
    """Raises unless a model can read the inputs of a batch: its sub-words, its padding and its length.

    Raises:
        ValueError: If the batch holds gates, which only `influence` heeds; padding comes first where that moves the
            positions of all tokens; the mask is of another shape than the ids; an id is outside the vocabulary or no
            integer; or there are more positions than the model has.
    """
    if "gates" in inputs:
        remedy = "influence alone takes gates for each example; head_gates and gates= take them for all"
        raise invalid("batches", "inputs of the model and labels", "'gates'", remedy)
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if ids is None:
        return
    if mask is not None and mask.ndim == 2 and _counts_padding(model) and ((mask[:, 0] == 0) & mask.any(1)).any():
        remedy = "set tokenizer.padding_side = 'right'"
        raise invalid("batches", "padding on the right", "padding before the first token", remedy)
    if mask is not None and mask.shape != ids.shape and mask.ndim == ids.ndim:
        raise invalid("batches", f"an attention_mask of shape {tuple(ids.shape)}", tuple(mask.shape))
    if ids.is_floating_point() or ids.ndim != 2:
        expected = "input_ids of integers, of shape (examples, positions)"
        raise invalid("batches", expected, f"{ids.dtype} of shape {tuple(ids.shape)}")
    known = _vocabulary_of(model)
    if known is not None and len(wrong := ids[(ids < 0) | (ids >= known)]):
        expected = f"input_ids from 0 to {known - 1}, the vocabulary of the model"
        raise invalid("batches", expected, int(wrong[0]), "take the tokenizer of this model")
    if (most := positions_of(model)) is not None and ids.shape[1] > most:
        remedy = f"make_batches(…, max_length={most}) cuts them"
        raise invalid("batches", f"at most {most} positions, those of the model", ids.shape[1], remedy)


def _vocabulary_of(model: Any) -> int | None:
    """Sub-words that a model embeds; None if it does not say, or its embeddings were taken out to stitch it."""
    try:
        return getattr(model.get_input_embeddings(), "num_embeddings", None)
    except (AttributeError, NotImplementedError):
        return None


def positions_of(model: nn.Module) -> int | None:
    """The longest input that a model with learned positions can read, in sub-words; None if nothing limits it."""
    module = _positions(model)
    if module is None:
        return None
    ahead = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
    return module.num_embeddings - ahead


def _counts_padding(model: nn.Module) -> bool:
    """Whether tokens after padding have other positions than without it."""
    module = _positions(model)
    return module is not None and module.padding_idx is None


def _positions(model: nn.Module) -> Any:
    """The embeddings of positions that a model has learned, if it has."""
    names = ("position_embeddings", "wpe", "embed_positions")
    modules = model.named_modules()
    return next((part for name, part in modules if name.endswith(names) and isinstance(part, nn.Embedding)), None)
