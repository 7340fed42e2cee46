"""Whatever is returned per example comes in the order of the examples, however they were batched."""

import copy
import pickle
import random

import pandas as pd
import pytest
import torch

import xsub_utils as xs
from xsub_utils.models.example_order import NumberedBatch, example_order
from xsub_utils.stitching.halves import StateCache
from xsub_utils.stitching.scores import stitched_predictions

BATCHINGS = {
    "bucketed": {"batch_size": 4},
    "single examples": {"batch_size": 1},
    "one batch": {"batch_size": 64},
    "in order": {"batch_size": 4, "bucket": False},
    "shuffled": {"batch_size": 3},
}


@pytest.fixture(scope="module")
def model_and_tokenizer():
    return xs.load_encoder("minibabel-base", "sequence", labels=["no", "maybe", "yes"])


@pytest.fixture(scope="module")
def examples():
    data = xs.load_task("nli", ["qaa"], sizes={"train": 2, "test": 11}).examples("test")
    lengths = data["text"].str.len()
    assert not lengths.is_monotonic_increasing
    return data


def batches_of(examples, tokenizer, batching, kind="sequence"):
    batches = xs.make_batches(examples, tokenizer, kind, **BATCHINGS[batching])
    if batching == "shuffled":
        random.Random(0).shuffle(batches)
    return batches


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_hidden_states(model_and_tokenizer, examples, batching):
    model, tokenizer = model_and_tokenizer
    mask = xs.random_mask(torch.arange(48).reshape(4, 12) < 24, seed=0)
    for pool in ("first", "mean", "last"):
        levels = xs.hidden_states(model, batches_of(examples, tokenizer, batching), gates=mask, pool=pool)
        for i, (_, row) in enumerate(examples.iterrows()):
            alone = xs.make_batches(pd.DataFrame([row]), tokenizer, "sequence")
            for level, expected in zip(levels, xs.hidden_states(model, alone, gates=mask, pool=pool), strict=True):
                close(level[i : i + 1], expected)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_translations_belong_together(model_and_tokenizer, batching):
    model, tokenizer = model_and_tokenizer
    task = xs.load_task("parallel", ["qaa", "qab"], sizes={"test": 40})
    states = {
        code: {
            name: xs.hidden_states(model, batches_of(task.examples("test", code), tokenizer, name, "text"), pool="mean")
            for name in (batching, "in order")
        }
        for code in task.languages
    }
    for measure in (xs.cka_matrix, lambda a, b: xs.retrieval_accuracy(a[-1], b[-1]), lambda a, b: xs.rsa(a[-1], b[-1])):
        result, right = (measure(states["qaa"][name], states["qab"][name]) for name in (batching, "in order"))
        close(torch.as_tensor(result), torch.as_tensor(right))


@pytest.mark.parametrize("batching", BATCHINGS)
def test_predictions_and_their_labels(model_and_tokenizer, examples, batching):
    model, tokenizer = model_and_tokenizer
    guesses, labels = xs.predictions(model, batches_of(examples, tokenizer, batching))
    alone = [
        xs.predictions(model, xs.make_batches(pd.DataFrame([row]), tokenizer, "sequence"))[0].item()
        for _, row in examples.iterrows()
    ]
    assert guesses.tolist() == alone and labels.tolist() == examples["label"].tolist()


@pytest.mark.parametrize("batching", BATCHINGS)
def test_predictions_of_tokens_are_padded(batching):
    model, tokenizer = xs.load_encoder("minibabel-base", "mlm")
    data = xs.load_task("mlm", ["qaa"], sizes={"train": 2, "test": 11}).examples("test")
    nll, labels = xs.predictions(model, batches_of(data, tokenizer, batching, "mlm"), metric="perplexity")
    assert nll.shape == labels.shape
    for i, (_, row) in enumerate(data.iterrows()):
        right, gold = xs.predictions(model, xs.make_batches(pd.DataFrame([row]), tokenizer, "mlm"), metric="perplexity")
        length = gold.shape[1]
        close(nll[i, :length], right[0])
        assert torch.equal(labels[i, :length], gold[0])
        assert (labels[i, length:] == -100).all() and (nll[i, length:] == 0).all()


@pytest.mark.parametrize("batching", BATCHINGS)
def test_stitched_predictions(model_and_tokenizer, examples, batching):
    model, tokenizer = model_and_tokenizer
    batches = batches_of(examples, tokenizer, batching)
    identity = xs.stitch(model, model, batches, level=2, init="identity", epochs=0)
    guesses, labels = stitched_predictions(identity, model, model, batches, cache=StateCache())
    right, gold = xs.predictions(model, batches_of(examples, tokenizer, "in order"))
    assert torch.equal(guesses, right) and torch.equal(labels, gold)


def small(examples):
    return examples.head(7).reset_index(drop=True), examples.tail(4).reset_index(drop=True)


