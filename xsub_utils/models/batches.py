"""Batches of tensors from examples: tokenised, labelled or masked, and padded."""

import hashlib
import secrets
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from pandas import DataFrame
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from xsub_utils._internal.validation import invalid, whole
from xsub_utils.models.example_checks import check_examples, check_tokenizer, longest_input
from xsub_utils.models.example_order import NumberedBatch

IGNORED = -100  # the label that torch's cross-entropy leaves out
CUT_IN_SILENCE = 0.01  # of the labels of words; above it, make_batches warns
LONGEST_TARGET = 16  # sub-words with the end token


def make_batches(
    examples: DataFrame,
    tokenizer: Any,
    kind: str,
    *,
    batch_size: int = 64,
    max_length: int = 128,
    bucket: bool = True,
    mask_seed: int = 0,
) -> list[NumberedBatch]:
    """Padded batches that a transformers model of the kind accepts as `model(**batch)`.

    Args:
        examples: One row per example, with the columns of the kind: `text` and `label` (the number of the class) for
            "sequence", `tokens` and `labels` (one per word) for "token", `id` and `text` for "mlm", `text` for "clm"
            and "text", `text` and `target` (a text of at most 16 sub-words, its end token included) for "text2text".
            Where a column `text_pair` stands beside `text`, the two are encoded as a pair.
        tokenizer: A transformers tokenizer; a fast one for kind "token".
        kind: "sequence", "token", "mlm" (masked language modelling), "clm" (causal language modelling, for decoder-only
            models), "text2text" or "text" (no labels).
        batch_size: Examples in a batch; the last one may hold fewer.
        max_length: Longest input in sub-words, special tokens included; the rest is cut off with its labels.
        bucket: Sort the examples by length (stable), which saves padding. Results come in the order of the examples all
            the same: the batches know their rows.
        mask_seed: Chooses the masked tokens of kind "mlm", together with the id and text of each example and
            nothing else: in every batching an example is masked alike.

    Returns:
        Dicts of int64 tensors, padded on the right to the longest input of the batch: `input_ids` and
        `attention_mask` (examples, positions), `token_type_ids` if the tokenizer has them, and `labels` for
        every kind but "text". Labels are (examples,) for "sequence", else (examples, positions): the first
        sub-word of a word carries its label ("token"), a masked position its token ("mlm"), every position that is not
        padding its own token ("clm": models and `evaluate` compare it with what the position before predicts), the rest
        -100. For "text2text" they have positions of their own: the sub-words of the target and the end token, then
        -100. The attribute `rows` of a batch holds the numbers of its examples, from 0. Functions that return something
        per example (`hidden_states`, `predictions`, `influence`, …) return it in the order of the examples; a batch
        that is copied into a plain dict has lost its numbers, and keeps its place instead.

    Warns:
        UserWarning: If more than 1 % of the labels of words were cut off.

    Raises:
        TypeError: If examples are no frame, the tokenizer is none, or a number is not whole.
        ValueError: If there is no example, a column is missing, a text is empty, a label is no number of a class, an
            example has nothing to mask or to predict or labels that do not match its words, targets are too long or the
            same to the tokenizer, it cannot serve the kind, or `max_length` leaves no room for text.

    Source: Devlin et al. 2019, section 3.1 (masking) and section 5.3 (labels on first sub-words).

    Example:
        >>> import xsub_utils as xs
        >>> task = xs.load_task("nli", ["qaa"], sizes={"train": 8, "test": 6})
        >>> _, tokenizer = xs.load_encoder("minibabel-base", "text")
        >>> batches = xs.make_batches(task.examples("test", "qaa"), tokenizer, task.kind, batch_size=4)
        >>> [len(batch["labels"]) for batch in batches], sorted(batches[0])
        ([4, 2], ['attention_mask', 'input_ids', 'labels'])
    """
    check_examples(examples, kind)
    check_tokenizer(tokenizer, kind)
    whole("batch_size", batch_size, 1)
    longest = longest_input(max_length, tokenizer, pairs=kind != "token" and "text_pair" in examples)
    rows = _encode(examples, tokenizer, kind, longest)
    if kind == "token":
        _warn_of_cut(rows, examples, longest)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"])) if bucket else range(len(rows))
    if kind == "mlm":
        _mask_rows(rows, examples, tokenizer, mask_seed)
    source = secrets.token_hex(8)
    parts = (list(order[start : start + batch_size]) for start in range(0, len(rows), batch_size))
    return [NumberedBatch(_pad([rows[i] for i in part], tokenizer), torch.tensor(part), source) for part in parts]


