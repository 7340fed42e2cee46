"""Head importance against finite differences and hand computation; attention entropy against its definition."""

import math

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    DebertaV2Config,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    MBartConfig,
    MBartForConditionalGeneration,
    ModernBertConfig,
    MT5Config,
    MT5ForConditionalGeneration,
    MT5ForSequenceClassification,
    MT5ForTokenClassification,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from xsub_utils.heads.gates import head_gates
from xsub_utils.heads.importance import attention_entropy, gate_gradients, head_importance

LAYERS, HEADS, CLASSES, VOCABULARY, PAD = 2, 3, 4, 40, 1
SHAPE = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": 32,
    "vocab_size": VOCABULARY,
    "num_labels": CLASSES,
    "initializer_range": 0.4,
    "pad_token_id": PAD,
}
XLMR = XLMRobertaConfig(**SHAPE)
HEAD = {
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "mlm": AutoModelForMaskedLM,
}
MASK = torch.tensor([[1, 0, 1], [0, 1, 1]]).bool()


def make_model(kind="sequence", config=XLMR, dtype=torch.float64):
    torch.manual_seed(sum(map(ord, kind)))
    return HEAD[kind].from_config(config).to(dtype).eval()


def make_batches(kind="sequence", sizes=(4, 4), length=9, seed=0):
    """Random batches with sentences of three tokens and more; the labels of words and of masked tokens are sparse."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, length + 1, (sum(sizes),), generator=rng)
    attended = (torch.arange(length) < lengths[:, None]).long()
    ids = torch.randint(5, VOCABULARY, attended.shape, generator=rng).masked_fill(attended == 0, PAD)
    classes = VOCABULARY if kind == "mlm" else CLASSES
    labels = torch.randint(classes, (sum(sizes),) if kind == "sequence" else ids.shape, generator=rng)
    if kind != "sequence":
        ignored = (attended == 0) | (torch.rand(ids.shape, generator=rng) < 0.5)
        ignored[:, 1] = False
        labels[ignored] = -100
    columns = {"input_ids": ids, "attention_mask": attended, "labels": labels}
    parts = {name: column.split(sizes) for name, column in columns.items()}
    return [{name: parts[name][i] for name in columns} for i in range(len(sizes))]


def one_by_one(batches):
    return [
        {name: column[i : i + 1] for name, column in batch.items()}
        for batch in batches
        for i in range(len(batch["labels"]))
    ]


def mean_loss(model, batch, gates):
    """What transformers itself calls the loss: the mean over all labels of the batch."""
    with head_gates(model, gates):
        return model(**batch).loss


def loss_gradient(model, batch, mask=None):
    gates = torch.ones(LAYERS, HEADS).double() if mask is None else mask.double()
    gates.requires_grad_()
    (gradient,) = torch.autograd.grad(mean_loss(model, batch, gates), gates)
    return gradient


def slope(model, batch, mask, layer, head, step=1e-5):
    """Central difference of the loss of one example in one gate."""
    change = torch.zeros(LAYERS, HEADS).double()
    change[layer, head] = step
    with torch.no_grad():
        up, down = (mean_loss(model, batch, mask.double() + sign * change) for sign in (1, -1))
    return float(up - down) / (2 * step)


@pytest.mark.parametrize("kind", HEAD)
@pytest.mark.parametrize("mask", [torch.ones(LAYERS, HEADS).bool(), MASK], ids=["whole", "masked"])
def test_per_example_is_the_mean_absolute_finite_difference(kind, mask):
    model, batches = make_model(kind), make_batches(kind)
    expected = torch.tensor(
        [
            [sum(abs(slope(model, one, mask, layer, head)) for one in one_by_one(batches)) / 8 for head in range(HEADS)]
            for layer in range(LAYERS)
        ]
    ).double()
    torch.testing.assert_close(head_importance(model, batches, gates=mask, norm=None), expected, rtol=2e-6, atol=1e-7)
    assert (expected[~mask] > 0).all()


@pytest.mark.parametrize("kind", HEAD)
def test_per_example_does_not_depend_on_batches_or_order(kind):
    model, batches = make_model(kind), one_by_one(make_batches(kind))
    expected = head_importance(model, batches)
    for sizes in ((8,), (2, 2, 2, 2), (5, 3)):
        same = make_batches(kind, sizes)
        torch.testing.assert_close(head_importance(model, same), expected, rtol=1e-6, atol=1e-9)
    shuffled = [batches[i] for i in (3, 0, 7, 5, 1, 6, 2, 4)]
    torch.testing.assert_close(head_importance(model, shuffled), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", HEAD)
def test_batch_and_cumulative_by_hand(kind):
    model, batches = make_model(kind), make_batches(kind, (3, 3, 2))
    first, second, third = (loss_gradient(model, batch, MASK) for batch in batches)
    batch = first.abs() + second.abs() + third.abs()
    cumulative = first.abs() + (first + second).abs() + (first + second + third).abs()
    for per, expected in {"batch": batch, "cumulative": cumulative}.items():
        actual = head_importance(model, batches, gates=MASK, per=per, norm=None)
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8)


def test_batch_and_cumulative_depend_on_the_batches():
    model = make_model()
    for per in ("batch", "cumulative"):
        few, many = (head_importance(model, make_batches(sizes=s), per=per) for s in ((8,), (2, 2, 2, 2)))
        assert not torch.allclose(few, many, rtol=1e-3)


def test_examples_in_batches_of_one_agree_up_to_the_number_of_examples():
    model, batches = make_model(), one_by_one(make_batches())
    example, batch = (head_importance(model, batches, per=per, norm=None) for per in ("example", "batch"))
    torch.testing.assert_close(batch, 8 * example)


def test_an_example_without_labels_counts_with_a_loss_of_zero():
    model, (batch,) = make_model("token"), make_batches("token", (4,))
    expected = head_importance(model, [batch], norm=None)
    silent = {name: torch.cat([column, column[:1]]) for name, column in batch.items()}
    silent["labels"][-1] = -100
    torch.testing.assert_close(head_importance(model, [silent], norm=None), expected * 4 / 5)


def test_layer_norm():
    model, batches = make_model(), make_batches()
    plain, normed = (head_importance(model, batches, norm=norm) for norm in (None, "layer"))
    torch.testing.assert_close(normed, plain / plain.pow(2).sum(1, keepdim=True).sqrt())
    assert normed.dtype == torch.float64


def test_dead_heads_have_no_importance():
    model = make_model()
    output = model.roberta.encoder.layer[0].attention.output.dense
    nn.init.zeros_(output.weight[:, 8:16].data)
    assert head_importance(model, make_batches())[0].tolist()[1] == 0
    nn.init.zeros_(output.weight.data)
    importance = head_importance(model, make_batches())
    assert importance[0].tolist() == [0, 0, 0]  # not nan, for all the norm
    assert (importance[1] > 0).all()


@pytest.mark.parametrize("per", ["example", "batch"])
def test_leaves_the_model_as_it_was(per):
    model = make_model(config=XLMRobertaConfig(**SHAPE, hidden_dropout_prob=0.5))
    expected = head_importance(model, make_batches(), per=per)
    model.train()
    model.classifier.eval()
    model.roberta.embeddings.requires_grad_(False)
    before = [(module.training,) for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    with torch.no_grad():
        assert torch.equal(head_importance(model, make_batches(), per=per), expected)  # no dropout either
    assert [(module.training,) for module in model.modules()] == before
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters())


def test_takes_no_gradients_of_parameters():
    model = make_model()
    wanted = []
    with model.register_forward_hook(lambda *_: wanted.extend(p.requires_grad for p in model.parameters())):
        head_importance(model, make_batches())
    assert wanted and not any(wanted)


@pytest.mark.parametrize("measure", [head_importance, attention_entropy])
def test_leaves_the_model_as_it_was_when_interrupted(measure):
    def interrupted():
        yield make_batches()[0]
        raise KeyboardInterrupt

    model = make_model().train()
    with pytest.raises(KeyboardInterrupt):
        measure(model, interrupted(), gates=MASK)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert model.config._attn_implementation == "sdpa"
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_half_precision_models_have_float32_gates():
    batches = make_batches()
    expected = head_importance(make_model(), batches)
    model = make_model(dtype=torch.bfloat16)
    torch.testing.assert_close(head_importance(model, batches), expected, rtol=0.2, atol=0.05)
    assert gate_gradients(model, batches)[0][0].dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per": "exampel"}, "did you mean 'example'"),
        ({"norm": "layers"}, "norm: expected one of layer, got 'layers'"),
        ({"batches": []}, "batches: expected at least one batch"),
        ({"batches": [{"input_ids": torch.ones(1, 3).long()}]}, "labels"),
        ({"gates": torch.ones(3, 2)}, r"gates: expected .*\(2, 3\)"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        head_importance(**{"model": make_model(), "batches": make_batches(), **arguments})


def test_a_broken_model_is_named():
    model = make_model()
    nn.init.constant_(model.classifier.out_proj.weight.data, torch.nan)
    with pytest.raises(ValueError, match="model: expected finite logits"):
        head_importance(model, make_batches())


def test_uniform_attention_has_the_entropy_of_the_sentence_length():
    model, batches = make_model(), make_batches()
    nn.init.zeros_(model.roberta.encoder.layer[0].attention.self.query.weight.data)
    nn.init.zeros_(model.roberta.encoder.layer[0].attention.self.query.bias.data)
    lengths = torch.cat([batch["attention_mask"].sum(1) for batch in batches]).tolist()
    expected = sum(length * math.log(length) for length in lengths) / sum(lengths)
    entropy = attention_entropy(model, batches)
    assert entropy[0].tolist() == pytest.approx([expected] * HEADS, rel=1e-12)
    assert (entropy[1] < expected).all() and (entropy >= 0).all()


def test_entropy_by_its_definition():
    model = make_model()
    batches = make_batches(sizes=(2,))
    (batch,) = batches
    model.set_attn_implementation("eager")
    attentions = model(**batch, output_attentions=True).attentions
    rows = [
        [
            [
                -sum(p * math.log(p) for p in attentions[layer][i, head, token].tolist() if p > 0)
                for i in range(2)
                for token in range(int(batch["attention_mask"][i].sum()))
            ]
            for head in range(HEADS)
        ]
        for layer in range(LAYERS)
    ]
    model.set_attn_implementation("sdpa")
    expected = torch.tensor(rows, dtype=torch.float64).mean(-1)
    torch.testing.assert_close(attention_entropy(model, batches), expected, rtol=1e-12, atol=1e-12)
    assert model.config._attn_implementation == "sdpa"


def test_entropy_does_not_depend_on_batches_or_padding():
    model, (batch,) = make_model(), make_batches(sizes=(8,))
    expected = attention_entropy(model, [batch])
    trimmed = [
        {name: column[:, : int(one["attention_mask"].sum())] for name, column in one.items() if name != "labels"}
        for one in one_by_one([batch])
    ]
    torch.testing.assert_close(attention_entropy(model, trimmed), expected)


def test_gates_change_the_entropy_of_the_layers_above_only():
    model, batches = make_model(), make_batches()
    whole, masked = attention_entropy(model, batches), attention_entropy(model, batches, gates=MASK)
    assert torch.equal(whole[0], masked[0])
    assert not torch.isclose(whole[1], masked[1], rtol=1e-3).any()


def test_entropy_needs_a_batch():
    with pytest.raises(ValueError, match="batches: expected at least one batch"):
        attention_entropy(make_model(), [])


OTHERS = {
    "bert": BertConfig(**SHAPE),
    "deberta-v2": DebertaV2Config(**SHAPE),
    "electra": ElectraConfig(**SHAPE),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=24,
        n_layer=LAYERS,
        n_head=HEADS,
        num_labels=CLASSES,
        pad_token_id=PAD,
        bos_token_id=2,
        eos_token_id=2,
        initializer_range=0.4,
    ),
    "modernbert": ModernBertConfig(**SHAPE, bos_token_id=0, cls_token_id=0, eos_token_id=2, sep_token_id=2),
    "roberta": RobertaConfig(**SHAPE),
    "mt5": MT5Config(
        vocab_size=VOCABULARY,
        d_model=24,
        d_kv=8,
        d_ff=32,
        num_layers=LAYERS,
        num_heads=HEADS,
        num_labels=CLASSES,
        pad_token_id=PAD,
        eos_token_id=2,
        decoder_start_token_id=PAD,
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures(name):
    kind = "token" if name == "mt5" else "sequence"
    torch.manual_seed(0)
    make = MT5ForTokenClassification if name == "mt5" else HEAD[kind].from_config
    model, batches = make(OTHERS[name]).double().eval(), make_batches(kind)
    before = model.config._attn_implementation
    check_per_example(model, batches)
    entropy = attention_entropy(model, batches)
    assert ((entropy >= 0) & (entropy <= math.log(9))).all()
    assert model.config._attn_implementation == before


def check_per_example(model, batches):
    """Against the gradient of the loss that transformers computes, one example at a time."""
    singles = [loss_gradient(model, one).abs() for one in one_by_one(batches)]
    importance = head_importance(model, batches, norm=None)
    torch.testing.assert_close(importance, torch.stack(singles).mean(0), rtol=1e-5, atol=1e-8)


PARTS = {"encoder": (LAYERS, HEADS), "decoder": (3, HEADS), "cross": (3, HEADS)}
MT5_GENERATOR = MT5Config(**{**OTHERS["mt5"].to_dict(), "num_decoder_layers": 3})
MBART = MBartConfig(
    vocab_size=VOCABULARY,
    d_model=24,
    encoder_layers=LAYERS,
    decoder_layers=3,
    encoder_attention_heads=HEADS,
    decoder_attention_heads=HEADS,
    encoder_ffn_dim=32,
    decoder_ffn_dim=32,
    max_position_embeddings=32,
    pad_token_id=PAD,
    init_std=0.4,
)
ENCODER_DECODERS = {
    "mt5": (MT5ForConditionalGeneration, MT5_GENERATOR),
    "mbart": (MBartForConditionalGeneration, MBART),
    "mt5 classifier": (MT5ForSequenceClassification, MT5_GENERATOR),
}


def make_encoder_decoder(name):
    """A model in float64 and batches for it: targets of two tokens and more, or classes of sentences that end."""
    make, config = ENCODER_DECODERS[name]
    torch.manual_seed(0)
    model = make(config).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    batches = make_batches("sequence")
    if name == "mt5 classifier":
        for batch in batches:
            batch["input_ids"][torch.arange(4), batch["attention_mask"].sum(1) - 1] = config.eos_token_id
        return model, batches
    rng = torch.Generator().manual_seed(1)
    for batch in batches:
        lengths = torch.randint(2, 7, (4, 1), generator=rng)
        labels = torch.randint(5, VOCABULARY, (4, 6), generator=rng)
        batch["labels"] = labels.masked_fill(torch.arange(6) >= lengths, -100)
    return model, batches


def losses_and_gates(model, batches, mask, part):
    """Gates, and what transformers itself calls the loss of each example through them."""
    gates = mask.double().requires_grad_()
    with head_gates(model, gates, part=part):
        return [model(**one).loss for one in one_by_one(batches)], gates


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_every_part_of_an_encoder_decoder_by_a_loop(name, part):
    model, batches = make_encoder_decoder(name)
    mask = (torch.arange(HEADS) != 1).expand(PARTS[part])
    losses, gates = losses_and_gates(model, batches, mask, part)
    singles = [torch.autograd.grad(loss, gates)[0].abs() for loss in losses]
    importance = head_importance(model, batches, gates=mask, norm=None, part=part)
    torch.testing.assert_close(importance, torch.stack(singles).mean(0), rtol=1e-5, atol=1e-8)
    assert (importance > 0).all()


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_an_encoder_decoder_against_finite_differences(part):
    model, batches = make_encoder_decoder("mbart")  # the norms of mT5 are in float32, too coarse for differences
    mask = (torch.arange(HEADS) != 1).expand(PARTS[part])
    expected = torch.zeros(PARTS[part]).double()
    for cell in range(expected.numel()):
        change = torch.eye(expected.numel()).double()[cell].view_as(expected) * 1e-5
        with torch.no_grad():
            up, down = (losses_and_gates(model, batches, mask + by, part)[0] for by in (change, -change))
        expected.view(-1)[cell] = (torch.stack(up) - torch.stack(down)).abs().mean() / 2e-5
    importance = head_importance(model, batches, gates=mask, norm=None, part=part)
    torch.testing.assert_close(importance, expected, rtol=5e-6, atol=1e-7)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ENCODER_DECODERS)
@torch.no_grad()
def test_entropy_of_every_part_by_a_loop(name, part):
    model, batches = make_encoder_decoder(name)
    before = model.config._attn_implementation
    entropy = attention_entropy(model, batches, part=part)
    assert model.config._attn_implementation == before
    model.set_attn_implementation("eager")
    rows = []
    for one in one_by_one(batches):
        attentions = model(**one, output_attentions=True)[f"{part}_attentions"]
        written = part != "encoder" and name != "mt5 classifier"
        attending = one["labels"][0] != -100 if written else one["attention_mask"][0] == 1
        rows += [
            [[torch.special.entr(weights).sum() for weights in layer[0, :, token]] for layer in attentions]
            for token in attending.nonzero().flatten().tolist()
        ]
    torch.testing.assert_close(entropy, torch.tensor(rows).double().mean(0), rtol=1e-6, atol=1e-6)


def test_inputs_of_a_decoder_can_be_given():
    model, (batch, _) = make_encoder_decoder("mt5")
    ids = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    given = {**batch, "decoder_input_ids": ids}
    assert torch.equal(*(head_importance(model, [one], part="cross") for one in (batch, given)))
    assert torch.equal(*(attention_entropy(model, [one], part="cross") for one in (batch, given)))
    masked = {**given, "decoder_attention_mask": (batch["labels"] != -100).long()}
    del masked["labels"]
    torch.testing.assert_close(
        attention_entropy(model, [masked], part="cross"), attention_entropy(model, [batch], part="cross")
    )
    other = {**batch, "decoder_input_ids": ids.flip(1)}
    assert not torch.allclose(head_importance(model, [other]), head_importance(model, [batch]))


DECODERS = [
    LlamaConfig(**SHAPE, num_key_value_heads=1),
    Qwen3Config(**SHAPE, num_key_value_heads=1, head_dim=8),
    GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=24,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=32,
        initializer_range=0.4,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=None,
    ),
]


def make_decoder(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    (batch,) = make_batches(sizes=(6,))
    return model, {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


@pytest.mark.parametrize("config", DECODERS, ids=lambda config: config.model_type)
def test_importance_in_decoder_only_models_is_that_of_the_loss_of_the_next_token(config):
    model, batch = make_decoder(config)
    slopes = []
    for example in one_by_one([batch]):
        ids = example["input_ids"][:, : int(example["attention_mask"].sum())]
        gates = torch.ones(LAYERS, HEADS, dtype=torch.float64, requires_grad=True)
        with head_gates(model, gates):
            (slope,) = torch.autograd.grad(model(input_ids=ids, labels=ids).loss, gates)
        slopes.append(slope.abs())
    expected = torch.stack(slopes).mean(0)
    torch.testing.assert_close(head_importance(model, [batch], norm=None), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("config", DECODERS, ids=lambda config: config.model_type)
def test_entropy_of_decoder_only_models_is_of_the_tokens_before(config):
    model, batch = make_decoder(config)
    model.set_attn_implementation("eager")
    total, tokens = torch.zeros(LAYERS, HEADS, dtype=torch.float64), 0
    for example in one_by_one([batch]):
        length = int(example["attention_mask"].sum())
        with torch.no_grad():
            attentions = model(input_ids=example["input_ids"][:, :length], output_attentions=True).attentions
        for layer, attention in enumerate(attentions):
            for position in range(length):
                seen = attention[0, :, position, : position + 1]  # it sees itself and what stands before it
                torch.testing.assert_close(seen.sum(-1), torch.ones(HEADS, dtype=torch.float64))
                total[layer] += torch.special.entr(seen).sum(-1)
        tokens += length
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(attention_entropy(model, [batch]), total / tokens, rtol=1e-6, atol=1e-9)


def test_entropy_of_a_model_that_hides_its_attention():
    model, batches = make_model(), make_batches()
    run = model.forward
    model.forward = lambda **inputs: run(**{**inputs, "output_attentions": False})
    with pytest.raises(ValueError, match="model: expected one that hands out its attention, got XLMRobertaFor"):
        attention_entropy(model, batches)


@pytest.mark.parametrize("measure", [head_importance, attention_entropy])
def test_parts_that_a_model_does_not_have(measure):
    with pytest.raises(ValueError, match=r"part: expected one of .*, got 'cross'"):
        measure(make_model(), make_batches(), part="cross")


class MeanPooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.output = nn.Linear(SHAPE["hidden_size"], CLASSES)

    def forward(self, states):
        return self.output(states.mean(1))


def test_classifiers_that_read_all_tokens():
    class OwnForSequenceClassification(XLMRobertaForSequenceClassification):
        def forward(self, labels=None, **inputs):
            states = self.roberta(**inputs).last_hidden_state
            logits = self.classifier(states) + self.classifier(states.flip(1))
            loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
            return SequenceClassifierOutput(loss=loss, logits=logits)

    torch.manual_seed(0)
    exchanged = XLMRobertaForSequenceClassification(XLMR)
    exchanged.classifier = MeanPooling()
    for model in (OwnForSequenceClassification(XLMR), exchanged):
        check_per_example(model.double().eval(), make_batches())
