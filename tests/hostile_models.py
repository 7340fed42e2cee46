"""Hostile models, gates, masks and batches."""

from functools import partial

import numpy as np
import torch
from hostile import Error, Row
from torch import nn
from torch.nn.utils import parametrize, prune
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutput

import xsub_utils as xs
from xsub_utils.attribution.top_k import top_examples
from xsub_utils.heads.importance import attention_entropy
from xsub_utils.heads.masks import intersection, invert, majority, shuffle_mask, union
from xsub_utils.heads.removal import head_weights
from xsub_utils.weights.criteria import fisher_information
from xsub_utils.weights.prunable import prunable_weights

SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 30}
HALF = torch.tensor([[True, False], [False, True]])


def model(kind=BertForSequenceClassification, **options):
    torch.manual_seed(0)
    return kind(BertConfig(**SIZES, max_position_embeddings=12, num_labels=3, **options)).eval()


def batch(**changes):
    ids = torch.randint(1, 30, (6, 5), generator=torch.Generator().manual_seed(0))
    plain = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1, 2, 0, 1, 2])}
    return {name: values for name, values in {**plain, **changes}.items() if values is not None}


def broken():
    bad = model()
    nn.init.constant_(bad.classifier.weight.data, torch.nan)
    return bad


TAKING_BATCHES = {  # public functions, as functions of batches alone
    "evaluate": lambda data: xs.evaluate(model(), data),
    "predictions": lambda data: xs.predictions(model(), data),
    "head_importance": lambda data: xs.head_importance(model(), data),
    "find_subnetwork": lambda data: xs.find_subnetwork(model(), data, data),
    "influence": lambda data: xs.influence([model()], data, data, progress=False),
    "stitch": lambda data: xs.stitch(model(), model(), data, level=1),
    "cross_evaluate": lambda data: xs.cross_evaluate(model(), {"qaa": data}, masks={"full": None}),
    "fisher_information": lambda data: fisher_information(model(), data),
    "hidden_states": lambda data: xs.hidden_states(model(), data),
    "attention_entropy": lambda data: attention_entropy(model(), data),
}


ANY = list(TAKING_BATCHES)
LABELLED = [name for name in ANY if name not in ("hidden_states", "attention_entropy")]

# What is wrong -> the batches, the functions that refuse them, and their sentence.
BATCHES = {
    "a single batch": (batch(), ANY, "expected a list of batches, got a single one; put it into a list"),
    "no batch": ([], ANY, "expected at least one batch, got none"),
    "a tensor for the batches": (torch.ones(2, 2), ANY, "expected a list of batches, .* got a Tensor"),
    "a list of tensors": ([torch.ones(2, 2)], ANY, "batches that are dicts of tensors, .* got a Tensor as batch 0"),
    "a text column": ([batch(text=["a"] * 6)], ANY, "got a list as 'text' of batch 0"),
    "an array": ([batch(input_ids=np.ones((6, 5), int))], ANY, "got a ndarray as 'input_ids' of batch 0"),
    "an empty batch": (
        [{name: values[:0] for name, values in batch().items()}],
        ANY,
        "expected at least one example in each batch, got none in batch 0",
    ),
    "one label for six examples": ([batch(labels=torch.tensor([1]))], ANY, "got 6 in 'input_ids', .* 1 in 'labels'"),
    "a sub-word beyond the vocabulary": ([batch(input_ids=torch.full((6, 5), 30))], ANY, "from 0 to 29.* got 30"),
    "a negative sub-word": ([batch(input_ids=torch.full((6, 5), -1))], ANY, "from 0 to 29, .* got -1"),
    "sub-words that are no integers": ([batch(input_ids=torch.rand(6, 5))], ANY, "of integers, .* got torch.float32"),
    "a text longer than the positions": (
        [batch(input_ids=torch.ones(6, 13).long(), attention_mask=torch.ones(6, 13).long())],
        ANY,
        r"at most 12 positions, .* got 13; make_batches\(…, max_length=12\)",
    ),
    "no labels": ([batch(labels=None)], LABELLED, "expected dicts that hold 'labels', got only"),
    "labels of -1": ([batch(labels=torch.full((6,), -1))], LABELLED, "labels from 0 to 2, .* got -1"),
    "a label beyond the classes": ([batch(labels=torch.full((6,), 3))], LABELLED, "labels from 0 to 2, .* got 3"),
    "labels of tokens for a classifier": (
        [batch(labels=torch.zeros(6, 5).long())],
        LABELLED,
        r"labels, that fit the logits of the model, of shape \(\d, 3\), got those of shape \(\d, 5\)",
    ),
    "regression targets": ([batch(labels=torch.rand(6))], LABELLED, "numbers of classes as labels, .* torch.float32"),
    "multi-label targets": ([batch(labels=torch.rand(6, 3))], LABELLED, "numbers of classes as labels, .*float32"),
    "labels of True and False": ([batch(labels=torch.ones(6).bool())], LABELLED, "numbers of classes .*torch.bool"),
    "labels of -100 everywhere": (
        [batch(labels=torch.full((6,), -100))],
        LABELLED,
        "expected at least one label that counts, got -100 everywhere",
    ),
}


