"""Masks of languages: one for all of them or one for each, of heads or of weights, as sparse fine-tuning uses them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.heads.gates import head_gates
from xsub_utils.heads.removal import head_weights
from xsub_utils.models.architectures import head_shape
from xsub_utils.weights.masks import WeightMask, check_weight_mask, masked_weights, require_weight_mask

HeadMask = Tensor  # bool, (layers, heads)
Mask = HeadMask | WeightMask


@dataclass(frozen=True)
class LanguageMask:
    """What the batches of a language run through, and what they move.

    Attributes:
        heads: Heads that are kept; None for a mask of weights.
        weights: Parameter name -> True where a weight belongs to the mask.
        through: Whether batches run through the mask, or it only says what moves.
    """

    heads: HeadMask | None
    weights: WeightMask
    through: bool

    @classmethod
    def of(cls, model: nn.Module, language: str, mask: Mask, through: bool) -> "LanguageMask":
        """The same for masks of heads and of weights.

        Raises:
            ValueError: If the mask does not fit the model or keeps nothing.
        """
        argument = f"masks[{language!r}]"
        tensors = [mask] if isinstance(mask, Tensor) else list(mask.values())
        if isinstance(mask, Tensor) and tuple(mask.shape) != head_shape(model):
            raise invalid(argument, f"a mask of shape {head_shape(model)}, (layers, heads)", tuple(mask.shape))
        if not any(tensor.any() for tensor in tensors):
            raise invalid(argument, "a mask that keeps something", "one that keeps nothing")
        if isinstance(mask, Tensor):
            return cls(mask, head_weights(model, mask), through)
        parameters = check_weight_mask(model, mask, argument)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        return cls(None, {names[id(parameters[name])]: kept for name, kept in mask.items()}, through)

    def to(self, device: torch.device) -> "LanguageMask":
        """The same on a device."""
        heads = None if self.heads is None else self.heads.to(device)
        return LanguageMask(heads, {name: kept.to(device) for name, kept in self.weights.items()}, self.through)

    @contextmanager
    def masked_model(self, model: nn.Module) -> Iterator[None]:
        """The model as this language sees it, for as long as the context lasts."""
        if not self.through:
            yield
        elif self.heads is not None:
            with head_gates(model, self.heads):
                yield
        else:
            with masked_weights(model, self.weights):
                yield


def masks_by_language(masks: object, languages: Sequence[str]) -> dict[str, Mask]:
    """Language -> its mask, told by the types of the values and the languages of the task.

    Args:
        masks: A tensor is a mask of heads for all languages. A mapping whose keys are languages holds the mask of each.
            Any other mapping of tensors is a mask of weights for all languages, see `check_names`.
        languages: Of the task.

    Raises:
        ValueError: If something is no mask, or it cannot be told which languages it is of.
    """
    if isinstance(masks, Tensor):
        _check_head_mask(masks, "masks")
        return dict.fromkeys(languages, masks)
    if not isinstance(masks, Mapping) or not masks:
        expected = "a bool tensor, parameter name -> bool tensor, or language -> one of these"
        raise invalid("masks", expected, repr(masks) if masks == {} else f"a {type(masks).__name__}")
    if is_weight_mask(masks, languages):
        require_weight_mask(masks, "masks")
        return dict.fromkeys(languages, masks)
    for language, mask in masks.items():
        one_of("masks", language, languages)
        if isinstance(mask, Mapping):
            require_weight_mask(mask, f"masks[{language!r}]")
        else:
            _check_head_mask(mask, f"masks[{language!r}]")
    return dict(masks)


def is_weight_mask(masks: Mapping, languages: Sequence[str]) -> bool:
    """Whether a mapping is one mask of weights, rather than one mask for each language."""
    return not set(masks) & set(languages) and not any(isinstance(mask, Mapping) for mask in masks.values())


def check_names(masks: object, languages: Sequence[str], model: nn.Module) -> None:
    """Raises unless the keys of masks are either languages of the task or parameters of the model.

    Raises:
        ValueError: If a key is neither, or the keys are both.
    """
    if not isinstance(masks, Mapping) or any(isinstance(mask, Mapping) for mask in masks.values()):
        return
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    expected = f"languages of the task ({', '.join(languages)}) or parameters of the model"
    if is_weight_mask(masks, languages) and (unknown := [name for name in masks if name not in parameters]):
        near = get_close_matches(unknown[0], [*languages, *parameters], n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "see model.named_parameters()"
        raise invalid("masks", expected, repr(unknown[0]), remedy)
    if set(masks) & set(languages) and set(masks) <= parameters:
        got = f"{', '.join(masks)}, which are both"
        raise invalid("masks", expected, got, "give language -> {parameter name: bool tensor}")


def _check_head_mask(mask: object, argument: str) -> None:
    if not isinstance(mask, Tensor):
        remedy = "torch.from_numpy makes an array a tensor" if type(mask).__name__ == "ndarray" else ""
        raise invalid(argument, "a bool tensor, or parameter name -> bool tensor", f"a {type(mask).__name__}", remedy)
    if mask.dtype != torch.bool:
        raise invalid(argument, "a tensor of torch.bool", mask.dtype, "mask > 0.5 makes gates a mask")
