"""AdamW that moves only the weights of one language's mask.

Zeroed gradients do not stop AdamW: momentum and weight decay go on moving a weight. So weights are divided into pieces
by the set of languages that update them. A piece is a parameter of the optimiser in its own right, with moments and a
count of steps of its own; in a step of a language it is either there or it is not. Each weight sees exactly the AdamW
that it would see if there were no batches but those of its languages.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from xsub_utils.weight_masks import WeightMask


class Piece:
    """Weights that the same languages update, out of any number of parameters, as one vector."""

    def __init__(self, languages: frozenset[str], places: Sequence[tuple[nn.Parameter, Tensor]]):
        self.languages, self.places = languages, places
        self.sizes = [len(index) for _, index in places]
        self.values = nn.Parameter(self._gathered([parameter.detach() for parameter, _ in places]))

    def _gathered(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([tensor.view(-1)[index] for tensor, (_, index) in zip(tensors, self.places, strict=True)])

    def collect(self) -> None:
        """Takes values and gradients from the model."""
        parameters = [parameter for parameter, _ in self.places]
        self.values.data.copy_(self._gathered([parameter.detach() for parameter in parameters]))
        self.values.grad = self._gathered([_gradient(parameter) for parameter in parameters])

    def give_back(self) -> None:
        """Puts the new values into the model."""
        for (parameter, index), values in zip(self.places, self.values.detach().split(self.sizes), strict=True):
            parameter.detach().view(-1).index_copy_(0, index, values)
        self.values.grad = None


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.contiguous()


class SubnetworkAdamW(torch.optim.AdamW):
    """AdamW over whole parameters and pieces; `language` says whose batch the gradients are of."""

    def __init__(self, groups: list[dict], pieces: Sequence[Piece], **options):
        super().__init__(groups, **options)
        self.pieces, self.language = pieces, ""

    @torch.no_grad()
    def step(self, closure=None):
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
        parameters: Name → parameter.
        masks: Language → which weights it updates; of parameters that are not named, all.
    """
    whole: list[nn.Parameter] = []
    places: dict[frozenset[str], list] = defaultdict(list)
    for name, parameter in parameters.items():
        found = _divided(parameter, {language: mask.get(name, True) for language, mask in masks.items()})
        if found is None:
            whole.append(parameter)
        else:
            for languages, index in found.items():
                places[languages].append((parameter, index))
    return whole, [Piece(languages, some) for languages, some in places.items()]


def _divided(parameter: nn.Parameter, masks: Mapping[str, Tensor | bool]) -> dict[frozenset[str], Tensor] | None:
    """Set of languages → places of the weights that just these update; None if all of them update all."""
    code = torch.zeros(parameter.numel(), dtype=torch.int64, device=parameter.device)
    for number, mask in enumerate(masks.values()):
        code += (mask.reshape(-1).to(code) if isinstance(mask, Tensor) else int(mask)) << number
    languages = list(masks)
    everyone = 2 ** len(languages) - 1
    codes = [one for one in torch.unique(code).tolist() if one]
    if codes == [everyone] and bool((code == everyone).all()):
        return None
    return {
        frozenset(language for number, language in enumerate(languages) if one >> number & 1): (
            (code == one).nonzero().flatten()
        )
        for one in codes
    }
