"""Scores: hand cases, seqeval and a float64 loop as oracles, invariance to batching, nothing left changed."""

import copy
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaForSequenceClassification,
)

from xsub_utils.evaluation import forward as module
from xsub_utils.evaluation.forward import forward
from xsub_utils.evaluation.metrics import METRICS, metric_named, perplexity
from xsub_utils.evaluation.scores import (
    chance_level,
    cross_evaluate,
    difference_to_own,
    evaluate,
    label_names,
    predict,
    predictions,
    score,
)
from xsub_utils.evaluation.spans import span_f1
from xsub_utils.heads.gates import head_gates
from xsub_utils.models.modes import eval_mode, frozen

NER = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 20,
}


def tiny(kind, labels=3):
    torch.manual_seed(1)
    model = kind(XLMRobertaConfig(**SHAPE, num_labels=labels))
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)  # so that heads and classes differ
    return model.train()


def sentences(count, seed=0):
    """Examples of 3 to 9 tokens with masked-LM and class labels."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        ids = rng.integers(3, 40, rng.integers(3, 10))
        tokens = np.where(rng.random(len(ids)) < 0.4, ids, -100)
        tokens[0] = ids[0]
        yield ids, tokens, int(rng.integers(3))


def batched(examples, size, kind):
    """Batches of the given size, padded to the longest example."""
    examples = list(examples)
    for start in range(0, len(examples), size):
        part = examples[start : start + size]
        longest = max(len(ids) for ids, _, _ in part)

        def padded(rows, fill, longest=longest):
            return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])

        labels = padded([t for _, t, _ in part], -100) if kind == "mlm" else torch.tensor([c for _, _, c in part])
        ids = padded([ids for ids, _, _ in part], 1)
        yield {"input_ids": ids, "attention_mask": (ids != 1).long(), "labels": labels}


NO_ENDS = {"bos_token_id": None, "eos_token_id": None}
MBART = {f"{side}_{key}": 2 for side in ("encoder", "decoder") for key in ("layers", "attention_heads")}
GENERATORS = {
    "mt5": (
        MT5ForConditionalGeneration,
        MT5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0),
    ),
    "mbart": (
        MBartForConditionalGeneration,
        MBartConfig(vocab_size=40, d_model=16, max_position_embeddings=20, **MBART),
    ),
}


def generator(name):
    """A tiny encoder-decoder in float64 and a batch of sentences with shorter targets."""
    make, config = GENERATORS[name]
    torch.manual_seed(1)
    model = make(config).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    (batch,) = batched(sentences(6), 6, "sequence")
    labels = torch.randint(3, 40, (6, 5))
    labels[torch.arange(5) > torch.arange(6).unsqueeze(1)] = -100
    return model, {**batch, "labels": labels}


DECODERS = {
    "llama": LlamaConfig(**SHAPE, num_key_value_heads=1, pad_token_id=1),
    "qwen3": Qwen3Config(**SHAPE, num_key_value_heads=1, head_dim=8, pad_token_id=1),
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=20, pad_token_id=1, **NO_ENDS),
}


def decoder(name, auto=AutoModelForCausalLM, **changes):
    """A tiny decoder-only model in float64."""
    torch.manual_seed(1)
    config = copy.deepcopy(DECODERS[name])
    config.update(changes)
    model = auto.from_config(config).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def texts(count, size, seed=0):
    """Batches for causal language modelling: every token that is not padding is its own label."""
    for batch in batched(sentences(count, seed), size, "sequence"):
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        yield {**batch, "labels": labels}


@pytest.fixture
def classifier():
    return tiny(XLMRobertaForSequenceClassification)


# Estimators


def test_accuracy_by_hand():
    guesses, labels = [torch.tensor([0, 1]), torch.tensor([2])], [torch.tensor([0, 2]), torch.tensor([2])]
    assert score(guesses, labels, "accuracy") == 2 / 3


def test_token_accuracy_leaves_out_what_is_not_labelled():
    guesses, labels = torch.tensor([[0, 1, 2], [1, 1, 0]]), torch.tensor([[0, 2, -100], [1, -100, -100]])
    assert score([guesses], [labels], "token_accuracy") == 2 / 3


def test_span_f1_by_hand():
    gold = torch.tensor([[1, 2, 0, 5, -100]])  # PER PER O LOC
    guess = torch.tensor([[1, 2, 0, 3, 0]])  # the person is right, the place is taken for an organisation
    assert span_f1([guess], [gold], NER) == 0.5
    assert span_f1([gold.clamp(0)], [gold], NER) == 1
    assert span_f1([torch.zeros_like(gold)], [torch.zeros_like(gold)], NER) == 0


def test_spans_end_with_their_sentence():
    apart, together = torch.tensor([[1], [2]]), torch.tensor([[1, 2]])
    assert span_f1([apart], [apart], NER) == 1
    assert span_f1([torch.tensor([[1], [0]])], [apart], NER) == pytest.approx(2 / 3)  # one of two spans
    assert span_f1([torch.tensor([[1, 0]])], [together], NER) == 0  # half of one span


@pytest.mark.parametrize("seed", range(30))
def test_span_f1_agrees_with_seqeval(seed):
    from seqeval.metrics import f1_score

    rng = np.random.default_rng(seed)
    guesses, labels, names = [], [], ([], [])
    for _ in range(3):
        shape = (4, rng.integers(1, 9))
        gold = rng.integers(0, len(NER), shape)
        guess = np.where(rng.random(shape) < 0.6, gold, rng.integers(0, len(NER), shape))
        gold[rng.random(shape) < 0.2] = -100
        guesses.append(torch.from_numpy(guess))
        labels.append(torch.from_numpy(gold))
        for row, kept in zip(zip(gold, guess, strict=True), gold != -100, strict=True):
            for side, tags in zip(names, row, strict=True):
                side.append([NER[tag] for tag in tags[kept]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = f1_score(*names)
    assert score(guesses, labels, "f1", NER) == pytest.approx(expected, abs=1e-12)


def test_perplexity_by_hand():
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]))
    labels = torch.tensor([[1, 2]])
    nll = predict(logits, labels, "perplexity")
    assert perplexity([nll], [labels]) == pytest.approx((1 / 0.25 / 0.8) ** 0.5)
    unmasked = torch.tensor([[1, -100]])
    assert perplexity([predict(logits, unmasked, "perplexity")], [unmasked]) == pytest.approx(4)


def test_perplexity_agrees_with_a_loop_over_examples():
    model, examples = tiny(XLMRobertaForMaskedLM).eval().double(), list(sentences(7))
    total, count = 0.0, 0
    for ids, labels, _ in examples:
        logits = model(input_ids=torch.tensor([ids.tolist()])).logits[0].log_softmax(-1)
        for position, label in enumerate(labels):
            if label != -100:
                total, count = total - logits[position, label].item(), count + 1
    assert evaluate(model, batched(examples, 3, "mlm"), metric="perplexity") == pytest.approx(
        np.exp(total / count), rel=1e-6
    )


@pytest.mark.parametrize(
    ("kind", "metric"), [("sequence", "accuracy"), ("mlm", "perplexity"), ("mlm", "token_accuracy")]
)
def test_score_does_not_depend_on_batches(kind, metric):
    model = tiny(XLMRobertaForMaskedLM if kind == "mlm" else XLMRobertaForSequenceClassification)
    scores = [evaluate(model, batched(sentences(13), size, kind), metric=metric) for size in (1, 4, 13)]
    assert scores == pytest.approx([scores[0]] * 3, rel=1e-5)
    assert scores[0] == evaluate(model, batched(sentences(13), 1, kind), metric=metric)


@pytest.mark.parametrize(
    ("labels", "metric", "expected"),
    [
        ([1, 1, 0], "accuracy", 2 / 3),
        (pd.Series([[0, 0], [0, 1]]), "token_accuracy", 0.75),
        ([torch.tensor([[0, 0, -100]]), torch.tensor([[0, 1]])], "token_accuracy", 0.75),
        ([[0, 0, 1]], "f1", 0.0),
        ([[3, 4, -100, 5, 6]], "perplexity", 4.0),
    ],
)
def test_chance_level(labels, metric, expected):
    assert chance_level(labels, metric) == pytest.approx(expected)


# Models and masks


def test_mode_of_every_module_is_restored(classifier):
    classifier.classifier.eval()
    before = [module.training for module in classifier.modules()]
    evaluate(classifier, batched(sentences(4), 4, "sequence"))
    assert [module.training for module in classifier.modules()] == before
    with pytest.raises(ZeroDivisionError), eval_mode(classifier):
        assert not classifier.training
        _ = 1 / 0
    assert [module.training for module in classifier.modules()] == before


def test_no_gradients_and_batches_unchanged(classifier):
    batches = list(batched(sentences(4), 2, "sequence"))
    before = copy.deepcopy(batches)
    outputs, labels = predictions(classifier, batches)
    assert outputs.shape == labels.shape == (4,)
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert all(torch.equal(batch[key], old[key]) for batch, old in zip(batches, before, strict=True) for key in old)


def test_gates_change_the_score_and_leave_no_trace():
    model, batches = tiny(XLMRobertaForMaskedLM), list(batched(sentences(8), 4, "mlm"))
    whole = evaluate(model, batches, metric="perplexity")
    masked = evaluate(model, batches, metric="perplexity", gates=torch.tensor([[True, False], [False, True]]))
    assert masked != pytest.approx(whole, rel=1e-4)
    assert evaluate(model, batches, metric="perplexity", gates=torch.ones(2, 2)) == pytest.approx(whole, rel=1e-6)
    assert evaluate(model, batches, metric="perplexity") == whole


@pytest.mark.parametrize("config", [BertConfig, ElectraConfig, RobertaConfig, XLMRobertaConfig])
def test_sparing_tokens_that_nobody_reads_changes_nothing(config, monkeypatch):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config(**SHAPE, num_labels=3, initializer_range=0.4))
    model, batches = model.double().eval(), list(batched(sentences(9), 4, "sequence"))
    widths = []

    def results(gates):
        with torch.no_grad(), head_gates(model, gates):
            logits = [forward(model, batch)[1] for batch in batches]
        return torch.cat(logits), evaluate(model, batches, gates=gates)

    masks = [torch.ones(2, 2).bool(), torch.tensor([[True, False], [False, True]])]
    with model.base_model.encoder.layer[-1].output.register_forward_hook(lambda *args: widths.append(args[2].shape[1])):
        spared = [results(mask) for mask in masks]
        assert set(widths) == {1}
        widths.clear()
        monkeypatch.setattr(module, "reads_first_token_only", lambda model: False)
        plain = [results(mask) for mask in masks]
        assert min(widths) > 1
    for (logits, accuracy), (expected, same) in zip(spared, plain, strict=True):
        torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
        assert accuracy == same
    assert not torch.allclose(plain[0][0], plain[1][0])


@pytest.mark.parametrize("name", GENERATORS)
@torch.no_grad()
def test_models_that_generate_text_are_scored_on_their_targets(name):
    model, batch = generator(name)
    output = model(**batch)
    assert evaluate(model, [batch], metric="perplexity") == pytest.approx(float(output.loss.exp()), rel=1e-6)
    counted = batch["labels"] != -100
    right = (output.logits.argmax(-1) == batch["labels"])[counted].double().mean()
    assert evaluate(model, [batch], metric="token_accuracy") == pytest.approx(float(right))
    halves = [{key: rows[half] for key, rows in batch.items()} for half in (slice(1), slice(1, None))]
    assert evaluate(model, halves, metric="perplexity") == pytest.approx(float(output.loss.exp()), rel=1e-6)
    other = {**batch, "decoder_input_ids": batch["labels"].clamp(min=1)}
    assert evaluate(model, [other], metric="perplexity") == pytest.approx(float(model(**other).loss.exp()), rel=1e-6)


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_decoder_only_models_are_scored_on_the_next_token(name):
    model, total, right, count = decoder(name), 0.0, 0, 0
    for ids, _, _ in sentences(7):
        logits = model(input_ids=torch.tensor([ids.tolist()])).logits[0].log_softmax(-1)
        for position, following in enumerate(ids[1:]):
            total -= logits[position, following].item()
            right += int(logits[position].argmax() == following)
            count += 1
    for size in (1, 3, 7):
        assert evaluate(model, texts(7, size), metric="perplexity") == pytest.approx(np.exp(total / count), rel=1e-6)
        assert evaluate(model, texts(7, size), metric="token_accuracy") == right / count
    (batch,) = texts(7, 7)
    assert evaluate(model, [batch], metric="perplexity") == pytest.approx(float(model(**batch).loss.exp()), rel=1e-6)
    outputs, labels = predictions(model, [batch], metric="perplexity")
    assert outputs.shape == labels.shape == batch["labels"].shape
    assert torch.equal(labels[:, :-1], batch["labels"][:, 1:]) and (labels[:, -1] == -100).all()


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_gates_of_decoder_only_models(name):
    model, mask = decoder(name), torch.tensor([[True, False], [False, True]])
    (batch,) = texts(7, 7)
    with head_gates(model, mask):
        expected = float(model(**batch).loss.exp())
    assert evaluate(model, [batch], metric="perplexity", gates=mask) == pytest.approx(expected, rel=1e-6)
    assert evaluate(model, [batch], metric="perplexity") != pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_classifiers_of_decoder_only_models_read_the_last_token_before_the_padding(name):
    model = decoder(name, AutoModelForSequenceClassification, num_labels=3)
    examples = list(sentences(7))
    alone = torch.cat([model(input_ids=torch.tensor([ids.tolist()])).logits for ids, _, _ in examples])
    (batch,) = batched(examples, 7, "sequence")
    assert (batch["attention_mask"] == 0).any()
    labels, logits = forward(model, batch)
    torch.testing.assert_close(logits, alone, rtol=1e-10, atol=1e-10)
    assert torch.equal(labels, batch["labels"])
    scores = [evaluate(model, batched(examples, size, "sequence")) for size in (1, 3, 7)]
    assert scores == [scores[0]] * 3
    model.config.pad_token_id = 0  # not what the batch is padded with
    with pytest.raises(ValueError, match=r"model: expected config\.pad_token_id to be the token .* got 0"):
        evaluate(model, [batch])
    model.config.pad_token_id = None
    with pytest.raises(ValueError, match=r"got None; set model\.config\.pad_token_id = tokenizer\.pad_token_id"):
        evaluate(model, [batch])


def test_encoders_are_scored_at_the_position_itself():
    model, batch = tiny(XLMRobertaForMaskedLM), next(batched(sentences(4), 4, "mlm"))
    _, labels = predictions(model, [batch], metric="perplexity")
    assert torch.equal(labels, batch["labels"])


@pytest.mark.parametrize("part", ["encoder", "decoder", "cross"])
@pytest.mark.parametrize("name", GENERATORS)
@torch.no_grad()
def test_gates_of_every_part(name, part):
    model, batch = generator(name)
    mask = torch.tensor([[True, False], [False, True]])
    with head_gates(model, mask, part=part):
        expected = float(model(**batch).loss.exp())
    assert evaluate(model, [batch], metric="perplexity", gates=mask, part=part) == pytest.approx(expected, rel=1e-6)
    assert evaluate(model, [batch], metric="perplexity") != pytest.approx(expected, rel=1e-4)
    table = cross_evaluate(model, {"a": [batch]}, masks={"a": mask}, metric="perplexity", part=part)
    assert table.at["a", "a"] == pytest.approx(expected, rel=1e-6)


def test_cross_evaluation_is_every_mask_on_every_language():
    model = tiny(XLMRobertaForMaskedLM)
    batches = {code: list(batched(sentences(5, seed), 3, "mlm")) for seed, code in enumerate(("qaa", "qba"))}
    masks = {
        "qaa": torch.tensor([[True, False], [True, True]]),
        "qba": torch.tensor([[False, True], [True, False]]),
        "whole": None,
    }
    before = copy.deepcopy(model.state_dict())
    table = cross_evaluate(model, batches, masks=masks, metric="perplexity")
    assert list(table.index) == ["qaa", "qba", "whole"] and list(table.columns) == ["qaa", "qba"]
    for name, mask in masks.items():
        for code in batches:
            assert table.at[name, code] == evaluate(model, batches[code], metric="perplexity", gates=mask)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_difference_is_to_the_mask_of_the_column():
    table = pd.DataFrame({"b": [0.5, 0.9, 0.3], "a": [0.8, 0.6, 0.2]}, index=["a", "b", "random"])
    expected = pd.DataFrame({"b": [-0.4, 0.0, -0.6], "a": [0.0, -0.2, -0.6]}, index=["a", "b", "random"])
    pd.testing.assert_frame_equal(difference_to_own(table), expected)


def test_label_names_come_in_the_order_of_their_ids():
    model = nn.Linear(1, 1)
    assert label_names(model) is None
    model.config = SimpleNamespace(id2label={1: "B-X", 0: "O"})
    assert label_names(model) == ["O", "B-X"]


# Metrics


def test_metrics_know_their_kinds_and_labels():
    kinds = {name: metric.kinds for name, metric in METRICS.items()}
    assert kinds == {
        "accuracy": ("sequence",),
        "f1": ("token",),
        "token_accuracy": ("token", "mlm"),
        "perplexity": ("mlm", "clm"),
        "exact_match": ("text2text",),
    }
    assert METRICS["f1"].label == "span F1" and all(metric.label for metric in METRICS.values())
    assert [name for name, metric in METRICS.items() if metric.lower_is_better] == ["perplexity"]


@pytest.mark.parametrize(("name", "better", "worse"), [("accuracy", 0.8, 0.6), ("perplexity", 4.0, 5.0)])
def test_direction(name, better, worse):
    metric = metric_named(name)
    assert metric.is_better(better, worse) and not metric.is_better(worse, better)
    assert not metric.is_better(better, better)
    assert metric.best([worse, better, worse]) == better and metric.worst([better, worse]) == worse
    assert metric.sign * better > metric.sign * worse
    assert metric.gain(worse, better) < 0 < metric.gain(better, worse)
    assert metric.retention(worse, better) == pytest.approx(metric.oriented(worse / better))
    assert metric.retention(worse, better) < 1 == metric.retention(better, better)
    assert metric.keeps(worse, better, 0.5) and not metric.keeps(worse, better, 0.9)
    assert metric.keeps(better, better, 1.0) and metric.keeps(better, worse, 1.0)


def test_measures_of_columns():
    scores, baseline = pd.Series([4.0, 8.0]), pd.Series([4.0, 4.0])
    assert metric_named("perplexity").retention(scores, baseline).tolist() == [1.0, 0.5]
    assert metric_named("perplexity").gain(scores, baseline).tolist() == [0.0, -1.0]
    assert metric_named("accuracy").retention(scores, baseline).tolist() == [1.0, 2.0]


def test_frozen_gives_gradients_back_to_those_that_had_them(classifier):
    first = next(classifier.parameters()).requires_grad_(False)
    with pytest.raises(ZeroDivisionError), frozen(classifier):
        assert not any(parameter.requires_grad for parameter in classifier.parameters())
        _ = 1 / 0
    assert [parameter.requires_grad for parameter in classifier.parameters()].count(False) == 1
    assert not first.requires_grad


# Errors


def test_f1_of_plain_tags_is_refused_before_the_model_runs(classifier):
    classifier.forward = None
    with pytest.raises(ValueError, match=r"label_names: expected IOB2 tags .* got \['LABEL_0', 'LABEL_1', 'LABEL_2'\]"):
        evaluate(classifier, batched(sentences(2), 2, "mlm"), metric="f1")


def test_unknown_metric_is_named(classifier):
    with pytest.raises(ValueError, match=r"metric: expected one of .*, got 'acuracy'; did you mean 'accuracy'"):
        evaluate(classifier, batched(sentences(2), 2, "sequence"), metric="acuracy")


@pytest.mark.parametrize("label", [3, -1])
def test_labels_of_no_class_are_refused(classifier, label):
    batches = [*batched(sentences(2), 2, "sequence")]
    batches[0]["labels"][0] = label
    with pytest.raises(
        ValueError, match=f"batches: expected labels from 0 to 2, the classes of the model, got {label}"
    ):
        evaluate(classifier, batches, metric="accuracy")


def test_a_model_without_a_head_is_refused(classifier):
    with pytest.raises(ValueError, match="model: expected one with a head, which gives logits, got a "):
        evaluate(classifier.base_model, batched(sentences(2), 2, "sequence"), metric="accuracy")


@pytest.mark.parametrize("metric", [name for name in METRICS if name != "accuracy"])
def test_token_metrics_refuse_one_label_per_example(metric):
    labels = [torch.tensor([0, 1])]
    with pytest.raises(ValueError, match=f"metric: expected accuracy for labels of shape \\(2,\\), got '{metric}'"):
        score(labels, labels, metric)


def test_accuracy_refuses_one_label_per_token():
    labels = [torch.tensor([[0, 1]])]
    with pytest.raises(ValueError, match="expected f1 or token_accuracy or perplexity or exact_match for labels"):
        score(labels, labels, "accuracy")


@pytest.mark.parametrize("names", [["LABEL_0", "LABEL_1"], ["NOUN", "O"], None])
def test_f1_needs_bio_names(names):
    labels = [torch.tensor([[0, 1]])]
    with pytest.raises(ValueError, match=r"label_names: expected IOB2 tags .*metric='token_accuracy'"):
        score(labels, labels, "f1", names)


def test_batches_need_labels_and_something_to_score(classifier):
    batch = next(batched(sentences(2), 2, "sequence"))
    del batch["labels"]
    with pytest.raises(ValueError, match="batches: expected dicts that hold 'labels'"):
        evaluate(classifier, [batch])
    with pytest.raises(ValueError, match="batches: expected at least one batch, got none"):
        evaluate(classifier, [])
    with pytest.raises(ValueError, match="expected at least one that counts, got only -100"):
        score([torch.tensor([[0]])], [torch.tensor([[-100]])], "f1", NER)
    with pytest.raises(ValueError, match="labels: expected at least one"):
        chance_level([], "accuracy")


def test_difference_needs_every_own_mask():
    with pytest.raises(ValueError, match=r"own mask of \['b'\]"):
        difference_to_own(pd.DataFrame({"a": [1.0], "b": [1.0]}, index=["a"]))
