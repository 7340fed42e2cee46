"""Encoders: loaded, pre-trained from texts, or re-initialised as a control, each with its tokenizer."""

import copy
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

import torch
from torch import nn

from xsub_utils.models.pretraining import PretrainingSettings, train_masked_lm

PACKAGED = "minibabel-base"
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # the first four at their ids in XLM-R
NARROW = 32  # width of a head; 64 is usual
_AUTO_CLASSES = {
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "mlm": "AutoModelForMaskedLM",
    "text": "AutoModel",
    "text2text": "AutoModelForSeq2SeqLM",
}


def load_encoder(name: Path | str, kind: str = "mlm", labels: Sequence[str] | None = None, *, seed: int = 0):
    """A pre-trained or fine-tuned model and its tokenizer.

    Args:
        name: "minibabel-base" (it comes with the package), a local directory, or a model's id on the hub.
        kind: What the encoder carries: a head for "sequence" or "token" classification or for "mlm" (masked
            language modelling), none for "text", a decoder for "text2text" (mT5 and the like).
        labels: Names of the classes in the order of their numbers. Needed for classification unless the model
            was saved with such a head; then they have to be those of the head.
        seed: Decides the weights of a head that the stored model lacks; torch's generator is left alone.

    Returns:
        The model, in float32, on the CPU and in eval mode, and the tokenizer, a fast one where there is one.

    Raises:
        ValueError: If the kind is unknown or not to be had for this model, or labels are missing or
            contradict the stored ones.
        FileNotFoundError: If there is no such model, or the hub is out of reach.
    """
    import transformers

    if kind not in _AUTO_CLASSES:
        raise ValueError(f"kind={kind!r} is unknown; valid are {', '.join(_AUTO_CLASSES)}")
    source = locate(name)
    try:
        config = transformers.AutoConfig.from_pretrained(source)
        auto = _auto_class(config, kind)
        maps = _label_maps(config, kind, labels)
        with quiet(), _seeded(seed):
            model = auto.from_pretrained(source, dtype=torch.float32, **maps, **_attention(config))
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    except OSError as error:
        raise FileNotFoundError(
            f"encoder {str(name)!r} cannot be loaded: give {PACKAGED!r}, a directory written by "
            "save_pretrained, or a hub id, which has to be in the local cache if the hub is out of reach"
        ) from error
    return model.eval(), tokenizer