def of_batches():
    for wrong, (data, functions, message) in BATCHES.items():
        for name in functions:
            call = TAKING_BATCHES[name]
            yield Row(f"{wrong} for {name}", lambda _, call=call, data=data: call(data), Error(message))


def of_token_model():
    data = [batch(labels=torch.tensor([0, 1, 2, 0, 1, 2]))]
    for name, call in {"evaluate": xs.evaluate, "head_importance": xs.head_importance}.items():
        run = partial(call, model(BertForTokenClassification), data)
        yield Row(f"labels of examples for a tagger in {name}", lambda _, run=run: run(), Error("got those of shape"))


def of_broken():
    calls = {
        "evaluate": lambda: xs.evaluate(broken(), [batch()]),
        "predictions": lambda: xs.predictions(broken(), [batch()]),
        "head_importance": lambda: xs.head_importance(broken(), [batch()]),
        "find_subnetwork": lambda: xs.find_subnetwork(broken(), [batch()], [batch()]),
        "influence": lambda: xs.influence([broken()], [batch()], [batch()], progress=False),
        "influence, second checkpoint": lambda: xs.influence([model(), broken()], [batch()], [batch()], progress=False),
        "fisher_information": lambda: fisher_information(broken(), [batch()]),
    }
    for name, call in calls.items():
        yield Row(f"weights of nan in {name}", lambda _, call=call: call(), Error("finite|did its training diverge"))


def compiled_inside():
    inner = model()
    inner.bert.encoder.layer[1].compile()
    return inner


def lora_like():
    class Adapter(nn.Module):
        def __init__(self, base_layer):
            super().__init__()
            self.base_layer, self.lora_A = base_layer, nn.Linear(8, 2)

        def forward(self, x):
            return self.base_layer(x)

    adapted = model()
    attention = adapted.bert.encoder.layer[0].attention.self
    attention.query = Adapter(attention.query)
    return adapted


def parametrised():
    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    changed = model()
    parametrize.register_parametrization(changed.bert.encoder.layer[0].attention.self.value, "weight", Double())
    return changed


def pruned_by_hook():
    changed = model()
    prune.l1_unstructured(changed.bert.encoder.layer[0].attention.self.key, "weight", amount=0.5)
    return changed


def quantised():
    changed = model()
    query = changed.bert.encoder.layer[0].attention.self.query
    query.weight = nn.Parameter(query.weight.to(torch.int8), requires_grad=False)
    return changed


WRAPPED = {
    "a compiled model": (lambda: torch.compile(model()), "a compiled BertFor.*before torch.compile"),
    "a compiled layer": (compiled_inside, "a compiled BertLayer at bert.encoder.layer.1"),
    "DataParallel": (lambda: nn.DataParallel(model()), r"inside DataParallel; pass its \.module"),
}
GATED = {
    "head_gates": lambda wrapped: xs.head_gates(wrapped, HALF).__enter__(),
    "evaluate with gates": lambda wrapped: xs.evaluate(wrapped, [batch()], gates=HALF),
    "head_importance": lambda wrapped: xs.head_importance(wrapped, [batch()]),
    "find_subnetwork": lambda wrapped: xs.find_subnetwork(wrapped, [batch()], [batch()]),
    "remove_heads": lambda wrapped: xs.remove_heads(wrapped, HALF),
    "head_shape": xs.head_shape,
}
UNPLAIN = {
    "an adapter": (lora_like, r"an adapter \(Adapter\) at bert.encoder.layer.0.attention.self.query; merge"),
    "a parametrised value": (parametrised, "a parametrised ParametrizedLinear at .*value"),
    "a key under torch's pruning": (pruned_by_hook, "under torch.nn.utils.prune at .*key"),
    "an int8 query": (quantised, "a quantised Linear at .*query"),
}
WEIGHTS = {
    "remove_heads": lambda changed: xs.remove_heads(changed, HALF),
    "head_weights": lambda changed: head_weights(changed, HALF),
    "prunable_weights": prunable_weights,
}


