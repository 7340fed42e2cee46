"""Sub-words that two languages share: the overlap that a tokenizer alone gives a multilingual model."""

from collections.abc import Iterable, Sequence

import numpy as np


def token_overlap(texts_a: Sequence[str], texts_b: Sequence[str], tokenizer) -> float:
    """Share of the sub-words of a sentence that its translation has too, mean over sentences.

    Args:
        texts_a: Sentences in one language.
        texts_b: The same sentences in another, in the same order.
        tokenizer: A transformers tokenizer; its special tokens do not count, the unknown one included, which would
            otherwise be shared by any two scripts that the vocabulary lacks.

    Returns:
        Mean over sentences of |T_a ∩ T_b| / |T_b| in [0, 1], where T is the set of sub-words; not symmetric. Sentences
        of b without any sub-word are left out; nan if none is left.

    Raises:
        ValueError: If there are not as many sentences on both sides.

    Source: Belitsky et al. 2024, token overlap, without their special tokens.
    """
    if len(texts_a) != len(texts_b):
        raise ValueError(
            f"texts_a has {len(texts_a)} sentences and texts_b {len(texts_b)}; the i-th of both have to be translations"
        )
    pairs = zip(_subwords(texts_a, tokenizer), _subwords(texts_b, tokenizer), strict=True)
    shares = [len(a & b) / len(b) for a, b in pairs if b]
    return float(np.mean(shares)) if shares else float("nan")


def vocabulary_jaccard(texts_a: Iterable[str], texts_b: Iterable[str], tokenizer) -> float:
    """Share of the sub-words used in either language that both use.

    Args:
        texts_a: Any texts in one language. More text uses more sub-words: compare languages on parallel texts.
        texts_b: Any texts in another.
        tokenizer: As in `token_overlap`.

    Returns:
        |V_a ∩ V_b| / |V_a ∪ V_b| in [0, 1], where V is the set of all sub-words of the texts; nan if both are empty.

    Source: Jaccard 1912.
    """
    a, b = (set().union(*_subwords(texts, tokenizer)) for texts in (texts_a, texts_b))
    return len(a & b) / len(a | b) if a | b else float("nan")


def _subwords(texts: Iterable[str], tokenizer) -> list[set[int]]:
    """Distinct ordinary token ids of every text."""
    special = set(tokenizer.all_special_ids)
    texts = list(texts)
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return [set(ids) - special for ids in encoded]
