"""Small encoders pre-trained on texts by masked language modelling."""

import copy
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from xsub_utils._internal.amounts import amount, check_seed
from xsub_utils._internal.io import explained, write_text_atomic
from xsub_utils._internal.places import folder_to_write
from xsub_utils._internal.validation import invalid, one_of, whole, wrong_type
from xsub_utils.models.batches import IGNORED, token_masker
from xsub_utils.models.modes import quiet, seeded
from xsub_utils.models.tokenizers import train_tokenizer

_LOG_EVERY = 50  # steps


@dataclass(frozen=True)
class PretrainingSettings:
    """Shape of an encoder and course of its pre-training.

    Attributes:
        layers, heads, width, intermediate: Shape; `heads` divides `width`.
        vocab_size: Sub-words of the tokenizer, where one is trained.
        max_length: Longest input in sub-words, special tokens included.
        steps: Updates of AdamW, each on `batch_size` texts of similar length, masked anew every time.
        lr: Highest learning rate; it rises over `warmup` steps, then falls to zero along a cosine.
        weight_decay: Of AdamW, on matrices alone.
        dropout: Of hidden states and attention; saved in the configuration, so that fine-tuning uses it too.
        mask_share: Share of the sub-words to predict.
        seed: Decides initial weights, order and masking; same seed, machine and thread count, same bytes.
        dtype: How the weights are stored, "float32" or "float16"; they are trained in float32.
    """

    layers: int = 6
    heads: int = 8
    width: int = 96
    intermediate: int = 192
    vocab_size: int = 2000
    max_length: int = 128
    steps: int = 3000
    batch_size: int = 64
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    dropout: float = 0.0
    mask_share: float = 0.15
    seed: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "width", "intermediate", "vocab_size", "max_length", "steps", "batch_size"):
            whole(name, getattr(self, name), 1)
        whole("warmup", self.warmup, 0)
        check_seed(self.seed)
        for name in ("lr", "weight_decay"):
            amount(name, getattr(self, name))
        for name in ("dropout", "mask_share"):
            if not 0 <= amount(name, getattr(self, name)) <= 1:
                raise invalid(name, "a share from 0 to 1", getattr(self, name))
        if self.width % self.heads:
            raise invalid("heads", f"a divisor of width={self.width}", self.heads)
        one_of("dtype", self.dtype, ("float32", "float16"))