def random_twin(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """A model of the same class and configuration with random weights, the control for what training gave.

    Args:
        model: A transformers model; it stays as it is.
        seed: Decides the weights; torch's generator is left alone.
    """
    with _seeded(seed):
        twin = type(model)(copy.deepcopy(model.config))
    return twin.to(model.device, model.dtype).train(model.training)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int = 2000, max_length: int = 128):
    """A fast byte-pair tokenizer with the special tokens and templates of XLM-R.

    Texts are NFKC-normalised and cut at blanks and around punctuation, then merges are learnt. The same texts
    give the same tokenizer, which the parallel sums of a unigram model would not promise. Characters take up
    half of the vocabulary at most; the rarest beyond become `<unk>`.

    Args:
        texts: What to learn from.
        vocab_size: Sub-words with the special tokens; fewer if the texts are poorer.
        max_length: Longest input of the encoder, to which it truncates.

    Returns:
        A transformers `PreTrainedTokenizerFast`.

    Raises:
        ValueError: If there are no texts.

    Source: Sennrich et al. 2016; templates as in Conneau et al. 2020.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    texts = list(texts)
    if not texts:
        raise ValueError("texts is empty; a tokenizer needs some to learn from")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.decoder = decoders.Metaspace()
    alphabet = _alphabet(texts, tokenizer, vocab_size // 2)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrap(tokenizer, max_length)


def _alphabet(texts: list[str], tokenizer, size: int) -> list[str]:
    """The most frequent characters; of equally frequent ones, which the trainer would choose at random, the first."""
    pieces = (tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text)) for text in texts)
    counts = Counter(character for some in pieces for piece, _ in some for character in piece)
    return sorted(counts, key=lambda character: (-counts[character], character))[:size]


def pretrain_encoder(
    texts: Iterable[str | tuple[str, str]],
    out: Path | str,
    *,
    tokenizer=None,
    progress: bool = True,
    **settings,
) -> Path:
    """Folder of a small XLM-R pre-trained on the texts by masked language modelling; `load_encoder` takes it.

    Args:
        texts: Sentences, or pairs of them that are encoded as one input.
        out: Folder to write: configuration, `model.safetensors`, tokenizer, and `pretraining.json` with the
            settings and the loss curve.
        tokenizer: A fast tokenizer; by default one is trained on the texts.
        progress: Show a bar on stderr.
        **settings: Fields of `PretrainingSettings`: `layers`, `heads`, `width`, `steps`, `seed`, …

    Raises:
        ValueError: If there are no texts, or the settings do not fit together.
        TypeError: If a setting is unknown.

    Source: Devlin et al. 2019, section 3.1; architecture of Conneau et al. 2020.
    """
    settings = PretrainingSettings(**settings)
    texts, out = list(texts), Path(out)
    if not texts:
        raise ValueError("texts is empty; pre-training needs some")
    if tokenizer is None:
        sentences = [sentence for text in texts for sentence in ([text] if isinstance(text, str) else text)]
        tokenizer = train_tokenizer(sentences, vocab_size=settings.vocab_size, max_length=settings.max_length)
    else:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.model_max_length = settings.max_length
    rows = _encode(texts, tokenizer, settings.max_length)
    with _seeded(settings.seed):
        model = _new_encoder(tokenizer, settings)
        curve = train_masked_lm(model, rows, tokenizer, settings, progress)
    with quiet():
        model.to(getattr(torch, settings.dtype)).save_pretrained(out)
        tokenizer.save_pretrained(out)
    record = {"settings": asdict(settings), "texts": len(texts), "parameters": model.num_parameters()}
    (out / "pretraining.json").write_text(json.dumps(record | {"loss": curve}, indent=1) + "\n")
    return out


def locate(name: Path | str) -> Path | str:
    """Where an encoder is loaded from: its directory as a `Path`, or the hub id as it is."""
    if str(name) == PACKAGED:
        folder = Path(str(files("xsub_utils"))) / "assets" / PACKAGED
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing from the package; `make pretrain` makes it again")
        return folder
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder} holds no encoder: it lacks the config.json of save_pretrained")
        return folder
    if get_close_matches(str(name), [PACKAGED], cutoff=0.8):
        raise FileNotFoundError(f"there is no encoder {str(name)!r}; did you mean {PACKAGED!r}?")
    if isinstance(name, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"there is no encoder directory {str(name)!r}, seen from {Path.cwd()}")
    return name


def _auto_class(config, kind: str):
    """The transformers class that loads the kind."""
    import transformers

    autos = {kind: getattr(transformers, name) for kind, name in _AUTO_CLASSES.items()}
    valid = [kind for kind, auto in autos.items() if type(config) in auto._model_mapping]
    if kind not in valid:
        raise ValueError(f"kind={kind!r} is not for {config.model_type}; valid: {', '.join(valid)}")
    return autos[kind]


def _attention(config) -> dict[str, str]:
    """Eager attention where heads are narrow and there is no GPU: up to three times as fast as the fused kernel."""
    heads = getattr(config, "num_attention_heads", None)
    narrow = heads and config.hidden_size / heads < NARROW
    return {"attn_implementation": "eager"} if narrow and not torch.cuda.is_available() else {}


def _label_maps(config, kind: str, labels: Sequence[str] | None) -> dict[str, dict]:
    """`id2label` and `label2id` for the configuration; empty for kinds without classes."""
    if kind not in ("sequence", "token"):
        return {}
    head = _AUTO_CLASSES[kind].removeprefix("AutoModel")
    has_head = any(name.endswith(head) for name in config.architectures or [])
    stored = [config.id2label[i] for i in range(config.num_labels)] if has_head else None
    names = stored if labels is None else list(labels)
    if not names:
        raise ValueError(f"labels are needed for kind={kind!r}, since the stored model has no such head")
    unnamed = stored == [f"LABEL_{i}" for i in range(len(names))]
    if stored and names != stored and not unnamed:
        raise ValueError(f"labels={names} contradict those that the stored model was trained for, {stored}")
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def _wrap(tokenizer, max_length: int):
    """The tokenizer with the templates of XLM-R, as transformers wants it."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    start, pad, end, unknown, mask = SPECIAL_TOKENS
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} {end} $B:0 {end}:0",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in (start, end)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        cls_token=start,
        pad_token=pad,
        eos_token=end,
        sep_token=end,
        unk_token=unknown,
        mask_token=mask,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )


def _encode(texts: list[str | tuple[str, str]], tokenizer, max_length: int) -> list[torch.Tensor]:
    """Token ids of every text; the tokenizer takes single sentences and pairs apart."""
    singles = [text for text in texts if isinstance(text, str)]
    pairs = [list(text) for text in texts if not isinstance(text, str)]
    encoded = [tokenizer(part, truncation=True, max_length=max_length) for part in (singles, pairs) if part]
    return [torch.tensor(ids) for part in encoded for ids in part["input_ids"]]


def _new_encoder(tokenizer, settings: PretrainingSettings) -> nn.Module:
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        hidden_size=settings.width,
        intermediate_size=settings.intermediate,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
        max_position_embeddings=settings.max_length + tokenizer.pad_token_id + 1,  # they count from pad + 1
        type_vocab_size=1,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return XLMRobertaForMaskedLM(config)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Start torch's CPU generator at the seed, and leave it behind as it was."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back transformers' loading reports and bars; downloads still show theirs."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    hook = logging.set_tqdm_hook(lambda make, args, kwargs: make(*args, **kwargs | {"disable": True}))
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.set_tqdm_hook(hook)
