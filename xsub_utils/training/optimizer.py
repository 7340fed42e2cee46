"""AdamW that moves only the weights of one language's mask.

Zeroed gradients do not stop AdamW: momentum and weight decay go on moving a weight. So the weights of a parameter are
divided into pieces by the set of languages that update them. A piece is a parameter of the optimiser in its own right,
with moments and a count of steps of its own; in a step of a language it is either there or it is not. So each weight
has the AdamW of its own languages' batches; learning rate and clipping are those of the whole course.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xsub_utils._internal.validation import invalid
from xsub_utils.weights.masks import WeightMask

_MOST = 62  # languages, each a bit of a number


class Piece:
    """Weights of one parameter that the same languages update, as a vector."""

    def __init__(self, languages: frozenset[str], parameter: nn.Parameter, index: Tensor) -> None:
        self.languages, self.parameter, self.index = languages, parameter, index
        self.values = nn.Parameter(self._gathered(parameter))

    def _gathered(self, tensor: Tensor) -> Tensor:
        return tensor.detach().reshape(-1).index_select(0, self.index)

    def collect(self) -> None:
        """Takes values and gradients from the model; none where the loss does not depend on the parameter."""
        self.values.data = self._gathered(self.parameter)
        gradient = self.parameter.grad
        self.values.grad = None if gradient is None else self._gathered(gradient)

    def give_back(self) -> None:
        """Puts the new values into the model."""
        self.parameter.detach().view(-1).index_copy_(0, self.index, self.values.detach())
        self.values.grad = None


class SubnetworkAdamW(torch.optim.AdamW):
    """AdamW over whole parameters and pieces; `language` says whose batch the gradients are of."""

    def __init__(self, groups: list[dict[str, Any]], pieces: Sequence[Piece], **options: Any) -> None:
        super().__init__(groups, **options)
        self.pieces, self.language = pieces, ""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; pieces of other languages have no gradient, and AdamW passes over what has none."""
        active = [piece for piece in self.pieces if self.language in piece.languages]
        for piece in active:
            piece.collect()
        loss = super().step(closure)
        for piece in active:
            piece.give_back()
        return loss


def in_pieces(
    parameters: Mapping[str, nn.Parameter], masks: Mapping[str, WeightMask]
) -> tuple[list[nn.Parameter], list[Piece]]:
    """What an optimiser updates: parameters of which all languages update everything, and pieces of the others.

    Args:
        parameters: Name -> parameter.
        masks: Language -> which weights it updates; of parameters that are not named, all.

    Raises:
        ValueError: If there are more than 62 languages.
    """
    if len(masks) > _MOST:
        raise invalid("masks", f"masks of at most {_MOST} languages", f"{len(masks)}", "train on fewer at a time")
    undivided: list[nn.Parameter] = []
    pieces: list[Piece] = []
    for name, parameter in parameters.items():
        given = {language: mask[name] for language, mask in masks.items() if name in mask}
        if all(mask.all() for mask in given.values()):
            undivided.append(parameter)
        else:
            pieces += _divided(parameter, [given.get(language) for language in masks], list(masks))
    return undivided, pieces


def _divided(parameter: nn.Parameter, masks: Sequence[Tensor | None], languages: Sequence[str]) -> Iterator[Piece]:
    """Pieces of a parameter by the languages that update them; None stands for all of it."""
    code = torch.zeros(parameter.numel(), dtype=torch.int64, device=parameter.device)
    for number, mask in enumerate(masks):
        code += 1 << number if mask is None else mask.reshape(-1).to(code) << number
    order = code.argsort(stable=True)
    codes, counts = torch.unique_consecutive(code[order], return_counts=True)
    for bits, index in zip(codes.tolist(), order.split(counts.tolist()), strict=True):
        if bits:
            updating = frozenset(language for number, language in enumerate(languages) if bits >> number & 1)
            yield Piece(updating, parameter, index)
