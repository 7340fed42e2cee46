"""Whatever the texts are: files give them back, and batches hold each of them once."""

import json
import tempfile
from pathlib import Path

import pandas as pd
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import xsub_utils as xs
from xsub_utils.data.codes import languages_of
from xsub_utils.data.columns import common_columns
from xsub_utils.data.local import local_rows
from xsub_utils.models.batches import IGNORED
from xsub_utils.models.tokenizers import train_tokenizer

TOPIC = xs.TaskSpec("topic", "sequence", ["travel", "sports"])
TAGS = xs.TaskSpec("tags", "token", ["N", "V"])
TOKENIZER = train_tokenizer(["ani beku cadi dofe gilu"] * 9, vocab_size=60)

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    lambda text: text.strip().strip("_ ")
)
words = st.sampled_from(["ani", "beku", "xylophon", "a'b", '"', "[", "_x", "NA", "nan", "3"])
sentences = st.lists(st.lists(st.tuples(words, st.integers(0, 1)), min_size=1), min_size=1)
thorough = settings(max_examples=40, deadline=None, database=None)


def read(name, content, spec):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_text(content, encoding="utf-8", newline="")
        return common_columns(local_rows(folder, ["de"]), spec)


@thorough
@given(st.lists(st.tuples(texts, st.integers(0, 1)), min_size=1), st.sampled_from(["jsonl", "csv"]))
def test_files_give_texts_and_labels_back(rows, suffix):
    table = pd.DataFrame(rows, columns=["text", "label"])
    written = {
        "jsonl": lambda: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_dict("records")),
        "csv": lambda: table.to_csv(index=False),
    }
    found = read(f"de.{suffix}", written[suffix](), TOPIC)
    assert found["text"].tolist() == [text.strip() for text, _ in rows]
    assert found["label"].tolist() == [label for _, label in rows]


@thorough
@given(sentences, st.sampled_from([str, json.dumps, " ".join]))
def test_words_come_back_however_a_table_printed_them(rows, printed):
    tokens = [[word for word, _ in sentence] for sentence in rows]
    table = pd.DataFrame({"tokens": [printed(one) for one in tokens]})
    table["labels"] = [" ".join(str(tag) for _, tag in sentence) for sentence in rows]
    found = read("de.csv", table.to_csv(index=False), TAGS)
    assert found["tokens"].tolist() == tokens
    assert found["labels"].tolist() == [[tag for _, tag in sentence] for sentence in rows]


@thorough
@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 8), st.integers(3, 12), st.booleans())
def test_batches_hold_every_example_once(lengths, batch_size, max_length, bucket):
    examples = pd.DataFrame({"text": [" ".join(["ani"] * n) for n in lengths], "label": range(len(lengths))})
    options = {"batch_size": batch_size, "max_length": max_length, "bucket": bucket}
    batches = xs.make_batches(examples, TOKENIZER, "sequence", **options)
    assert sorted(torch.cat([batch["labels"] for batch in batches]).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert torch.equal(batch["labels"], batch.rows) and 1 <= len(batch["labels"]) <= batch_size
        assert 3 <= batch["input_ids"].shape[1] <= max_length
        assert (batch["input_ids"] != TOKENIZER.pad_token_id).equal(batch["attention_mask"].bool())


@thorough
@given(sentences, st.integers(3, 12))
def test_the_words_left_are_those_that_batches_score(rows, max_length):
    examples = pd.DataFrame(
        {name: [[pair[i] for pair in row] for row in rows] for i, name in ((0, "tokens"), (1, "labels"))}
    )
    left = xs.scored_words(examples, TOKENIZER, max_length=max_length)
    batches = xs.make_batches(left, TOKENIZER, "token", max_length=max_length, bucket=False)  # warns of no label
    found = [row[row != IGNORED].tolist() for batch in batches for row in batch["labels"]]
    assert found == left["labels"].tolist()
    for whole, cut in zip(examples["tokens"], left["tokens"], strict=True):
        assert cut == whole[: len(cut)]


@thorough
@given(st.sampled_from(["de", "zh-TW", "zho_Hans", "swh"]), st.lists(st.sampled_from(["x", "model", "v2"]), max_size=3))
def test_a_code_between_separators_is_found(code, others):
    for name in ("-".join([*others, code]), "/".join([code, *others]), "_".join([*others, code, *others])):
        assert languages_of([name], [code]) == {name: code}
    assert languages_of(["".join(["x", code, "y"])], [code]) == {}
