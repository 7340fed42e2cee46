"""Encoders and language models: loaded, or re-initialised as a control, each with its tokenizer."""

import copy
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xsub_utils._internal.amounts import check_seed
from xsub_utils._internal.fingerprint import digest
from xsub_utils._internal.validation import invalid, one_of, wrong_type
from xsub_utils._internal.whole import sha256_once
from xsub_utils.models.batch_checks import positions_of
from xsub_utils.models.loading import from_pretrained
from xsub_utils.models.modes import quiet, seeded

PACKAGED = "minibabel-base"
NARROW = 32  # width of a head; 64 is usual
MADE_UP = 2  # ordinary tokens, at most, of a tokenizer that transformers makes up for a model stored without one
_AUTO_CLASSES = {
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "mlm": "AutoModelForMaskedLM",
    "clm": "AutoModelForCausalLM",
    "text": "AutoModel",
    "text2text": "AutoModelForSeq2SeqLM",
}
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_READ = (  # what decides a model and its tokenizer
    *_WEIGHTS, "*.safetensors.index.json", "pytorch_model*.bin.index.json", "config.json", "tokenizer*", "vocab*",
    "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model", "*.tiktoken",
)  # fmt: skip


def load_encoder(
    encoder: Path | str, kind: str = "mlm", labels: Sequence[str] | None = None, *, seed: int = 0
) -> tuple[Any, Any]:
    """A pre-trained or fine-tuned model and its tokenizer.

    Args:
        encoder: "minibabel-base" (it comes with the package), a folder that transformers can load (a checkpoint of
            its Trainer too), or a model's id on the hub.
        kind: What the encoder carries: a head for "sequence" or "token" classification or for "mlm" (masked
            language modelling), none for "text", a decoder for "text2text" (mT5 and the like). "clm" (causal language
            modelling) loads decoder-only models, which have one already.
        labels: Names of the classes in the order of their numbers. Needed for classification unless the model
            was saved with such a head; then they have to be those of the head.
        seed: Decides the weights of a head that the stored model lacks; torch's generator is left alone.

    Returns:
        The model, in float32, on the CPU and in eval mode, and the tokenizer, a fast one where there is one. It cuts
        texts to what the model has positions for, if it states no maximum itself, or a greater one. The
        tokenizer of a decoder-only model pads with its end token if it has no padding token, and the model knows
        which token is padding: its classifiers read the last token before it.

    Raises:
        ValueError: If the kind is unknown or not to be had for this model, or labels are missing or
            contradict the stored ones, weights are of other shapes than the configuration says, or there is nothing to
            pad with.
        FileNotFoundError: If there is no such model, its folder lacks weights or tokenizer, or the hub is out of reach.

    Example:
        >>> import xsub_utils as xs
        >>> model, tokenizer = xs.load_encoder("minibabel-base", "sequence", labels=["no", "yes"])
        >>> type(model).__name__, model.config.num_labels, xs.head_shape(model)
        ('XLMRobertaForSequenceClassification', 2, (4, 12))
    """
    import transformers

    one_of("kind", kind, _AUTO_CLASSES)
    source, seed = locate(encoder), check_seed(seed)
    try:
        config = transformers.AutoConfig.from_pretrained(source)
        auto = _auto_class(config, kind)
        maps = _label_maps(config, kind, labels)
        with quiet(), seeded(seed):
            model, _ = from_pretrained(auto, source, "encoder", **maps, **_attention(config))
    except OSError as error:
        raise _missing(
            f"{PACKAGED!r}, a folder written by save_pretrained, or a hub id",
            f"{str(encoder)!r}, which cannot be loaded",
            "a hub id has to be in the local cache if the hub is out of reach",
        ) from error
    tokenizer = _tokenizer(source)
    if (most := positions_of(model)) is not None and tokenizer.model_max_length > most:
        tokenizer.model_max_length = most  # many state none
    if decoder_only(config):
        _set_padding(model, tokenizer)
    return model.eval(), tokenizer


