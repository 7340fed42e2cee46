"""TracIn scores equal plain autograd on one example at a time; nothing of the model is changed."""

import copy
import dataclasses
import itertools
import math
import operator
import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig

from xsub_utils.attribution.options import InfluenceOptions
from xsub_utils.attribution.tracin import influence
from xsub_utils.gradients.capture import example_loss
from xsub_utils.gradients.factors import Outer
from xsub_utils.heads.gates import head_gates

LAYERS, HEADS, CLASSES, VOCABULARY, PAD = 2, 4, 3, 40, 1
TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": 2}
SMALL = TOKENS | {
    "hidden_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 12,
    "max_position_embeddings": 24,
    "num_labels": CLASSES,
    "initializer_range": 0.3,
}
CONFIGS = {
    "distilbert": TOKENS | {"dim": 16, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 12, "num_labels": CLASSES},
    "electra": SMALL | {"embedding_size": 10},
    "gpt2": TOKENS | {"n_embd": 16, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 24, "num_labels": CLASSES},
    "modernbert": SMALL | {"cls_token_id": 0, "sep_token_id": 2, "local_attention": 4, "global_attn_every_n_layers": 2},
    "mt5": TOKENS | {"d_model": 16, "d_kv": 4, "num_layers": LAYERS, "num_heads": HEADS, "d_ff": 12},
}
MODELS = [
    ("bert", "BertForMaskedLM"),
    ("bert", "BertForSequenceClassification"),
    ("distilbert", "DistilBertForSequenceClassification"),
    ("electra", "ElectraForSequenceClassification"),
    ("gpt2", "GPT2ForTokenClassification"),
    ("modernbert", "ModernBertForMaskedLM"),
    ("modernbert", "ModernBertForSequenceClassification"),
    ("xlm-roberta", "XLMRobertaForMaskedLM"),
    ("xlm-roberta", "XLMRobertaForSequenceClassification"),
    ("xlm-roberta", "XLMRobertaForTokenClassification"),
]
XLMR = ("xlm-roberta", "XLMRobertaForSequenceClassification")
TAGGER = ("xlm-roberta", "XLMRobertaForTokenClassification")
MASK = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1]]).bool()
FLOATS = torch.rand(LAYERS, HEADS, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
MASK_WITHOUT_A_LAYER = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]]).bool()
GATES = {"no gates": None, "mask": MASK, "floats": FLOATS}
RATES = [0.3, 0.07]


def quiet_influence(checkpoints, train, test, **arguments):
    """Without a bar; options may stand among the arguments."""
    names = {field.name for field in dataclasses.fields(InfluenceOptions)}
    options = InfluenceOptions(**{name: arguments.pop(name) for name in names & arguments.keys()})
    return influence(checkpoints, train, test, options=options, progress=False, **arguments)


