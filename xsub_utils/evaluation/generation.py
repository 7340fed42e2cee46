"""Text that an encoder-decoder model generates in answer to an input, and whether it is the target."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from xsub_utils._internal.validation import invalid
from xsub_utils.models.batch_checks import check_inputs
from xsub_utils.models.batches import IGNORED


@torch.no_grad()
def generate(model: nn.Module, batch: Mapping[str, Tensor], length: int) -> Int[Tensor, "examples {length}"]:
    """Token ids that a model generates greedily, each from the input and the tokens before.

    Args:
        model: An encoder-decoder of transformers, in evaluation mode.
        batch: Its inputs; `labels` and inputs of the decoder are passed over.
        length: Number of tokens, from the first after the start token on.

    Returns:
        Token ids; what follows the end token of a row means nothing, and is -100 where all rows have ended.

    Raises:
        ValueError: If the model generates no text.

    Source: Raffel et al. 2020, section 2.4.
    """
    generator: Any = model
    if not (getattr(model, "can_generate", bool)() and generator.config.is_encoder_decoder):
        expected, remedy = "one that generates text from text", "load it with kind='text2text'"
        raise invalid("model", expected, type(model).__name__, remedy)
    passed_over = ("labels", "decoder_input_ids", "decoder_attention_mask", "decoder_inputs_embeds")
    inputs = {name: tensor.to(generator.device) for name, tensor in batch.items() if name not in passed_over}
    check_inputs(model, inputs)
    ids = generator.generate(**inputs, max_new_tokens=length, do_sample=False, num_beams=1)[:, 1:]
    return nn.functional.pad(ids, (0, length - ids.shape[1]), value=IGNORED)


def matches(
    generated: Int[Tensor, "examples tokens"], labels: Int[Tensor, "examples tokens"]
) -> Bool[Tensor, " _labelled"]:
    """Whether each generated text is its target, end token included; examples without any label are left out."""
    ignored = labels == IGNORED
    return ((generated == labels) | ignored).all(1)[~ignored.all(1)]


def decoder_shift(model: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """How a model that generates text turns labels into inputs of its decoder; None for other models."""
    config: Any = getattr(model, "config", None)
    own = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if own or not getattr(config, "is_encoder_decoder", False) or not getattr(model, "can_generate", bool)():
        return own

    def shift(labels: Tensor) -> Tensor:  # M2M100 does not say how
        ids = labels.masked_fill(labels == IGNORED, config.pad_token_id)
        return nn.functional.pad(ids[:, :-1], (1, 0), value=config.decoder_start_token_id)

    return shift