def random_twin(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """A model of the same class and configuration with random weights, the control for what training gave.

    Args:
        model: A transformers model; it stays as it is.
        seed: Decides the weights; torch's generator is left alone.

    Returns:
        The twin, on the device, in the precision and in the mode of the model.

    Example:
        >>> import xsub_utils as xs
        >>> model, _ = xs.load_encoder("minibabel-base", "mlm")
        >>> twin = xs.random_twin(model, seed=1)
        >>> twin.num_parameters() == model.num_parameters()
        True
    """
    if not isinstance(model, nn.Module):
        remedy = "give the model alone, without its tokenizer" if isinstance(model, tuple) else "load_encoder gives one"
        raise wrong_type("model", "a model", f"a {type(model).__name__}", remedy)
    original: Any = model
    with seeded(check_seed(seed)):
        twin = type(original)(copy.deepcopy(original.config))
    return twin.to(original.device, original.dtype).train(original.training)


def locate(encoder: Path | str) -> Path | str:
    """Where an encoder is loaded from: its folder as a `Path`, or the hub id as it is.

    Raises:
        TypeError: If it is neither a text nor a path.
        ValueError: If it is empty.
        FileNotFoundError: If there is no such folder, or it holds no model; says what is missing.
    """
    if not isinstance(encoder, str | Path):
        raise wrong_type("encoder", f"{PACKAGED!r}, a folder or a hub id", f"a {type(encoder).__name__}")
    if not str(encoder).strip():
        raise invalid("encoder", f"{PACKAGED!r}, a folder or a hub id", repr(encoder))
    if str(encoder) == PACKAGED:
        folder = Path(str(files("xsub_utils"))) / "assets" / PACKAGED
        if not folder.is_dir():
            raise _missing(f"{PACKAGED!r} in the package", f"no {folder}", "`make pretrain` makes it again")
        return folder
    folder = Path(encoder).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return folder
    if get_close_matches(str(encoder), [PACKAGED], cutoff=0.8):
        raise _missing("one that exists", repr(str(encoder)), f"did you mean {PACKAGED!r}?")
    if isinstance(encoder, Path) or encoder.startswith((".", "/", "~")) or encoder.count("/") > 1:
        raise _missing("a folder that exists", repr(str(encoder)), f"paths start at {Path.cwd()}")
    return encoder


def encoder_digest(encoder: Path | str) -> str:
    """What tells a stored encoder from any other: a folder by its files, wherever it lies; the id of one on the hub.

    Raises:
        FileNotFoundError: As `locate`.
    """
    folder = locate(encoder)
    if not isinstance(folder, Path):
        return folder
    names = {path.name for pattern in _READ for path in folder.glob(pattern) if path.is_file()}
    digests = {name: sha256_once(folder / name) for name in names}
    return f"folder with files {digest(digests)}"


def _check_folder(folder: Path) -> None:
    """Raises unless a folder has a configuration and weights."""
    lacks = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        lacks.append("model.safetensors")
    if lacks:
        remedy = "model.save_pretrained(folder) writes both"
        if checkpoints := sorted(path.parent.name for path in folder.glob("*/config.json")):
            remedy = f"did you mean {folder / checkpoints[-1]}?"
        raise _missing("a folder with a model", f"{folder}, which lacks {' and '.join(lacks)}", remedy)


def _missing(expected: str, got: str, remedy: str) -> FileNotFoundError:
    return FileNotFoundError(str(invalid("encoder", expected, got, remedy)))


def _tokenizer(source: Path | str) -> Any:
    """The tokenizer that is stored with a model; where none is, transformers may make up one without any words."""
    import transformers

    problem = None
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        if len(tokenizer) > len(set(tokenizer.all_special_ids)) + MADE_UP:
            return tokenizer
    except (OSError, ValueError) as error:
        problem = error
    remedy = f"tokenizer.save_pretrained({str(source)!r}) adds one"
    raise _missing("a model stored with its tokenizer", f"{str(source)!r}, which has none", remedy) from problem


def decoder_only(config: Any) -> bool:
    """Whether models of a transformers configuration are decoders that stand alone and read from left to right."""
    import transformers

    causal, masked = (transformers.AutoModelForCausalLM, transformers.AutoModelForMaskedLM)
    known = type(config) in causal._model_mapping and type(config) not in masked._model_mapping
    return known and not getattr(config, "is_encoder_decoder", False)


def _set_padding(model: Any, tokenizer: Any) -> None:
    """Lets a decoder-only model and its tokenizer agree on the token that pads."""
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            remedy = "set its pad_token, and pad_token_id in the configuration of the model, and save both"
            raise invalid("encoder", "a tokenizer with a padding or an end token", "one without", remedy)
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def _auto_class(config: Any, kind: str) -> Any:
    """The transformers class that loads the kind."""
    import transformers

    autos = {kind: getattr(transformers, name) for kind, name in _AUTO_CLASSES.items()}
    valid = [kind for kind, auto in autos.items() if type(config) in auto._model_mapping]
    if not decoder_only(config):
        valid = [kind for kind in valid if kind != "clm"]  # an encoder would see the token that it is to predict
    if kind not in valid:
        raise invalid("kind", f"one that {config.model_type} can load ({', '.join(valid)})", repr(kind))
    return autos[kind]


def kinds_of(model: nn.Module) -> list[str]:
    """Kinds of task whose head a model carries; none where transformers does not know its class."""
    import transformers

    config = type(getattr(model, "config", None))
    mappings = {kind: getattr(transformers, name)._model_mapping for kind, name in _AUTO_CLASSES.items()}
    return [kind for kind, classes in mappings.items() if config in classes and isinstance(model, classes[config])]


def _attention(config: Any) -> dict[str, Any]:
    """Eager attention where heads are narrow and there is no GPU: up to three times as fast as the fused kernel."""
    heads = getattr(config, "num_attention_heads", None)
    narrow = heads and config.hidden_size / heads < NARROW
    return {"attn_implementation": "eager"} if narrow and not torch.cuda.is_available() else {}


def _label_maps(config: Any, kind: str, labels: Sequence[str] | None) -> dict[str, dict]:
    """`id2label` and `label2id` for the configuration; empty for kinds without classes."""
    if kind not in ("sequence", "token"):
        return {}
    head = _AUTO_CLASSES[kind].removeprefix("AutoModel")
    has_head = any(name.endswith(head) for name in config.architectures or [])
    stored = [config.id2label[i] for i in range(config.num_labels)] if has_head else None
    names = stored if labels is None else _names(labels)
    if not names:
        raise invalid("labels", f"names for kind {kind!r}, since the stored model has no such head", labels)
    unnamed = stored == [f"LABEL_{i}" for i in range(len(names))]
    if stored and names != stored and not unnamed:
        raise invalid("labels", f"{stored}, for which the stored model was trained", names)
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def _names(labels: Any) -> list[str]:
    """Names of classes that a caller gave, as a list."""
    names = [] if isinstance(labels, str) or not isinstance(labels, Iterable) else list(labels)
    if not isinstance(labels, str) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
        return names
    raise invalid("labels", "a list of different names", repr(labels))
