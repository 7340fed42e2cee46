"""Batches of tensors from examples: tokenised, labelled or masked, and padded."""

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int
from pandas import DataFrame
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

IGNORED = -100  # the label that torch's cross-entropy leaves out
LONGEST_TARGET = 16  # sub-words with the end token
_COLUMNS = {
    "sequence": ("text", "label"),
    "token": ("tokens", "labels"),
    "mlm": ("id", "text"),
    "text": ("text",),
    "text2text": ("text", "target"),
}


def make_batches(
    examples: DataFrame,
    tokenizer,
    kind: str,
    *,
    batch_size: int = 64,
    max_length: int = 128,
    bucket: bool = True,
    mask_seed: int = 0,
) -> list[dict[str, Tensor]]:
    """Padded batches that a transformers model of the kind accepts as `model(**batch)`.

    Args:
        examples: One row per example, with the columns of the kind: `text` and `label` for "sequence",
            `tokens` and `labels` (one per word) for "token", `id` and `text` for "mlm", `text` for "text", `text`
            and `target` (a text of at most 16 sub-words, its end token included) for "text2text".
            Where a column `text_pair` stands beside `text`, the two are encoded as a pair.
        tokenizer: A transformers tokenizer; a fast one for kind "token".
        kind: "sequence", "token", "mlm", "text" or "text2text".
        batch_size: Examples in a batch; the last one may hold fewer.
        max_length: Longest input in sub-words, special tokens included; the rest is cut off with its labels.
        bucket: Sort the examples by length (stable), which saves padding; False keeps their order.
        mask_seed: Chooses the masked tokens of kind "mlm", together with the id and text of each example and
            nothing else: in every batching an example is masked alike.

    Returns:
        Dicts of int64 tensors, padded on the right to the longest input of the batch: `input_ids` and
        `attention_mask` (examples, positions), `token_type_ids` if the tokenizer has them, and `labels` for
        every kind but "text". Labels are (examples,) for "sequence", else (examples, positions): the first
        sub-word of a word carries its label ("token"), a masked position its token ("mlm"), the rest -100. For
        "text2text" they have positions of their own: the sub-words of the target and the end token, then -100.

    Raises:
        ValueError: If there is no example, a column is missing, an example has nothing to mask or labels that
            do not match its words, targets are too long or the same to the tokenizer, or it cannot serve the kind.

    Source: Devlin et al. 2019, section 3.1 (masking) and section 5.3 (labels on first sub-words).
    """
    _check_examples(examples, kind)
    _check_tokenizer(tokenizer, kind)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} has to be positive")
    rows = _encode(examples, tokenizer, kind, min(max_length, tokenizer.model_max_length))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"])) if bucket else range(len(rows))
    if kind == "mlm":
        _mask_rows(rows, examples, tokenizer, mask_seed)
    return [
        _pad([rows[i] for i in order[start : start + batch_size]], tokenizer)
        for start in range(0, len(rows), batch_size)
    ]