def new_model(name=XLMR[0], kind=XLMR[1], seed=0):
    """With dropout, unless it is switched off."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(name, **CONFIGS.get(name, SMALL))
    return getattr(transformers, kind)(config).double().train()


def make_batches(kind=XLMR[1], sizes=(4, 3), length=7, seed=1):
    """Rows of different lengths, padded; labels of tokens are missing in places."""
    rng = torch.Generator().manual_seed(seed)
    batches = []
    for rows in sizes:
        ids = torch.randint(5, VOCABULARY, (rows, length), generator=rng)
        mask = (torch.arange(length) < torch.randint(3, length + 1, (rows, 1), generator=rng)).long()
        if kind.endswith("SequenceClassification"):
            labels = torch.randint(CLASSES, (rows,), generator=rng)
        else:
            labels = torch.randint(VOCABULARY if kind.endswith("MaskedLM") else CLASSES, ids.shape, generator=rng)
            missing = (mask == 0) | (torch.rand(ids.shape, generator=rng) < 0.4)
            missing[:, 1] = False
            labels[missing] = -100
        batches.append({"input_ids": ids.masked_fill(mask == 0, PAD), "attention_mask": mask, "labels": labels})
    return batches


def one_by_one(batches):
    """Every example alone and without its padding."""
    for batch in batches:
        for row in range(len(batch["labels"])):
            one = {name: values[row : row + 1] for name, values in batch.items()}
            length = int(one["attention_mask"].sum()) if "attention_mask" in one else None
            yield {name: values[:, :length] if values.dim() == 2 else values for name, values in one.items()}


def gradients(model, batches, gates=None, masks=None, names=None, part="encoder"):
    """(examples, all entries of the named parameters): autograd on a copy, example by example."""
    model = copy.deepcopy(model).eval().requires_grad_()
    parameters = dict(model.named_parameters())
    for name, mask in (masks or {}).items():
        parameters[name].data *= mask
    names, rows = parameters if names is None else names, []
    with nullcontext() if gates is None else head_gates(model, gates.double(), part=part):
        for one in one_by_one(batches):
            labels, inputs = one["labels"], {name: values for name, values in one.items() if name != "labels"}
            logits = model(**one if part == "decoder" else inputs).logits
            loss = nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())  # in the mean over the labels
            found = torch.autograd.grad(loss, [parameters[name] for name in names], allow_unused=True)
            flat = [torch.zeros_like(parameters[n]) if g is None else g for n, g in zip(names, found, strict=True)]
            flat = [g * masks[n] if masks and n in masks else g for n, g in zip(names, flat, strict=True)]
            rows.append(torch.cat([values.flatten() for values in flat]))
    return torch.stack(rows)


def random_weight_masks(model, pattern, seed=3):
    rng = torch.Generator().manual_seed(seed)
    parameters = [(name, one) for name, one in model.named_parameters() if re.search(pattern, name)]
    return {name: torch.rand(one.shape, generator=rng) > 0.5 for name, one in parameters}


def cosines(test, train):
    return nn.functional.normalize(test) @ nn.functional.normalize(train).T


def assert_equal(found, right, tolerance=1e-10):
    assert found.dtype == right.dtype and found.shape == right.shape
    assert float((found - right).abs().max()) <= tolerance * max(1.0, float(right.abs().max()))


def assert_right(models, train, test, gates=None, names=None, weights=None, **options):
    """All scores, and those of each checkpoint, against the loop."""
    how = {"masks": options.get("weight_masks"), "names": names, "part": options.get("part", "encoder")}
    pairs = [[gradients(model, side, gates, **how) for side in (test, train)] for model in models]
    assert all(torch.count_nonzero(side) for pair in pairs for side in pair)
    right = [cosines(*pair) if options.get("normalize", True) else pair[0] @ pair[1].T for pair in pairs]
    found = quiet_influence(models, train, test, gates=gates, weights=weights, **options)
    assert_equal(found.by_checkpoint, torch.stack(right))
    assert_equal(found.scores, sum(map(operator.mul, weights or [1] * len(models), right)))
    return found


class Affine(nn.Module):
    """Logits of one linear layer."""

    def __init__(self, width=5, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.dense = nn.Linear(width, CLASSES).double()

    def forward(self, x):
        return SimpleNamespace(logits=self.dense(x))


def points(sizes=(4, 3), width=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [
        {
            "x": torch.randn(rows, width, generator=rng, dtype=torch.float64),
            "labels": torch.randint(CLASSES, (rows,), generator=rng),
        }
        for rows in sizes
    ]


# Against autograd


@pytest.mark.parametrize(("name", "kind"), MODELS)
@pytest.mark.parametrize("gates", GATES)
def test_scores_are_those_of_autograd_on_single_examples(name, kind, gates):
    model, train, test = new_model(name, kind), make_batches(kind), make_batches(kind, (4,), 6, seed=2)
    assert_right([model], train, test, GATES[gates], normalize=gates != "floats")


@pytest.mark.parametrize(("name", "kind"), MODELS)
def test_groups_add_up(name, kind):
    model, train, test = new_model(name, kind), make_batches(kind), make_batches(kind, (4,), 6, seed=2)
    found = assert_right([model], train, test, by_group=True, normalize=False)
    layers = [f"layer {layer} {block}" for layer in (1, 2) for block in ("attention", "feed-forward")]
    assert found.groups == ("embeddings", *layers, "head") == tuple(found.by_group)
    assert all(torch.count_nonzero(part) for part in found.by_group.values())
    assert_equal(sum(found.by_group.values()), found.scores, 1e-13)


@pytest.mark.parametrize("options", [{"weights": RATES}, {"normalize": False, "weights": RATES, "by_group": True}])
def test_checkpoints_add_up_with_their_weights(options):
    models = [new_model(*TAGGER, seed) for seed in range(2)]
    train, test = make_batches(TAGGER[1]), make_batches(TAGGER[1], (3, 2), seed=2)
    found = assert_right(models, train, test, MASK_WITHOUT_A_LAYER, **options)
    assert found.contributions.shape == (2, len(found.groups), 5, 7) and found.exact is None
    assert found.groups == ("all",) or len(found.groups) == 6
    assert_equal(sum(found.by_group.values()), found.scores, 1e-13)


@pytest.mark.parametrize("kind", ["MaskedLM", "SequenceClassification", "TokenClassification"])
def test_factors_give_the_same_as_matrices(kind, monkeypatch):
    """Matrices as small as these are otherwise always written out."""
    monkeypatch.setattr(Outer, "is_smaller", lambda *_: True)
    kind = f"XLMRobertaFor{kind}"
    assert_right([new_model("xlm-roberta", kind)], make_batches(kind), make_batches(kind, (3, 2), 6, seed=2), FLOATS)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("name", "kind", "gates"), [(*XLMR, "no gates"), (*XLMR, "mask"), (*MODELS[4], "floats"), (*MODELS[7], "mask")]
)
def test_masked_weights_are_zero_and_have_no_gradient(name, kind, gates, normalize):
    model = new_model(name, kind)
    masks = random_weight_masks(
        model, r"word_emb|wte|decoder.weight|\.0\..*(query|c_attn|dense|mlp)|[nN]orm.*bias|classifier"
    )
    assert {mask.dim() for mask in masks.values()} == {1, 2}
    options = {"normalize": normalize, "weight_masks": masks}
    assert_right([model], make_batches(kind), make_batches(kind, (4,), seed=2), GATES[gates], **options)


def test_gates_of_a_decoder():
    torch.manual_seed(0)
    config = AutoConfig.for_model("mt5", **CONFIGS["mt5"], decoder_start_token_id=1)
    model = transformers.MT5ForConditionalGeneration(config).double()
    sides = [make_batches("ForMaskedLM", (3, 2), seed=seed) for seed in (1, 2)]
    for batch in itertools.chain(*sides):
        batch |= {"attention_mask": torch.ones_like(batch["input_ids"]), "labels": batch["input_ids"].flip(1)}
    names = [name for name, _ in model.named_parameters() if "relative" not in name]
    options = {"names": names, "parameters": "^(?!.*relative)"}
    assert_right([model], *sides, FLOATS, part="decoder", **options)
    with pytest.raises(ValueError, match=r"on each of the 3 examples, got .*relative_attention_bias.*; leave them out"):
        quiet_influence([model], *sides)


class RootMeanSquare(nn.Module):
    """A module that no hook knows."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 2, width))

    def forward(self, x):
        return x / x.square().mean(-1, keepdim=True).sqrt() * self.scale