def of_wrapped():
    for models, functions in ((WRAPPED, GATED), (UNPLAIN, WEIGHTS)):
        for wrong, (make, message) in models.items():
            for name, call in functions.items():
                yield Row(f"{wrong} for {name}", lambda _, call=call, make=make: call(make()), Error(message))


MASKS = {
    "remove_heads": lambda mask: xs.remove_heads(model(), mask),
    "invert": invert,
    "union": lambda mask: union([mask]),
    "intersection": lambda mask: intersection([HALF, mask]),
    "majority": lambda mask: majority([mask]),
    "random_mask": lambda mask: xs.random_mask(mask, seed=0),
    "shuffle_mask": shuffle_mask,
    "jaccard": lambda mask: xs.jaccard(mask, mask),
}


def of_masks():
    for name, call in MASKS.items():
        for wrong in (HALF.float(), HALF.long()):
            yield Row(
                f"a mask of {wrong.dtype} for {name}",
                lambda _, call=call, wrong=wrong: call(wrong),
                Error("torch.bool"),
            )
    yield Row("a seed of 1.5", lambda _: xs.random_mask(HALF, seed=1.5), Error("seed: expected an integer .* got 1.5"))
    yield Row("a seed of True", lambda _: xs.random_mask(HALF, seed=True), Error("seed: expected an integer"))
    yield Row(
        "a null character in the name of a mask",
        lambda path: xs.save_masks(path / "masks.npz", {"a\0b": HALF}, {}),
        Error("masks: expected names without a null character"),
    )
    yield Row("a text for a mask", lambda _: xs.random_mask("x", seed=0), Error("mask: expected .* got a str"))


GATES = {
    "of three layers": (torch.ones(3, 2), r"shape \(2, 2\)"),
    "with nan": (torch.tensor([[1.0, torch.nan], [1, 1]]), "finite numbers"),
    "in a list": ([[1, 1], [1, 1]], "a tensor of shape"),
    "in an array": (np.ones((2, 2)), "got a ndarray"),
    "of three examples for six": (torch.ones(3, 2, 2), r"the same for all examples, got shape \(3, 2, 2\)"),
}


def of_gates():
    for wrong, (gates, message) in GATES.items():
        yield Row(f"gates {wrong}", lambda _, gates=gates: xs.evaluate(model(), [batch()], gates=gates), Error(message))
    for per in ("example", "batch", "cumulative"):
        yield Row(
            f"gates per example for importance per {per}",
            lambda _, per=per: xs.head_importance(model(), [batch()], gates=torch.ones(6, 2, 2), per=per),
            Error(r"gates: expected one for every head, of shape \(2, 2\), got \(6, 2, 2\)"),
        )
    yield Row(
        "remove_heads inside of head_gates",
        _remove_inside,
        Error("attention without hooks, got hooks in force on it, which would be lost"),
    )
    yield Row(
        "entropy of a layer without heads",
        lambda _: attention_entropy(xs.remove_heads(model(), torch.tensor([[True, True], [False, False]])), [batch()]),
        Error("heads in every layer, got none in bert.encoder.layer.1.attention.self"),
    )
    yield Row(
        "a bare encoder to evaluate",
        lambda _: xs.evaluate(model(BertModel), [batch()]),
        Error("one with a head, which gives logits, got a BertModel"),
    )


def _remove_inside(_):
    whole = model()
    with xs.head_gates(whole, HALF):
        return xs.remove_heads(whole, HALF)


STATES = torch.rand(8, 4, generator=torch.Generator().manual_seed(1))
ROWS_OF_STATES = {
    "an array": (STATES.numpy(), "a tensor of numbers, .* got a ndarray; torch.from_numpy"),
    "three dimensions": (STATES.view(2, 4, 4), r"\(examples, features\), got torch.float32 of shape \(2, 4, 4\)"),
    "one dimension": (STATES[:, 0], r"got torch.float32 of shape \(8,\)"),
    "integers": (STATES.long(), "got torch.int64"),
    "nan": (STATES.masked_fill(STATES > 0.5, torch.nan), "finite|nan or inf"),
}
MEASURES = {
    "cka": lambda rows: xs.cka(rows, STATES),
    "cka_matrix": lambda rows: xs.cka_matrix([STATES, rows]),
    "svcca": lambda rows: xs.svcca(rows, STATES),
    "rsa": lambda rows: xs.rsa(STATES, rows),
    "retrieval_accuracy": lambda rows: xs.retrieval_accuracy(rows, STATES),
}