@pytest.mark.parametrize("own_heads", [False, True])
@pytest.mark.parametrize("batching", BATCHINGS)
def test_influence_and_own_heads(model_and_tokenizer, examples, batching, own_heads):
    model, tokenizer = model_and_tokenizer
    train, test = small(examples)
    heads = torch.rand(7, 4, 12, generator=torch.Generator().manual_seed(0)) < 0.6

    def through(batches, gates):
        return [batch | {"gates": gates[batch.rows]} for batch in batches] if own_heads else batches

    sides = [through(batches_of(rows, tokenizer, batching), heads[: len(rows)]) for rows in (train, test)]
    scores = xs.influence([model], *sides, progress=False).scores
    assert scores.shape == (4, 7)
    for i in range(7):
        alone = through(xs.make_batches(train.iloc[[i]], tokenizer, "sequence"), heads[i : i + 1])
        right = through(xs.make_batches(test, tokenizer, "sequence", bucket=False), heads[:4])
        close(scores[:, i : i + 1], xs.influence([model], alone, right, progress=False).scores)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_influence_in_groups_and_rescored(model_and_tokenizer, examples, batching):
    model, tokenizer = model_and_tokenizer
    train, test = small(examples)
    sides = [batches_of(rows, tokenizer, batching) for rows in (train, test)]
    right = [xs.make_batches(rows, tokenizer, "sequence", bucket=False) for rows in (train, test)]
    groups = ["b", "a", "b", "c"]
    grouped = xs.influence([model], *sides, test_groups=groups, progress=False).scores
    close(grouped, xs.influence([model], *right, test_groups=groups, progress=False).scores)
    single = xs.influence([model], *right, progress=False).scores
    close(grouped, torch.stack([single[[0, 2]].mean(0), single[1], single[3]]))
    options = xs.InfluenceOptions(projection=8, rescore=2)
    estimate, expected = (xs.influence([model], *both, options=options, progress=False) for both in (sides, right))
    close(estimate.scores, expected.scores)
    assert torch.equal(estimate.exact, expected.exact)
    close(estimate.scores[estimate.exact], single[estimate.exact])


@pytest.mark.parametrize("batching", BATCHINGS)
def test_top_shares_count_the_origins_of_the_frame(model_and_tokenizer, examples, batching):
    model, tokenizer = model_and_tokenizer
    train, test = small(examples)
    sides = [batches_of(rows, tokenizer, batching) for rows in (train, test)]
    scores = xs.influence([model], *sides, progress=False).scores
    nearest = xs.top_shares(scores, [f"example {i}" for i in range(7)], count=1)
    right = xs.influence([model], *(xs.make_batches(rows, tokenizer, "sequence") for rows in (train, test))).scores
    assert nearest.idxmax(axis=1).tolist() == [f"example {i}" for i in right.argmax(1).tolist()]


def numbered(rows, source):
    return NumberedBatch({"input_ids": torch.tensor([[row] for row in rows])}, torch.tensor(rows), source)


def in_order(batches):
    return torch.cat([batch["input_ids"][:, 0] for batch in batches])[example_order(batches)].tolist()


def test_some_of_the_batches_keep_the_order_of_their_examples():
    assert in_order([numbered([5, 2], "a"), numbered([9, 0], "a")]) == [0, 2, 5, 9]


def test_frames_do_not_mix():
    batches = [numbered([3, 1], "b"), numbered([0, 2], "a"), numbered([2, 0], "b")]
    assert in_order(batches) == [0, 1, 2, 3, 0, 2]


def test_batches_from_elsewhere_keep_their_order():
    plain = [{"input_ids": torch.tensor([[7], [4]])}, {"input_ids": torch.tensor([[5]])}]
    assert in_order(plain) == [7, 4, 5]
    assert in_order([*plain, plain[0]]) == [7, 4, 5, 7, 4]
    assert in_order([plain[1], numbered([1, 0], "a")]) == [5, 0, 1]


@pytest.mark.parametrize(
    "change",
    [
        copy.copy,
        copy.deepcopy,
        lambda batch: batch.copy(),
        lambda batch: batch | {"labels": torch.zeros(3)},
        lambda batch: {"labels": torch.zeros(3)} | batch,
        lambda batch: batch.to("cpu"),
        lambda batch: pickle.loads(pickle.dumps(batch)),
    ],
)
def test_numbers_survive(change):
    batch = numbered([2, 0, 1], "a")
    changed = change(batch)
    assert isinstance(changed, NumberedBatch) and isinstance(changed, dict)
    assert changed.rows.tolist() == [2, 0, 1] and changed.source == "a"
    assert torch.equal(changed["input_ids"], batch["input_ids"])


def test_batches_that_are_copied_one_by_one_belong_together(model_and_tokenizer, examples):
    model, tokenizer = model_and_tokenizer
    batches = batches_of(examples, tokenizer, "bucketed")
    right = xs.predictions(model, batches)[1].tolist()
    for copies in ([copy.deepcopy(one) for one in batches], [pickle.loads(pickle.dumps(one)) for one in batches]):
        assert xs.predictions(model, copies)[1].tolist() == right == examples["label"].tolist()


def test_batches_are_still_what_models_take(model_and_tokenizer, examples):
    model, tokenizer = model_and_tokenizer
    for batch in batches_of(examples, tokenizer, "bucketed"):
        assert model(**batch).logits.shape == (len(batch.rows), 3)