def pretrain_encoder(
    texts: Iterable[str | tuple[str, str]],
    out: Path | str,
    *,
    tokenizer: Any = None,
    progress: bool = True,
    **settings: Any,
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
        ValueError: If there are no texts, one is empty, the settings do not fit together, `out` is no new or empty
            folder, or the loss is no finite number any more.
        TypeError: If a setting is unknown or of the wrong type, or a text is no text.
        StoreError: If the disk is full or not writable.

    Source: Devlin et al. 2019, section 3.1; architecture of Conneau et al. 2020.

    Example:
        >>> import xsub_utils as xs
        >>> texts = ["ani beku cadi", "dofe gilu", "cadi ani gilu"] * 4
        >>> folder = xs.pretrain_encoder(texts, "tiny", layers=1, heads=2, width=8, steps=2, progress=False)
        >>> xs.head_shape(xs.load_encoder(folder)[0])
        (1, 2)
    """
    course = PretrainingSettings(**settings)
    sources, out = _sources(texts), folder_to_write(out)
    if content := sorted(path.name for path in out.glob("[!.]*")):
        got = f"{str(out)!r}, which holds {', '.join(content[:3])}"
        raise invalid("out", "a new or an empty folder", got, "choose a new folder")
    if tokenizer is None:
        sentences = [sentence for text in sources for sentence in ([text] if isinstance(text, str) else text)]
        tokenizer = train_tokenizer(sentences, vocab_size=course.vocab_size, max_length=course.max_length)
    else:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.model_max_length = course.max_length
    rows = _encode(sources, tokenizer, course.max_length)
    with seeded(course.seed):
        model = _new_encoder(tokenizer, course)
        curve = train_masked_lm(model, rows, tokenizer, course, progress)
    record = {"settings": asdict(course), "texts": len(sources), "parameters": model.num_parameters()}
    with quiet(), explained(out, full_only=True):
        model.to(getattr(torch, course.dtype)).save_pretrained(out)
        tokenizer.save_pretrained(out)
        write_text_atomic(out / "pretraining.json", json.dumps(record | {"loss": curve}, indent=1) + "\n")
    return out


def train_masked_lm(
    model: nn.Module,
    rows: list[Int[Tensor, " _positions"]],
    tokenizer: Any,
    settings: PretrainingSettings,
    progress: bool = True,
) -> list[dict[str, int | float]]:
    """Loss curve of masked language modelling, in nats per masked token; the model is trained in place.

    Args:
        model: An XLM-R with its language-modelling head.
        rows: Token ids of the texts, special tokens included.
        tokenizer: Tells the mask token and the special tokens.
        settings: Course of the training.
        progress: Show a bar on stderr.

    Returns:
        `step` and mean `loss` of every 50 steps.

    Raises:
        ValueError: If the loss is no finite number any more; names the step.
    """
    model.train()
    optimizer, schedule = _optimizer(model, settings)
    batches = _masked_batches(rows, tokenizer, settings)
    curve: list[dict[str, int | float]] = []
    recent: list[float] = []
    bar = tqdm(range(1, settings.steps + 1), desc="pre-training", unit="step", disable=not progress)
    for step in bar:
        loss = _masked_loss(model, *next(batches))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        recent.append(loss.item())
        if not math.isfinite(recent[-1]):
            remedy = "lower lr or raise warmup; nothing was written"
            raise invalid("loss", "a finite number", f"{recent[-1]} in step {step} of {settings.steps}", remedy)
        if step % _LOG_EVERY == 0 or step == settings.steps:
            curve.append({"step": step, "loss": round(float(np.mean(recent)), 4)})
            bar.set_postfix(loss=curve[-1]["loss"])
            recent.clear()
    return curve


def _sources(texts: Any) -> list[str | tuple[str, str]]:
    """The texts and pairs of texts as a list; raises if one is something else."""
    if isinstance(texts, str):
        raise wrong_type("texts", "a list of texts", "a single one", "put it into a list")
    sources = list(texts)
    if not sources:
        raise invalid("texts", "at least one to learn from", "none")
    for number, text in enumerate(sources):
        parts = [text] if isinstance(text, str) else text if isinstance(text, tuple | list) else []
        if not (isinstance(text, str) or len(parts) == 2) or not all(isinstance(part, str) for part in parts):
            raise wrong_type("texts", "texts, or pairs of texts", f"{text!r} as number {number}")
        if not all(part.strip() for part in parts):
            raise invalid("texts", "texts that are not empty", f"{text!r} as number {number}", "leave it out")
    return sources


def _encode(texts: list[str | tuple[str, str]], tokenizer: Any, max_length: int) -> list[torch.Tensor]:
    """Token ids of every text; the tokenizer takes single sentences and pairs apart."""
    singles = [text for text in texts if isinstance(text, str)]
    pairs = [list(text) for text in texts if not isinstance(text, str)]
    encoded = [tokenizer(part, truncation=True, max_length=max_length) for part in (singles, pairs) if part]
    return [torch.tensor(ids) for part in encoded for ids in part["input_ids"]]


def _new_encoder(tokenizer: Any, settings: PretrainingSettings) -> Any:
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


def _optimizer(
    model: nn.Module, settings: PretrainingSettings
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW and its learning-rate schedule."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)

    def factor(step: int) -> float:
        falling = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
        return min((step + 1) / max(1, settings.warmup), 0.5 + 0.5 * math.cos(math.pi * max(0.0, falling)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _masked_batches(
    rows: list[Tensor], tokenizer: Any, settings: PretrainingSettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless inputs and labels: in an epoch, batches of texts of similar length come in random order."""
    rng = np.random.default_rng(settings.seed)
    mask = token_masker(tokenizer, settings.mask_share)
    lengths = np.array([len(row) for row in rows])
    starts = np.arange(0, len(rows), settings.batch_size)
    while True:
        shuffled = rng.permutation(len(rows))
        by_length = shuffled[np.argsort(lengths[shuffled], kind="stable")]
        for start in rng.permutation(starts):
            chosen = [rows[i] for i in by_length[start : start + settings.batch_size]]
            ids = pad_sequence(chosen, batch_first=True, padding_value=tokenizer.pad_token_id)
            inputs, labels = mask(ids.numpy(), rng)
            yield torch.from_numpy(inputs), torch.from_numpy(labels)


def _masked_loss(
    model: Any,
    ids: Int[Tensor, "examples positions"],
    labels: Int[Tensor, "examples positions"],
) -> Float[Tensor, ""]:
    """Cross-entropy per masked token; to save time, only these positions are compared with the vocabulary."""
    attended = ids.ne(model.config.pad_token_id).long()
    hidden = model.base_model(input_ids=ids, attention_mask=attended).last_hidden_state
    masked = labels != IGNORED
    return nn.functional.cross_entropy(model.lm_head(hidden[masked]), labels[masked])