def token_masker(tokenizer, share: float = 0.15) -> Callable:
    """A function from token ids to the input and labels of masked language modelling.

    Args:
        tokenizer: Tells the mask token and the special tokens; these are neither masked nor put in.
        share: Share of the other tokens to predict, rounded; one at least.

    Returns:
        `mask(ids, rng) -> (inputs, labels)` for int arrays of any shape and a NumPy generator. Of the tokens
        to predict, 80 % become the mask token, 10 % a random token and 10 % stay; labels hold the original
        token where it is to be predicted, -100 elsewhere.

    Source: Devlin et al. 2019, section 3.1; the number of tokens to predict is fixed here, not binomial.
    """
    ordinary = np.ones(len(tokenizer), dtype=bool)
    ordinary[tokenizer.all_special_ids] = False
    words = np.flatnonzero(ordinary)

    def mask(ids: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        candidates = np.flatnonzero(ordinary[ids])
        chosen = rng.permutation(candidates)[: max(1, round(share * len(candidates)))]
        inputs, labels = ids.copy(), np.full_like(ids, IGNORED)
        labels.flat[chosen] = ids.flat[chosen]
        fate = rng.random(len(chosen))
        inputs.flat[chosen[fate < 0.8]] = tokenizer.mask_token_id
        swapped = chosen[fate >= 0.9]
        inputs.flat[swapped] = words[rng.integers(len(words), size=len(swapped))]
        return inputs, labels

    return mask


def _check_examples(examples: DataFrame, kind: str) -> None:
    if kind not in _COLUMNS:
        raise ValueError(f"kind={kind!r} is unknown; valid are {', '.join(_COLUMNS)}")
    if examples.empty:
        raise ValueError("examples has no rows; a batch needs at least one")
    for column in _COLUMNS[kind]:
        if column not in examples:
            have = ", ".join(map(str, examples.columns))
            raise ValueError(f"examples has no column {column!r}, which kind {kind!r} needs; it has {have}")


def _check_tokenizer(tokenizer, kind: str) -> None:
    name = type(tokenizer).__name__
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{name} has no padding token; set tokenizer.pad_token = tokenizer.eos_token")
    if kind == "mlm" and tokenizer.mask_token_id is None:
        raise ValueError(f"{name} has no mask token; kind 'mlm' needs a tokenizer with one, such as XLM-R's")
    if kind == "token" and not tokenizer.is_fast:
        raise ValueError(f"{name} cannot tell words from sub-words; kind 'token' needs a fast tokenizer")
    if kind == "text2text" and tokenizer.eos_token_id is None:
        raise ValueError(f"{name} has no end token, which kind 'text2text' needs; set tokenizer.eos_token")


def _encode(examples: DataFrame, tokenizer, kind: str, max_length: int) -> list[dict[str, Tensor]]:
    """One dict of unpadded tensors per example; masked language modelling gets its labels later."""
    texts = list(map(list, examples["tokens"])) if kind == "token" else examples["text"].tolist()
    pairs = examples["text_pair"].tolist() if kind != "token" and "text_pair" in examples else None
    encoded = tokenizer(texts, pairs, truncation=True, max_length=max_length, is_split_into_words=kind == "token")
    columns = {name: map(torch.tensor, values) for name, values in encoded.items()}
    if kind == "token":
        columns["labels"] = _token_labels(encoded, texts, examples["labels"].tolist())
    elif kind == "sequence":
        columns["labels"] = torch.tensor(examples["label"].tolist(), dtype=torch.int64)
    elif kind == "text2text":
        columns["labels"] = _target_labels(examples["target"].tolist(), tokenizer)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _token_labels(encoded, texts: list[list[str]], labels: list) -> list[Int[Tensor, " _positions"]]:
    """The labels of the words on their first sub-words."""
    aligned = []
    for i, (words, tags) in enumerate(zip(texts, labels, strict=True)):
        if len(words) != len(tags):
            raise ValueError(f"row {i} of examples has {len(words)} tokens but {len(tags)} labels")
        word_ids = encoded.word_ids(i)
        first = {word: position for position, word in reversed(list(enumerate(word_ids)))}
        row = [IGNORED] * len(word_ids)
        for word in first.keys() - {None}:
            row[first[word]] = int(tags[word])
        aligned.append(torch.tensor(row))
    return aligned


def _target_labels(targets: list[str], tokenizer) -> list[Int[Tensor, " _positions"]]:
    """The sub-words of every target and the end token; no start token, which a decoder puts in front by itself."""
    ids, targets_of = {}, {}
    for target in dict.fromkeys(targets):
        ids[target] = [*tokenizer(target, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if len(ids[target]) > LONGEST_TARGET:
            raise ValueError(
                f"target {target!r} has {len(ids[target])} sub-words with the end token, at most {LONGEST_TARGET} are "
                "allowed; give shorter targets, or a tokenizer that knows their words"
            )
        same = targets_of.setdefault(tuple(ids[target]), target)
        if same != target:
            raise ValueError(f"targets {same!r} and {target!r} are the same to the tokenizer; name one differently")
    return [torch.tensor(ids[target]) for target in targets]


def _mask_rows(rows: list[dict[str, Tensor]], examples: DataFrame, tokenizer, mask_seed: int) -> None:
    """Mask every row in place, each by a generator of its own."""
    mask = token_masker(tokenizer)
    for row, key, text in zip(rows, examples["id"], examples["text"], strict=True):
        seed = hashlib.sha256(f"{mask_seed}|{key}|{text}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(seed[:8], "big"))
        inputs, labels = mask(row["input_ids"].numpy(), rng)
        if (labels == IGNORED).all():
            raise ValueError(f"example {key!r} has no token to mask; its text is {text!r}")
        row["input_ids"], row["labels"] = torch.from_numpy(inputs), torch.from_numpy(labels)


def _pad(rows: list[dict[str, Tensor]], tokenizer) -> dict[str, Tensor]:
    """One batch of the rows; labels of whole examples are stacked, all else is padded on the right."""
    fill = {
        "input_ids": tokenizer.pad_token_id,
        "token_type_ids": tokenizer.pad_token_type_id,
        "attention_mask": 0,
        "labels": IGNORED,
    }
    batch = {}
    for name, first in rows[0].items():
        column = [row[name] for row in rows]
        if first.ndim == 0:
            batch[name] = torch.stack(column)
        else:
            batch[name] = pad_sequence(column, batch_first=True, padding_value=fill[name])
    return batch
