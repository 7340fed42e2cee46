"""Sub-words that two languages share: the overlap that a tokenizer alone gives a multilingual model."""

from collections.abc import Iterable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from xsub_utils._internal.validation import invalid


def token_overlap(texts_a: Sequence[str], texts_b: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> float:
    """Share of a sentence's sub-words that its translation has too, as a mean over the sentences.

    Args:
        texts_a: Sentences in one language.
        texts_b: The same sentences in another language, in the same order.
        tokenizer: A transformers tokenizer. Its special tokens do not count; neither does the unknown token, which
            any two scripts would share that the vocabulary lacks.

    Returns:
        Mean over sentences of |T_a ∩ T_b| / |T_b| in [0, 1], where T is the set of sub-words; not symmetric. Sentences
        of b without any sub-word are left out; nan if no sentence is left.

    Raises:
        ValueError: If the two languages have different numbers of sentences, or one of these is no text.

    Source: Belitsky et al. 2024, token overlap, without their special tokens.

    Example:
        >>> import xsub_utils as xs
        >>> _, tokenizer = xs.load_encoder("minibabel-base", "text")
        >>> task = xs.load_task("parallel", ["qaa", "qab"], sizes={"test": 20})
        >>> qaa, qab = (task.examples("test", code)["text"].tolist() for code in task.languages)
        >>> xs.token_overlap(qaa, qaa, tokenizer)
        1.0
        >>> 0 < xs.token_overlap(qaa, qab, tokenizer) < 1
        True
    """
    for name, texts in (("texts_a", texts_a), ("texts_b", texts_b)):
        _check_texts(name, texts)
    if len(texts_a) != len(texts_b):
        sizes = f"{len(texts_a)} and {len(texts_b)}"
        raise invalid("texts_a, texts_b", "as many sentences of both, the i-th a translation of the i-th", sizes)
    pairs = zip(_subwords(texts_a, tokenizer), _subwords(texts_b, tokenizer), strict=True)
    shares = [len(a & b) / len(b) for a, b in pairs if b]
    return float(np.mean(shares)) if shares else float("nan")


def vocabulary_jaccard(texts_a: Iterable[str], texts_b: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> float:
    """Share of the sub-words used in either language that both use.

    Args:
        texts_a: Any texts in one language. More text uses more sub-words: compare languages on parallel texts.
        texts_b: Any texts in another language.
        tokenizer: As in `token_overlap`.

    Returns:
        |V_a ∩ V_b| / |V_a ∪ V_b| in [0, 1], where V is the set of all sub-words of the texts; nan if both are empty.

    Source: Jaccard 1912.
    """
    texts_a, texts_b = list(texts_a), list(texts_b)
    _check_texts("texts_a", texts_a)
    _check_texts("texts_b", texts_b)
    a, b = (set().union(*_subwords(texts, tokenizer)) for texts in (texts_a, texts_b))
    return len(a & b) / len(a | b) if a | b else float("nan")


def _check_texts(argument: str, texts: Sequence[str]) -> None:
    """Raises unless these are several texts."""
    if isinstance(texts, str):
        raise invalid(argument, "a list of sentences", "a single one", "put it into a list")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise invalid(argument, "sentences, each a str", f"{text!r} in row {row}", "leave it out of both")


def _subwords(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> list[set[int]]:
    """Distinct ordinary token ids of every text."""
    special = set(tokenizer.all_special_ids)
    texts = list(texts)
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return [set(ids) - special for ids in encoded]
