"""How model types are added to the one table of architectures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace as changed

from xsub_utils._internal.validation import invalid, one_of
from xsub_utils.models.architecture_table import LAYOUTS, TABLE, Architecture, AttentionPaths


def register_architecture(
    model_type: str,
    *,
    like: str | None = None,
    encoder: AttentionPaths | Mapping[str, str] | None = None,
    decoder: AttentionPaths | Mapping[str, str] | None = None,
    cross: AttentionPaths | Mapping[str, str] | None = None,
    attention: Sequence[str] | None = None,
    embeddings: Sequence[str] | None = None,
    projections: str | None = None,
    head_size: str | None = None,
    inputs: str | Sequence[str] | None = None,
    replace: bool = False,
) -> Architecture:
    """Adds a model type to those whose heads, weights and layers are known, for as long as Python runs.

    Only `encoder` (or `like`) is needed to mask heads and to measure their importance. `projections` lets heads be
    removed, `inputs` lets models be stitched, `attention` and `embeddings` name the groups of parameters.

    Args:
        model_type: As in the `model_type` of the configuration of the models.
        like: A model type with the same names of modules; what is not given is taken from it.
        encoder: Paths of the self-attention of an encoder, or of a decoder that stands alone: "layer" with {} for the
            number of the layer and, within the layer, "attends" (the module that attends) and "output" (the linear
            layer that projects the contexts of the heads).
        decoder: The same for the self-attention of a decoder beside an encoder.
        cross: The same for the attention of that decoder to the encoder.
        attention: How the names of the parameters that belong to attention begin, within a layer, norms included; by
            default as the paths of `encoder`, `decoder` and `cross`.
        embeddings: How the names of the parameters that embed begin, in the base model.
        projections: How the weights of the heads lie in the module that attends: "separate" (linear layers for
            queries, keys and values, whose rows are heads), "stacked" (one layer: all queries, then all keys, then all
            values) or "interleaved" (one layer: query, key and value of each head side by side). By default heads
            can only be masked.
        head_size: Attribute of the module that attends that holds the width of a head; by default attention_head_size,
            head_dim, head_size or key_value_proj_dim.
        inputs: Path of the module whose output enters the first layer as it is, where layers need nothing of each
            other but their states; of several, the last that a model has. By default models cannot be stitched.
        replace: Whether a model type that is known already may be given another meaning.

    Returns:
        The entry of the table.

    Raises:
        ValueError: If the model type is known already, neither `encoder` nor `like` is given, `like` or `projections`
            is unknown, a path is missing, or the path of a layer lacks {}. Paths are compared with a model
            when one is first used.

    Example:
        >>> import xsub_utils as xs
        >>> from transformers import BertConfig, BertModel
        >>> class OwnConfig(BertConfig):
        ...     model_type = "own-bert"
        >>> paths = {"layer": "encoder.layer.{}", "attends": "attention.self", "output": "attention.output.dense"}
        >>> entry = xs.register_architecture("own-bert", encoder=paths, projections="separate")
        >>> model = BertModel(OwnConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=3))
        >>> xs.head_shape(model)
        (3, 2)
    """
    if not isinstance(model_type, str):
        raise invalid("model_type", "the model_type of a configuration, a str", repr(model_type))
    if model_type in TABLE and not replace:
        raise invalid(
            "model_type", "one that is not known yet", repr(model_type), "replace=True gives it a new meaning"
        )
    paths = {"encoder": encoder, "decoder": decoder, "cross": cross}
    given: dict[str, object] = {part: _paths(part, value) for part, value in paths.items() if value is not None}
    if projections is not None:
        given["projections"] = one_of("projections", projections, LAYOUTS)
    if head_size is not None:
        given["head_size"] = head_size
    names = {"attention": attention, "embeddings": embeddings, "inputs": inputs}
    given |= {name: _several(value) for name, value in names.items() if value is not None}
    if like is None and encoder is None:
        raise invalid("encoder", "the paths of the attention", None, "or name a model type with the same names: like=")
    if like is not None:
        TABLE[model_type] = changed(TABLE[one_of("like", like, TABLE)], **given)  # type: ignore[arg-type]
    else:
        TABLE[model_type] = Architecture(**_with_attention(given))  # type: ignore[arg-type]
    return TABLE[model_type]


def _paths(part: str, paths: AttentionPaths | Mapping[str, str]) -> AttentionPaths:
    if not isinstance(paths, AttentionPaths):
        names = ("layer", "attends", "output")
        if set(paths) != set(names):
            raise invalid(part, f"paths by the names {', '.join(names)}", f"{', '.join(paths) or 'none'}")
        paths = AttentionPaths(**paths)
    if paths.layer.count("{}") != 1:
        raise invalid(part, "a layer with one {} for its number, such as 'encoder.layer.{}'", repr(paths.layer))
    return paths


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _with_attention(given: dict[str, object]) -> dict[str, object]:
    """What is given, with the names of the attention's parameters taken from its paths unless they are given too."""
    paths = [value for value in given.values() if isinstance(value, AttentionPaths)]
    names = [name for value in paths for name in (value.attends, value.output)]
    return {"attention": tuple(dict.fromkeys(names))} | given
