"""Batches: what stands where, independence of batching, and clear refusals."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from xsub_utils.models.batches import IGNORED, make_batches, scored_words, token_masker
from xsub_utils.models.tokenizers import train_tokenizer

WORDS = ["ani", "beku", "cadi", "dofe", "gilu", "hamo", "jenu", "kapi", "lore", "mita", "noku"]


def sentences(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 15))) for _ in range(n)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(sentences(200), vocab_size=60)


@pytest.fixture
def texts():
    return pd.DataFrame({"id": [f"t-{i}" for i in range(50)], "text": sentences(50, seed=1)})


def by_example(batches, key="input_ids", fill=1):
    """Rows of all batches without their padding, as a set of tuples."""
    rows = [tuple(row[row != fill].tolist()) for batch in batches for row in batch[key]]
    return sorted(rows)


def bert_tokenizer(tmp_path):
    from transformers import BertTokenizerFast

    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab), encoding="utf-8")
    return BertTokenizerFast(str(tmp_path / "vocab.txt"))


# Shapes and order


def test_text_batches_hold_every_example_once_and_no_labels(tokenizer, texts):
    batches = make_batches(texts, tokenizer, "text", batch_size=8)
    assert [len(batch["input_ids"]) for batch in batches] == [8] * 6 + [2]
    assert all(batch.keys() == {"input_ids", "attention_mask"} for batch in batches)
    assert by_example(batches) == sorted(tuple(tokenizer(text)["input_ids"]) for text in texts["text"])


def test_order_is_kept_without_buckets(tokenizer, texts):
    batches = make_batches(texts, tokenizer, "text", batch_size=7, bucket=False)
    rows = [row[row != 1].tolist() for batch in batches for row in batch["input_ids"]]
    assert rows == [tokenizer(text)["input_ids"] for text in texts["text"]]


def test_buckets_sort_by_length_and_save_padding(tokenizer, texts):
    def width(batches):
        return [batch["input_ids"].shape[1] for batch in batches]

    bucketed = make_batches(texts, tokenizer, "text", batch_size=8)
    assert width(bucketed) == sorted(width(bucketed))
    assert sum(width(bucketed)) < sum(width(make_batches(texts, tokenizer, "text", batch_size=8, bucket=False)))


def test_buckets_keep_the_order_of_equal_lengths(tokenizer):
    examples = pd.DataFrame({"text": ["ani"] * 20, "label": range(20)})
    batches = make_batches(examples, tokenizer, "sequence", batch_size=6)
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == list(range(20))


def test_padding_stands_on_the_right_and_is_not_attended(tokenizer, texts):
    tokenizer.padding_side = "left"
    try:
        batches = make_batches(texts, tokenizer, "mlm", batch_size=16, bucket=False)
    finally:
        tokenizer.padding_side = "right"
    for batch in batches:
        lengths = batch["attention_mask"].sum(1, keepdim=True)
        inside = torch.arange(batch["input_ids"].shape[1]) < lengths
        assert torch.equal(batch["attention_mask"].bool(), inside)
        assert (batch["input_ids"][~inside] == tokenizer.pad_token_id).all()
        assert (batch["labels"][~inside] == IGNORED).all()
        assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_inputs_are_cut_at_the_smaller_of_both_limits(tokenizer, texts):
    assert max(b["input_ids"].shape[1] for b in make_batches(texts, tokenizer, "text", max_length=6)) == 6
    tokenizer.model_max_length, before = 5, tokenizer.model_max_length
    try:
        assert max(b["input_ids"].shape[1] for b in make_batches(texts, tokenizer, "text")) == 5
    finally:
        tokenizer.model_max_length = before


# Sequence and token labels


def test_sequence_labels_follow_their_texts(tokenizer, texts):
    lengths = [len(tokenizer(text)["input_ids"]) for text in texts["text"]]
    for batch in make_batches(texts.assign(label=lengths), tokenizer, "sequence", batch_size=8):
        assert torch.equal(batch["attention_mask"].sum(1), batch["labels"])


def test_pairs_are_encoded_together(tokenizer):
    examples = pd.DataFrame({"text": ["ani"], "text_pair": ["beku"], "label": [1]})
    (batch,) = make_batches(examples, tokenizer, "sequence")
    assert tokenizer.decode(batch["input_ids"][0]).split() == ["<s>", "ani</s></s>", "beku</s>"]


def test_bert_gets_token_types_for_pairs(tmp_path):
    examples = pd.DataFrame({"text": ["ani", "beku cadi"], "text_pair": ["dofe", "gilu"], "label": [0, 1]})
    (batch,) = make_batches(examples, bert_tokenizer(tmp_path), "sequence", bucket=False)
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1] * 6]


def test_first_subwords_carry_the_labels_of_words(tokenizer):
    tokens = ["kapi", "xylophonist", "mita", "ani,ani"]
    (batch,) = make_batches(pd.DataFrame({"tokens": [tokens], "labels": [[3, 4, 5, 6]]}), tokenizer, "token")
    pieces = [len(tokenizer([token], is_split_into_words=True)["input_ids"]) - 2 for token in tokens]
    assert max(pieces) > 1
    expected = [IGNORED]
    for label, count in zip([3, 4, 5, 6], pieces, strict=True):
        expected += [label] + [IGNORED] * (count - 1)
    assert batch["labels"].tolist() == [[*expected, IGNORED]]


def test_words_beyond_the_limit_lose_their_labels(tokenizer):
    examples = pd.DataFrame({"tokens": [["ani"] * 40, ["ani"]], "labels": [list(range(40)), np.array([7])]})
    with pytest.warns(UserWarning, match="max_length: .*% of the labels were cut off, .* beyond 10 sub-words"):
        batch, short = make_batches(examples, tokenizer, "token", max_length=10, bucket=False, batch_size=1)
    left = scored_words(examples, tokenizer, max_length=10)
    assert [len(words) for words in left["tokens"]] == [int((row["labels"] != IGNORED).sum()) for row in (batch, short)]
    assert left["labels"].tolist() == [list(range(len(left["tokens"][0]))), [7]]
    make_batches(left, tokenizer, "token", max_length=10)  # without a warning
    kept = batch["labels"][batch["labels"] != IGNORED]
    assert batch["labels"].shape == (1, 10) and kept.tolist() == list(range(len(kept)))
    assert short["labels"][short["labels"] != IGNORED].tolist() == [7]


# Masking


def masked(texts, tokenizer, **options):
    """Input and labels of every example, by its unmasked ids."""
    found = {}
    for batch in make_batches(texts, tokenizer, "mlm", **options):
        for ids, labels, attended in zip(*(batch[k] for k in ("input_ids", "labels", "attention_mask")), strict=True):
            ids, labels = ids[attended == 1], labels[attended == 1]
            original = torch.where(labels == IGNORED, ids, labels)
            found[tuple(original.tolist())] = (ids.tolist(), labels.tolist())
    return found


def test_an_example_is_masked_alike_in_every_batching(tokenizer, texts):
    reference = masked(texts, tokenizer)
    shuffled = texts.sample(frac=1, random_state=0)
    assert masked(shuffled, tokenizer, batch_size=3) == reference
    assert masked(shuffled, tokenizer, batch_size=5, bucket=False) == reference
    few = masked(texts[:5], tokenizer)
    assert few == {key: reference[key] for key in few}


def test_masking_depends_on_seed_and_id(tokenizer, texts):
    reference = masked(texts, tokenizer)
    assert masked(texts, tokenizer, mask_seed=1) != reference
    assert masked(texts.assign(id=texts["id"] + "'"), tokenizer) != reference


def test_labels_restore_the_text_and_masks_spare_special_tokens(tokenizer, texts):
    found = masked(texts, tokenizer)
    assert found.keys() == {tuple(tokenizer(text)["input_ids"]) for text in texts["text"]}
    for ids, labels in found.values():
        predicted = [label for label in labels if label != IGNORED]
        assert len(predicted) == max(1, round(0.15 * (len(ids) - 2)))
        assert not set(predicted) & set(tokenizer.all_special_ids)
        assert labels[0] == labels[-1] == IGNORED


def test_every_example_has_a_masked_token(tokenizer):
    examples = pd.DataFrame({"id": [str(i) for i in range(30)], "text": ["ani"] * 30})
    for batch in make_batches(examples, tokenizer, "mlm", batch_size=7):
        assert ((batch["labels"] != IGNORED).sum(1) >= 1).all()


def test_masking_leaves_the_global_generators_alone(tokenizer, texts):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    make_batches(texts, tokenizer, "mlm")
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_of_the_predicted_tokens_80_percent_are_masked_10_random_10_kept(tokenizer):
    ids = np.random.default_rng(0).integers(5, len(tokenizer), size=(200, 500))
    inputs, labels = token_masker(tokenizer)(ids, np.random.default_rng(1))
    chosen = labels != IGNORED
    assert chosen.sum() == 15_000 and (inputs[~chosen] == ids[~chosen]).all() and (labels[chosen] == ids[chosen]).all()
    as_mask = (inputs[chosen] == tokenizer.mask_token_id).mean()
    kept = (inputs[chosen] == ids[chosen]).mean()
    assert as_mask == pytest.approx(0.8, abs=0.012)
    assert kept == pytest.approx(0.1 + 0.1 / (len(tokenizer) - 5), abs=0.01)
    assert not np.isin(inputs[chosen], [0, 1, 2, 3]).any()


def test_masking_is_the_same_on_every_platform():
    class Tokenizer(SimpleNamespace):
        def __len__(self):
            return 60

    mask = token_masker(Tokenizer(all_special_ids=range(5), mask_token_id=4), share=0.5)
    inputs, labels = mask(np.arange(5, 25).reshape(2, 10), np.random.default_rng(7))
    assert inputs.tolist() == [[5, 4, 7, 4, 9, 10, 4, 12, 4, 14], [4, 16, 29, 4, 4, 4, 6, 22, 23, 24]]
    x = IGNORED
    assert labels.tolist() == [[x, 6, x, 8, x, x, 11, x, 13, x], [15, x, 17, 18, 19, 20, 21, x, x, x]]


# Causal language modelling


def test_every_token_but_padding_is_its_own_label(tokenizer, texts):
    tokenizer.pad_token, before = tokenizer.eos_token, tokenizer.pad_token  # as for models without a padding token
    try:
        batches = make_batches(texts, tokenizer, "clm", batch_size=16)
    finally:
        tokenizer.pad_token = before
    for batch in batches:
        attended = batch["attention_mask"].bool()
        assert torch.equal(batch["labels"][attended], batch["input_ids"][attended])
        assert (batch["labels"][~attended] == IGNORED).all() and not attended.all()
        assert (batch["labels"] == tokenizer.eos_token_id).any(1).all()  # an end token that is no padding counts


def test_causal_batches_are_those_of_plain_text(tokenizer, texts):
    plain = make_batches(texts, tokenizer, "text", batch_size=8)
    for batch, other in zip(make_batches(texts, tokenizer, "clm", batch_size=8), plain, strict=True):
        assert all(torch.equal(batch[name], other[name]) for name in other)


def test_nothing_follows_a_single_token(texts):
    def tokenizer(texts, pairs, **options):
        return {"input_ids": [[5] * len(text.split()) for text in texts]}

    for name, value in {"pad_token_id": 1, "model_max_length": 9}.items():
        setattr(tokenizer, name, value)
    examples = pd.DataFrame({"text": ["ani beku", "ani"]})
    with pytest.raises(ValueError, match=r"examples: expected texts of at least two .* got 'ani'; leave it out"):
        make_batches(examples, tokenizer, "clm")


# Refusals


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            {},
            {"kind": "tokens"},
            "kind: expected one of sequence, token, mlm, .* did you mean 'token'",
        ),
        (
            {},
            {"kind": "sequence"},
            "a column 'label', which kind 'sequence' needs, got only id, text",
        ),
        ({}, {"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"text": ""}, {"kind": "mlm"}, "examples, row 0, text: expected a text that is not empty, got ''"),
        ({"text": "</s>"}, {"kind": "mlm"}, "examples: expected a token to mask in each, got '</s>' with id 't-0'"),
    ],
)
def test_bad_input_is_named(tokenizer, texts, change, options, message):
    with pytest.raises(ValueError, match=message):
        make_batches(texts.assign(**change), tokenizer, **{"kind": "text"} | options)


def test_no_examples_is_an_error(tokenizer, texts):
    with pytest.raises(ValueError, match="examples: expected at least one row"):
        make_batches(texts[:0], tokenizer, "text")


def test_tokens_and_labels_have_to_match(tokenizer):
    examples = pd.DataFrame({"tokens": [["ani", "beku"]], "labels": [[0]]})
    with pytest.raises(ValueError, match="a label for each of 2 tokens in row 0, got 1 labels"):
        make_batches(examples, tokenizer, "token")


@pytest.mark.parametrize(
    ("kind", "lacks", "message"),
    [
        ("text", {"pad_token_id": None}, "expected one with a padding token, .*; set tokenizer.pad_token"),
        ("mlm", {"mask_token_id": None}, "tokenizer: expected one with a mask token"),
        ("token", {"is_fast": False}, "tokenizer: expected a fast one for kind 'token'"),
    ],
)
def test_a_tokenizer_has_to_serve_the_kind(texts, kind, lacks, message):
    poor = SimpleNamespace(**{"pad_token_id": 1, "mask_token_id": 4, "is_fast": True} | lacks)
    with pytest.raises(ValueError, match=message):
        make_batches(texts.assign(tokens=[["ani"]] * 50, labels=[[0]] * 50), poor, kind)