def of_measures():
    for wrong, (rows, message) in ROWS_OF_STATES.items():
        for name, measure in MEASURES.items():
            yield Row(f"{wrong} for {name}", lambda _, measure=measure, rows=rows: measure(rows), Error(message))
    scores = {
        "nan": (torch.tensor([[0.1, torch.nan]]), "finite numbers"),
        "an array": (np.ones((1, 2)), "a tensor of shape"),
        "one dimension": (torch.ones(2), r"\(test, train\), as from influence, got shape \(2,\)"),
    }
    for wrong, (values, message) in scores.items():
        yield Row(
            f"scores with {wrong} for top_shares",
            lambda _, values=values: xs.top_shares(values, ["a", "b"], count=1),
            Error(message),
        )
    yield Row("two proponents", lambda _: top_examples(torch.tensor([[0.1, 0.3, 0.2]]), count=2).tolist(), [[1, 2]])


def saved_without_heads(path):
    small = xs.remove_heads(model(), torch.tensor([[True, False], [False, False]]))
    small.save_pretrained(path)
    xs.load_encoder("minibabel-base", "text")[1].save_pretrained(path)
    return path


def cut_off(path):
    model().save_pretrained(path)
    xs.load_encoder("minibabel-base", "text")[1].save_pretrained(path)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    return path


class Wrapper(nn.Module):
    """A user's own module around a language model."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, **batch):
        return self.inner(**batch)


class OwnLanguageModel(GPT2PreTrainedModel):
    """A user's own class, which generates nothing."""

    def __init__(self, inner):
        super().__init__(inner.config)
        self.transformer, self.lm_head = inner.transformer, inner.lm_head

    def forward(self, **batch):
        return CausalLMOutput(logits=self.lm_head(self.transformer(**batch)[0]))


def perplexity_in_a_wrapper(_, kind=Wrapper):
    torch.manual_seed(0)
    language_model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, n_positions=12, vocab_size=30)).eval()
    data = [batch(labels=batch()["input_ids"])]
    plain, wrapped = (xs.evaluate(one, data, metric="perplexity") for one in (language_model, kind(language_model)))
    return plain == wrapped and abs(plain / language_model(**data[0]).loss.exp().item() - 1) < 1e-5


def of_surprises():
    yield Row("perplexity of a wrapped language model", perplexity_in_a_wrapper, True)
    own = partial(perplexity_in_a_wrapper, kind=OwnLanguageModel)
    yield Row("perplexity of a language model of the user's own class", own, True)
    left = torch.tensor([[0, 0, 1, 1, 1]] * 6)
    for name, call in TAKING_BATCHES.items():
        data = [batch(attention_mask=left)]
        yield Row(f"padding on the left for {name}", lambda _, call=call, data=data: call(data), Error("on the right"))
    for name in (name for name in ANY if name not in ("influence", "fisher_information")):
        data, call = [batch(gates=torch.ones(6, 2, 2))], TAKING_BATCHES[name]
        yield Row(f"gates in a batch for {name}", lambda _, call=call, data=data: call(data), Error("got 'gates'"))
    frame = xs.load_task("nli", ["qaa"], sizes={"test": 6}).examples("test")
    tokenizer = xs.load_encoder("minibabel-base", "text")[1]
    some = [
        part | {name: values[:2] for name, values in part.items()} for part in xs.make_batches(frame, tokenizer, "text")
    ]
    for name in ("hidden_states", "predictions"):
        call = TAKING_BATCHES[name]
        yield Row(
            f"a batch cut short for {name}", lambda _, call=call: call(some), Error("which numbers 6|hold 'labels'")
        )


def of_folders():
    calls = {
        "load_encoder": lambda path: xs.load_encoder(path, "sequence", labels=["LABEL_0", "LABEL_1", "LABEL_2"]),
        "influence": lambda path: xs.influence([path], [batch()], [batch()], progress=False),
    }
    message = r"weight of shape \(8, 4\), and \d+ more, instead of \(8, 8\).*were heads removed"
    for name, call in calls.items():
        title = f"a model saved without heads for {name}"
        yield Row(title, lambda path, call=call: call(saved_without_heads(path)), Error(message))
        title = f"weights that were cut off for {name}"
        yield Row(title, lambda path, call=call: call(cut_off(path)), Error("weights that can be read, got those of"))


ROWS = [
    *of_folders(),
    *of_surprises(),
    *of_batches(),
    *of_token_model(),
    *of_broken(),
    *of_wrapped(),
    *of_masks(),
    *of_gates(),
    *of_measures(),
]
