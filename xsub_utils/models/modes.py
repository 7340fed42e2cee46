"""States of a model that end with a `with` block, of torch's generator, of the log of transformers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from xsub_utils._internal.validation import wrong_type


def require_model(model: object, argument: str = "model") -> None:
    """Raises unless this is a model, rather than a pair of one and its tokenizer, or its folder.

    Raises:
        TypeError: If not.
    """
    if not isinstance(model, nn.Module):
        got, remedy = f"a {type(model).__name__}", "load_encoder and load_finetuned give one and its tokenizer"
        if isinstance(model, tuple):
            got, remedy = "a pair", "give the model alone, without its tokenizer"
        raise wrong_type(argument, "a model", got, remedy)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """A model without dropout inside the `with` block; every module's mode is restored after it."""
    require_model(model)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No gradients for parameters, which spares computing them; those that had some have them again after."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Starts torch's CPU generator at the seed, and leaves it behind as it was."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextmanager
def quiet() -> Iterator[None]:
    """Holds back transformers' loading reports and bars; downloads still show theirs."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    hook = logging.set_tqdm_hook(lambda make, args, kwargs: make(*args, **kwargs | {"disable": True}))
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.set_tqdm_hook(hook)