class Unusual(nn.Module):
    """An embedding, linear layers and unknown modules that are used twice, a convolution, an unused layer."""

    def __init__(self, width=8, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.words, self.norm = nn.Embedding(VOCABULARY, width, padding_idx=PAD), RootMeanSquare(width)
        self.words.weight.data[PAD] = 1  # padding is read, as there is no attention, but has no gradient
        self.dense, self.plain = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.mix, self.head = nn.Conv1d(width, width, 3, padding=1), nn.Linear(width, CLASSES)
        self.never, self.layer_norm = nn.Linear(2, 2), nn.LayerNorm(width)
        self.double()

    def forward(self, input_ids):
        x = self.norm(self.words(input_ids) + self.words(input_ids.flip(1)))
        x = x + self.plain(self.dense(x).tanh()).tanh()
        x = self.layer_norm(self.norm(self.dense(x).tanh()) + self.mix(x.mT).mT)
        return SimpleNamespace(logits=self.head(x.mean(1)))


def test_unknown_modules_and_modules_used_twice():
    models = [Unusual(seed=seed) for seed in range(2)]
    train, test = (
        [{name: batch[name] for name in ("input_ids", "labels")} for batch in make_batches(seed=seed)]
        for seed in (1, 4)
    )
    assert_right(models, train, test)
    assert_right(models, train, test, normalize=False, weights=RATES)
    masks = random_weight_masks(models[0], r"scale|words|^dense.weight|mix")
    assert_right(models, train, test, weight_masks=masks)


def test_linear_model_in_closed_form():
    model, train, test = Affine(), points((4, 3)), points((2, 3), seed=1)
    sides = []
    for side in (test, train):
        x, labels = (torch.cat([batch[name] for batch in side]) for name in ("x", "labels"))
        x = torch.cat([x, torch.ones(len(x), 1)], 1)  # the bias
        errors = (x @ torch.cat([model.dense.weight.T, model.dense.bias[None]])).softmax(1)
        sides.append(torch.einsum("nc,nd->ncd", errors - nn.functional.one_hot(labels, CLASSES), x).flatten(1).detach())
    assert_equal(quiet_influence([model], train, test, normalize=False).scores, sides[0] @ sides[1].T, 1e-13)
    assert_equal(quiet_influence([model], train, test).scores, cosines(*sides), 1e-13)


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask):
        return self.model(input_ids=ids, attention_mask=mask).logits


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "kind"), [XLMR, MODELS[1]])
def test_scores_are_those_of_captum(name, kind):
    captum = pytest.importorskip("captum.influence")
    models = [new_model(name, kind, seed).eval() for seed in range(2)]
    train, test = make_batches(kind), make_batches(kind, (5,), seed=2)
    columns = [
        [torch.cat([batch[key] for batch in side]) for key in ("input_ids", "attention_mask", "labels")]
        for side in (train, test)
    ]

    def load(model, number):
        model.model.load_state_dict(models[int(number)].state_dict())
        return RATES[int(number)]

    oracle = captum.TracInCP(
        Logits(copy.deepcopy(models[0])),
        torch.utils.data.TensorDataset(*columns[0]),
        ["0", "1"],
        load,
        loss_fn=nn.CrossEntropyLoss(reduction="none"),
        batch_size=1,
    )
    found = quiet_influence(models, train, test, normalize=False, weights=RATES)
    assert_equal(found.scores, oracle.influence(tuple(columns[1])).double(), 1e-10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_scores_are_those_of_the_cpu():
    model, train, test = new_model(), make_batches(), make_batches(seed=2)
    right = quiet_influence([model], train, test, gates=MASK)
    found = quiet_influence([model.cuda()], train, test, gates=MASK)
    assert_equal(found.scores.cpu(), right.scores)


# What the scores are


def test_an_example_is_as_similar_to_itself_as_there_are_checkpoints():
    models, data = [new_model(seed=seed) for seed in range(2)], make_batches()
    scores = quiet_influence(models, data, data, gates=MASK).scores
    assert_equal(scores.diagonal(), torch.full((7,), 2.0).double(), 1e-12)
    assert scores.max() <= 2 + 1e-12 and scores.fill_diagonal_(0).abs().max() < 2


def test_gates_of_ones_are_none():
    model, train, test = new_model(), make_batches(), make_batches(seed=2)
    ones = torch.ones(LAYERS, HEADS)
    whole, *same, masked = (
        quiet_influence([model], train, test, gates=gates).scores for gates in (None, ones, ones.bool(), MASK)
    )
    for scores in same:
        assert_equal(scores, whole, 1e-12)
    assert not torch.allclose(masked, whole, atol=1e-3)


def test_rows_and_columns_are_in_the_order_of_the_batches_whatever_these_are():
    model, train, test = new_model(*TAGGER), make_batches(TAGGER[1]), make_batches(TAGGER[1], (3, 2), seed=2)
    scores = quiet_influence([model], train, test).scores
    reordered = quiet_influence([model], train[::-1], test[::-1]).scores
    assert_equal(reordered, torch.cat([scores[3:], scores[:3]])[:, [4, 5, 6, 0, 1, 2, 3]], 1e-12)
    single = quiet_influence([model], one_by_one(train), one_by_one(test)).scores
    assert_equal(single, scores, 1e-12)
    joined = [{name: torch.cat([batch[name] for batch in train]) for name in train[0]}]
    assert_equal(quiet_influence([model], joined, test).scores, scores, 1e-12)


def test_the_same_inside_no_grad_and_without_random_numbers():
    model, data = new_model(), make_batches()
    state = torch.get_rng_state()
    with torch.no_grad():
        scores = quiet_influence([model], data, data, normalize=False).scores
    assert torch.equal(quiet_influence([model], data, data, normalize=False).scores, scores)
    assert torch.equal(torch.get_rng_state(), state)


SELECTIONS = [
    ("embeddings", lambda name: ".embeddings." in name),
    ("layer 2", lambda name: ".layer.1." in name),
    ("layer 1 attention", lambda name: ".layer.0.attention." in name),
    (["head", r"\.query\."], lambda name: name.startswith("classifier.") or ".query." in name),
    (r"LayerNorm\.weight$", lambda name: name.endswith("LayerNorm.weight")),
]


@pytest.mark.parametrize(("parameters", "is_chosen"), SELECTIONS)
def test_parameters_are_selected(parameters, is_chosen):
    model, train, test = new_model(), make_batches(), make_batches(seed=2)
    names = [name for name, _ in model.named_parameters() if is_chosen(name)]
    assert 0 < len(names) < len(list(model.parameters()))
    assert_right([model], train, test, MASK, names=names, parameters=parameters)


def test_each_group_is_its_share_of_the_cosine_of_all():
    model, train, test = new_model(), make_batches(), make_batches(seed=2)
    found = quiet_influence([model], train, test, by_group=True).by_group
    test_norms, train_norms = (gradients(model, side).norm(dim=1) for side in (test, train))
    for group, is_chosen in SELECTIONS[:1] + SELECTIONS[2:3]:
        names = [name for name, _ in model.named_parameters() if is_chosen(name)]
        products = gradients(model, test, names=names) @ gradients(model, train, names=names).T
        assert_equal(found[group], products / test_norms[:, None] / train_norms)


# What is refused, and what stays as it was


def snapshot(model):
    """What a user could find changed: weights, gradients, modes, hooks."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        [(name, id(one), one.requires_grad, one.grad, one.detach().numpy().tobytes())
         for name, one in model.named_parameters()],
        [(name, id(module), module.training, *(len(getattr(module, kind)) for kind in hooks))
         for name, module in model.named_modules()],
        torch.is_grad_enabled(),
    )  # fmt: skip


def half_frozen_model():
    """With modes and flags that are not those of a fresh one."""
    model = new_model()
    model.roberta.encoder.layer[0].eval()
    model.roberta.encoder.layer[1].requires_grad_(False)
    return model


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("masked", [True, False])
def test_the_model_stays_as_it_was(gates, masked):
    model, data, before = (made := half_frozen_model()), make_batches(), snapshot(made)
    masks = random_weight_masks(model, "query|norm") if masked else None
    quiet_influence([model], data, data, gates=GATES[gates], weight_masks=masks)
    assert snapshot(model) == before


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("fails", [1, 2, 5, 8])
def test_the_model_stays_as_it_was_after_an_error(gates, fails):
    """In the check of the gradients, on the test side or among the scores."""
    model, data, before = (made := half_frozen_model()), make_batches(), snapshot(made)
    calls = []

    def loss(logits, labels):
        calls.append(labels)
        if len(calls) == fails:
            raise KeyboardInterrupt
        return example_loss(logits, labels)

    masks = random_weight_masks(model, "query|norm")
    with pytest.raises(KeyboardInterrupt):
        quiet_influence([model], data, data, gates=GATES[gates], weight_masks=masks, loss=loss)
    assert snapshot(model) == before


MODEL, DATA = new_model(), make_batches()
QUERY = "roberta.encoder.layer.0.attention.self.query.weight"
ONES = torch.ones(LAYERS, HEADS)
WRONG = [
    ({"checkpoints": []}, "checkpoints: expected at least one model or folder, got none"),
    ({"checkpoints": "epoch-1"}, r"checkpoints: expected a list, got str; put it into one: \[checkpoint\]"),
    ({"checkpoints": [MODEL.state_dict()]}, "checkpoints: expected models or their folders, got OrderedDict; load="),
    ({"train": []}, "train: expected at least one batch, got none"),
    ({"test": []}, "test: expected at least one batch, got none"),
    (
        {"train": [{"input_ids": DATA[0]["input_ids"]}]},
        r"train: expected dicts that hold 'labels', got only \['input_ids'\]",
    ),
    ({"test": [DATA[0], {name: values[:0] for name, values in DATA[0].items()}]}, "test: .* got none in batch 1"),
    ({"gates": ONES * 0}, "gates: expected at least one head that is kept, got none"),
    ({"gates": ~ONES.bool()}, "gates: expected at least one head that is kept, got none"),
    ({"gates": ONES * torch.nan}, "gates: expected finite numbers, got nan or infinity"),
    ({"gates": ONES[None]}, r"gates: expected the shape \(layers, heads\), got \(1, 2, 4\)"),
    ({"gates": ONES.T}, r"gates: .*\(4, 2\)"),
    ({"gates": ONES.T.bool()}, r"gates: .*\(4, 2\)"),
    ({"weights": [1.0, 2.0]}, "weights: expected one for each of 1 checkpoints, got 2"),
    ({"weights": []}, "weights: expected one for each of 1 checkpoints, got 0"),
    ({"weights": [math.nan]}, "weights: expected finite numbers, such as learning rates, got nan"),
    ({"test_groups": ["a"] * 6}, "test_groups: expected one label for each of 7 test examples, got 6"),
    ({"weight_masks": {"query": MASK}}, "weight_masks: .*'query'"),
    ({"weight_masks": {QUERY: MASK}}, r"weight_masks: .*\(2, 4\)"),
    ({"weight_masks": {QUERY: MASK}, "projection": 2}, "projection: expected None together with weight_masks.*, got 2"),
    ({"parameters": "layer 3"}, "parameters: expected a group .*embeddings, layer 1 attention, .*, got 'layer 3'"),
    ({"parameters": ["head", "nothing"]}, "parameters: .*'nothing'"),
    ({"loss": lambda logits, _: logits}, r"loss: expected one value for each of the 4 examples, got shape \(4, 3\)"),
    ({"loss": lambda logits, _: logits.mean()}, r"loss: expected one value for each of the 4 examples, got shape \(\)"),
    ({"loss": lambda logits, _: torch.zeros(len(logits))}, "loss: expected values that depend on the parameters"),
    ({"memory": 1e4}, r"memory: expected at least .* bytes \(a batch of 4 training examples .*\), got 1e\+04; or give"),
    ({"part": "decoder"}, "part: .*decoder"),
    (
        {"load": lambda entry: (entry, None)},
        "load: .* returns a model, got tuple from it; return the first",
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_arguments_are_explained(change, message):
    options = {"checkpoints": [MODEL], "train": DATA, "test": DATA, "gates": ONES if "part" in change else None}
    before = snapshot(MODEL)
    with pytest.raises(ValueError, match=message):
        quiet_influence(**options | change)
    assert snapshot(MODEL) == before


def test_checkpoints_of_different_models_are_explained():
    other = transformers.XLMRobertaForSequenceClassification(
        AutoConfig.for_model(XLMR[0], **SMALL | {"vocab_size": 41})
    )
    with pytest.raises(ValueError, match=r"word_embeddings.weight of shape \(41, 16\) in checkpoint 2 and \(40, 16\)"):
        quiet_influence([MODEL, other.double()], DATA, DATA)


def test_examples_without_labels_are_explained():
    data = make_batches(TAGGER[1])
    data[1]["labels"][2] = -100
    with pytest.raises(ValueError, match="a label in every example, got none in example 2 of a batch; leave it out"):
        quiet_influence([new_model(*TAGGER)], data, data)


class Outside(Affine):
    """A parameter that is used where no hook sees it, alone or beside its own module."""

    def __init__(self, kind):
        super().__init__(CLASSES)
        self.kind, self.body = kind, nn.Linear(CLASSES, CLASSES).double()

    def forward(self, x):
        x = torch.tanh(self.body(x))
        if self.kind == "also":
            x = self.dense(x)
        return SimpleNamespace(logits=nn.functional.linear(x, self.dense.weight))


@pytest.mark.parametrize("kind", ["only", "also"])
def test_parameters_used_outside_their_modules_are_found(kind):
    model, data = Outside(kind), points(width=CLASSES)
    with pytest.raises(ValueError, match=r"model: .* got Outside whose gradients of dense\.weight are not"):
        quiet_influence([model], data, data)
    names = ["body.weight", "body.bias"]
    right = cosines(*2 * [gradients(model, data, names=names)])
    assert_equal(quiet_influence([model], data, data, parameters="^body").scores, right)


def test_gates_of_the_caller_stay_in_force_under_a_mask():
    model, train, test = new_model(), make_batches(), make_batches(sizes=(4,), seed=2)
    outer = torch.tensor([[1.0, 0.5, 0.0, 2.0], [1.0, 1.0, 0.3, 1.0]], dtype=torch.float64)
    with head_gates(model, outer):
        both = quiet_influence([model], train, test, gates=MASK).scores
    assert_equal(both, quiet_influence([model], train, test, gates=MASK * outer).scores, 1e-12)
    assert not torch.allclose(both, quiet_influence([model], train, test, gates=MASK).scores)


class Shortcut(transformers.XLMRobertaForSequenceClassification):
    """Adds a weight to its logits outside of the module that holds it."""

    def forward(self, **inputs):
        output = super().forward(**inputs)
        output.logits = output.logits + self.roberta.encoder.layer[0].intermediate.dense.weight.sum()
        output.logits = output.logits * (1 + torch.arange(CLASSES))
        return output


def test_every_checkpoint_of_another_structure_is_verified():
    plain, other = new_model(), new_model(seed=1)
    other.__class__ = Shortcut
    train, test = make_batches(), make_batches(sizes=(4,), seed=2)
    with pytest.raises(ValueError, match="parameters that act inside of their own modules, got Shortcut"):
        quiet_influence([plain, other], train, test)