def scored_words(examples: DataFrame, tokenizer: Any, *, max_length: int = 128) -> DataFrame:
    """Examples of kind "token" without the words whose labels `make_batches` cuts off, so that others are scored alike.

    Args:
        examples: One row per example, with columns `tokens` and `labels`.
        tokenizer: A fast transformers tokenizer.
        max_length: Longest input in sub-words, as for `make_batches`.

    Returns:
        A copy with shorter `tokens` and `labels` where a sentence is too long.

    Raises:
        TypeError, ValueError: As `make_batches`.

    Example:
        >>> import xsub_utils as xs
        >>> test = xs.load_task("ner", ["qaa"], sizes={"test": 6}).examples("test")
        >>> _, tokenizer = xs.load_encoder("minibabel-base", "text")
        >>> bool(xs.scored_words(test, tokenizer, max_length=4)["tokens"].map(len).max() <= 2)
        True
    """
    check_examples(examples, "token")
    check_tokenizer(tokenizer, "token")
    texts = list(map(list, examples["tokens"]))
    longest = longest_input(max_length, tokenizer, pairs=False)
    encoded = tokenizer(texts, truncation=True, max_length=longest, is_split_into_words=True)
    kept = [sorted({word for word in encoded.word_ids(i) if word is not None}) for i in range(len(texts))]

    def cut(column: str) -> list[list]:
        return [[values[word] for word in words] for values, words in zip(examples[column], kept, strict=True)]

    return examples.assign(tokens=cut("tokens"), labels=cut("labels"))


def token_masker(tokenizer: Any, share: float = 0.15) -> Callable:
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


def _encode(examples: DataFrame, tokenizer: Any, kind: str, max_length: int) -> list[dict[str, Tensor]]:
    """One dict of unpadded tensors per example; masked language modelling gets its labels later."""
    texts: list = list(map(list, examples["tokens"])) if kind == "token" else examples["text"].tolist()
    pairs = examples["text_pair"].tolist() if kind != "token" and "text_pair" in examples else None
    encoded = tokenizer(texts, pairs, truncation=True, max_length=max_length, is_split_into_words=kind == "token")
    columns: dict[str, Iterable[Tensor]] = {name: map(torch.tensor, values) for name, values in encoded.items()}
    if kind == "token":
        columns["labels"] = _token_labels(encoded, examples["labels"].tolist())
    elif kind == "sequence":
        columns["labels"] = torch.tensor(examples["label"].tolist(), dtype=torch.int64)
    elif kind == "text2text":
        columns["labels"] = _target_labels(examples["target"].tolist(), tokenizer)
    elif kind == "clm":
        columns["labels"] = _next_labels(encoded["input_ids"], texts)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _token_labels(encoded: Any, labels: list) -> list[Int[Tensor, " _positions"]]:
    """The labels of the words on their first sub-words."""
    aligned = []
    for i, tags in enumerate(labels):
        word_ids = encoded.word_ids(i)
        first = {word: position for position, word in reversed(list(enumerate(word_ids)))}
        row = [IGNORED] * len(word_ids)
        for word in first.keys() - {None}:
            row[first[word]] = int(tags[word])
        aligned.append(torch.tensor(row))
    return aligned


def _warn_of_cut(rows: list[dict[str, Tensor]], examples: DataFrame, longest: int) -> None:
    """Warn if more than a hundredth of the labels were cut off."""
    count = sum(map(len, examples["labels"]))
    kept = sum(int((row["labels"] != IGNORED).sum()) for row in rows)
    if kept < count * (1 - CUT_IN_SILENCE):
        warnings.warn(
            f"max_length: {1 - kept / count:.0%} of the labels were cut off, those of the words beyond {longest} "
            "sub-words, and are neither learned nor scored; raise it, or split long sentences. scored_words gives the "
            "examples without them",
            stacklevel=3,
        )


def _next_labels(ids: list[list[int]], texts: list[str]) -> list[Int[Tensor, " _positions"]]:
    """Every token as its own label; the model that reads on from it predicts the one after."""
    for row, text in zip(ids, texts, strict=True):
        if len(row) < 2:
            raise invalid("examples", "texts of at least two sub-words for kind 'clm'", repr(text), "leave it out")
    return [torch.tensor(row) for row in ids]


def _target_labels(targets: list[str], tokenizer: Any) -> list[Int[Tensor, " _positions"]]:
    """The sub-words of every target and the end token; no start token, which a decoder puts in front by itself."""
    ids: dict[str, list[int]] = {}
    targets_of: dict[tuple[int, ...], str] = {}
    for target in dict.fromkeys(targets):
        ids[target] = [*tokenizer(target, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if len(ids[target]) > LONGEST_TARGET:
            raise invalid(
                "examples",
                f"targets of at most {LONGEST_TARGET} sub-words with the end token",
                f"{len(ids[target])} in {target!r}",
                "give shorter targets, or a tokenizer that knows their words",
            )
        same = targets_of.setdefault(tuple(ids[target]), target)
        if same != target:
            got = f"the same for {same!r} and {target!r}"
            raise invalid("examples", "targets that differ in their sub-words", got, "name one differently")
    return [torch.tensor(ids[target]) for target in targets]


def _mask_rows(rows: list[dict[str, Tensor]], examples: DataFrame, tokenizer: Any, mask_seed: int) -> None:
    """Mask every row in place, each by a generator of its own."""
    mask = token_masker(tokenizer)
    for row, key, text in zip(rows, examples["id"], examples["text"], strict=True):
        seed = hashlib.sha256(f"{mask_seed}|{key}|{text}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(seed[:8], "big"))
        inputs, labels = mask(row["input_ids"].numpy(), rng)
        if (labels == IGNORED).all():
            raise invalid("examples", "a token to mask in each", f"{text!r} with id {key!r}", "leave it out")
        row["input_ids"], row["labels"] = torch.from_numpy(inputs), torch.from_numpy(labels)


def _pad(rows: list[dict[str, Tensor]], tokenizer: Any) -> dict[str, Tensor]:
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
