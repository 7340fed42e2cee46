"""Models that are not what they seem: compiled, inside another module, parametrised, adapted or quantised.

Gates act through hooks, which a compiled model passes by, and weights of heads are found by the names of plain linear
layers. Nothing here mends such a model; it says what it is and how to get the plain one.
"""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from xsub_utils._internal.validation import invalid
from xsub_utils.models.modes import require_model

_PARALLEL = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule")


def check_hooks_act(model: nn.Module) -> None:
    """Raises unless the modules of a model run one by one in this process, so that hooks on them act.

    Raises:
        TypeError: If it is no model.
        ValueError: If the model or a part of it is compiled, or stands inside a module that runs copies of it.
    """
    require_model(model)
    expected = "one that runs module by module, so that gates act"
    for name, module in model.named_modules():
        where = f" at {name}" if name else ""
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            got = f"a compiled {type(getattr(module, '_orig_mod', module)).__name__}{where}"
            raise invalid("model", expected, got, "pass the model as it was before torch.compile")
        if type(module).__name__ in _PARALLEL:
            raise invalid("model", expected, f"one inside {type(module).__name__}{where}", "pass its .module")


def check_plain_weights(modules: Iterable[tuple[str, nn.Module]]) -> None:
    """Raises unless linear layers hold their weights themselves, as numbers that can be trained.

    Args:
        modules: Names and modules, of which those that are no linear layers pass.

    Raises:
        ValueError: If one of them is adapted, parametrised, pruned by a hook, or quantised.
    """
    for name, module in modules:
        kind, weight = type(module).__name__, getattr(module, "weight", None)
        if hasattr(module, "base_layer"):
            got, remedy = f"an adapter ({kind})", "merge it into the model first: model.merge_and_unload()"
        elif is_parametrized(module):
            got = f"a parametrised {kind}"
            remedy = "torch.nn.utils.parametrize.remove_parametrizations makes it plain"
        elif hasattr(module, "weight_orig"):
            got, remedy = f"a {kind} under torch.nn.utils.prune", "torch.nn.utils.prune.remove makes it plain"
        elif callable(weight) or (isinstance(weight, Tensor) and not weight.is_floating_point()):
            got, remedy = f"a quantised {kind}", "load the model in float32 or bfloat16"
        else:
            continue
        raise invalid("model", "plain linear layers, whose weights are parameters", f"{got} at {name}", remedy)
