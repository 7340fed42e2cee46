"""Shared sub-words: cases counted by hand on whole words, an independent count, and special tokens left out."""

from math import isnan

import numpy as np
import pytest
from transformers import BertTokenizerFast

from xsub_utils.models.tokenizers import train_tokenizer
from xsub_utils.similarity.tokens import token_overlap, vocabulary_jaccard

WORDS = ["ani", "beku", "cadi", "dofe", "gilu"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tokenizer whose sub-words are these five words; all else is unknown."""
    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]), encoding="utf-8")
    return BertTokenizerFast(str(path))


A, B = ["ani beku ani", "cadi"], ["beku dofe gilu", "cadi cadi"]


def test_overlap_counted_by_hand(words):
    # {ani, beku} and {beku, dofe, gilu} share one sub-word, {cadi} and {cadi} all
    assert token_overlap(A, B, words) == pytest.approx((1 / 3 + 1) / 2)
    assert token_overlap(B, A, words) == pytest.approx((1 / 2 + 1) / 2)


def test_vocabulary_counted_by_hand(words):
    # {ani, beku, cadi} and {beku, cadi, dofe, gilu}
    assert vocabulary_jaccard(A, B, words) == vocabulary_jaccard(B, A, words) == 2 / 5


def test_special_and_unknown_tokens_do_not_count(words):
    assert token_overlap(["ani zzz [SEP]"], ["beku яяя [SEP]"], words) == 0
    assert vocabulary_jaccard(["ani zzz"], ["ani яяя"], words) == 1


def test_sentences_without_subwords_are_left_out(words):
    assert token_overlap([*A, "ani"], [*B, "яяя"], words) == token_overlap(A, B, words)
    assert token_overlap(["", "ani"], ["ani", "ani"], words) == 0.5
    assert isnan(token_overlap(["ani"], ["яяя"], words)) and isnan(vocabulary_jaccard([""], ["яяя"], words))
    assert isnan(token_overlap([], [], words)) and isnan(vocabulary_jaccard([], [], words))


def test_both_agree_with_an_independent_count_over_subwords():
    rng = np.random.default_rng(0)
    a, b = ([" ".join(rng.choice(WORDS, 4)) for _ in range(30)] for _ in range(2))
    tokenizer = train_tokenizer(a + b, vocab_size=30)  # all letters, but not all words
    # the templates put one special token on either side
    rows = [[tokenizer(text)["input_ids"][1:-1] for text in texts] for texts in (a, b)]
    assert max(len(row) for row in rows[0]) > 4
    expected = np.mean([np.isin(np.unique(y), x).mean() for x, y in zip(*rows, strict=True)])
    assert token_overlap(a, b, tokenizer) == pytest.approx(expected) and 0 < expected < 1
    used = np.array([np.isin(range(len(tokenizer)), np.concatenate(side)) for side in rows])
    assert vocabulary_jaccard(a, b, tokenizer) == used.all(0).sum() / used.any(0).sum()


def test_a_text_shares_everything_with_itself(words):
    assert token_overlap(A, A, words) == vocabulary_jaccard(A, A, words) == 1


def test_sentences_have_to_be_parallel(words):
    with pytest.raises(ValueError, match=r"texts_a, texts_b: expected as many sentences of both, .* got 2 and 1"):
        token_overlap(A, B[:1], words)
