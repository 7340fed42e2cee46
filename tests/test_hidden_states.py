"""States equal the model's own, pooled by hand, whatever the architecture and the batching."""

import copy
import math
import re

import pytest
import torch
import transformers
from gaussian import gaussian
from transformers import AutoConfig

from xsub_utils.heads.gates import head_gates
from xsub_utils.similarity.hidden_states import hidden_states, pooled_states
from xsub_utils.similarity.rsa import rsa

TOKENS = {"vocab_size": 60, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
SMALL = TOKENS | {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 40,
}
T5 = TOKENS | {"d_model": 24, "d_kv": 5, "num_layers": 3, "num_heads": 4, "d_ff": 20}
MBART = TOKENS | {
    "d_model": 24,
    "encoder_layers": 3,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
}
GEMMA = SMALL | {"num_key_value_heads": 2, "head_dim": 6}
CONFIGS = {
    "bert": SMALL,
    "bloom": TOKENS | {"hidden_size": 24, "n_layer": 3, "n_head": 4},
    "gemma2": GEMMA,
    "gpt_neox": SMALL,
    "gpt2": TOKENS | {"n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 40},
    "llama": SMALL | {"num_key_value_heads": 2},
    "m2m_100": MBART,
    "mbart": MBART,
    "modernbert": SMALL | {"cls_token_id": 0, "sep_token_id": 2, "local_attention": 4},
    "mt5": T5,
    "qwen2": SMALL | {"num_key_value_heads": 2},
    "xlm-roberta": SMALL,
}
MODELS = [
    ("bert", "BertModel"),
    ("bert", "BertForTokenClassification"),
    ("bloom", "BloomForSequenceClassification"),
    ("gemma2", "Gemma2Model"),
    ("gpt2", "GPT2LMHeadModel"),
    ("gpt_neox", "GPTNeoXForCausalLM"),
    ("llama", "LlamaModel"),
    ("m2m_100", "M2M100ForConditionalGeneration"),
    ("mbart", "MBartForSequenceClassification"),
    ("modernbert", "ModernBertForMaskedLM"),
    ("modernbert", "ModernBertModel"),
    ("mt5", "MT5EncoderModel"),
    ("mt5", "MT5ForConditionalGeneration"),
    ("mt5", "MT5ForSequenceClassification"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("xlm-roberta", "XLMRobertaForMaskedLM"),
    ("xlm-roberta", "XLMRobertaForSequenceClassification"),
]
POOLED = {"first": lambda states: states[0], "mean": lambda states: states.mean(0), "last": lambda states: states[-1]}
each_model = pytest.mark.parametrize(("name", "kind"), MODELS)


def new_model(name, kind):
    torch.manual_seed(len(kind))
    config = AutoConfig.for_model(name, **CONFIGS[name])
    return getattr(transformers, kind)(config).double()


def make_inputs(rows=5, length=8, seed=1):
    """The rows are of different lengths and end in </s>; the first one fills the batch."""
    ids = torch.randint(5, 60, (rows, length), generator=torch.Generator().manual_seed(seed))
    lengths = torch.tensor([length, *[3 + row % (length - 3) for row in range(1, rows)]])
    mask = (torch.arange(length) < lengths.unsqueeze(1)).long()
    ids[torch.arange(rows), lengths - 1] = TOKENS["eos_token_id"]
    return {"input_ids": ids.masked_fill(mask == 0, TOKENS["pad_token_id"]), "attention_mask": mask}


def rows_of(batch, start, stop):
    """Some rows of a batch, without the padding that they do not need."""
    length = int(batch["attention_mask"][start:stop].sum(1).max())
    return {name: values[start:stop, :length] for name, values in batch.items()}


@torch.no_grad()
def oracle(model, batch, pool):
    """All examples one by one through the whole task model, unpadded."""
    found = []
    for row in range(len(batch["input_ids"])):
        alone = rows_of(batch, row, row + 1)
        target = {"decoder_input_ids": alone["input_ids"]} if model.config.is_encoder_decoder else {}
        output = model(**alone | target, output_hidden_states=True)
        states = output.encoder_hidden_states if target else output.hidden_states
        found.append([POOLED[pool](state[0]) for state in states])
    return [torch.stack(level) for level in zip(*found, strict=True)]


def assert_same(found, expected, **tolerance):
    assert len(found) == len(expected)
    for level, right in zip(found, expected, strict=True):
        torch.testing.assert_close(level.double(), right.double(), **tolerance)


@each_model
@pytest.mark.parametrize("pool", POOLED)
def test_states_are_those_of_the_model_in_any_batching(name, kind, pool):
    model, batch = new_model(name, kind).eval(), make_inputs()
    expected = oracle(model, batch, pool)
    for size in (2, 5):
        parts = [rows_of(batch, start, start + size) for start in range(0, 5, size)]
        found = hidden_states(model, parts, pool=pool)
        assert all(level.dtype == torch.float32 and level.shape == (5, 24) for level in found)
        assert_same(found, expected, rtol=2e-7, atol=4e-7)  # float32, in which some norms compute


@pytest.mark.parametrize(("name", "kind"), [("llama", "LlamaModel"), ("modernbert", "ModernBertModel")])
def test_the_last_level_is_normed(name, kind):
    model, batch = new_model(name, kind).eval(), rows_of(make_inputs(), 0, 1)
    with torch.no_grad():
        last = model(**batch).last_hidden_state[:, 0]
    torch.testing.assert_close(hidden_states(model, [batch])[-1], last.float())


@pytest.mark.parametrize("pool", POOLED)
def test_padding_may_stand_on_the_left(pool):
    model, batch = new_model("mt5", "MT5EncoderModel"), make_inputs()
    shifts = 8 - batch["attention_mask"].sum(1)
    left = {name: torch.stack(list(map(torch.roll, rows, shifts.tolist()))) for name, rows in batch.items()}
    expected = hidden_states(model, [batch], pool=pool)
    assert_same(hidden_states(model, [left], pool=pool), expected, rtol=1e-6, atol=1e-7)


def test_without_a_mask_all_tokens_count():
    model, batch = new_model("bert", "BertModel"), rows_of(make_inputs(), 0, 1)
    expected = hidden_states(model, [batch], pool="mean")
    assert_same(hidden_states(model, [{"input_ids": batch["input_ids"]}], pool="mean"), expected, rtol=0, atol=0)


@each_model
def test_labels_are_ignored_and_the_head_does_not_run(name, kind):
    model, batch = new_model(name, kind), make_inputs()
    expected = hidden_states(model, [batch])
    for head in ("classifier", "lm_head", "classification_head", "decoder"):
        if hasattr(model, head):
            getattr(model, head).forward = None
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    assert_same(hidden_states(model, [batch | {"labels": labels}]), expected, rtol=0, atol=0)


def test_the_head_is_taken_off_a_generator_of_text():
    model, batch = new_model("mt5", "MT5ForConditionalGeneration"), make_inputs()
    for module in (model.decoder, model.lm_head):
        module.register_forward_pre_hook(lambda *_: pytest.fail("ran"))
    hidden_states(model, [batch | {"labels": batch["input_ids"]}])


def test_the_model_is_left_as_it_was():
    model = new_model("xlm-roberta", "XLMRobertaForMaskedLM").train()
    model.roberta.encoder.layer[1].eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    first = hidden_states(model, [make_inputs()], gates=torch.zeros(3, 4))
    with pytest.raises(ValueError, match="expected a token in every example"):
        hidden_states(model, [{"input_ids": torch.ones(1, 2, dtype=int), "attention_mask": torch.zeros(1, 2)}])
    assert_same(hidden_states(model, [make_inputs()], gates=torch.zeros(3, 4)), first, rtol=0, atol=0)  # no dropout
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not any(state.requires_grad for state in first)


@each_model
def test_gates_of_one_change_nothing(name, kind):
    model, batch = new_model(name, kind), make_inputs()
    expected = hidden_states(model, [batch])
    assert_same(hidden_states(model, [batch], gates=torch.ones(3, 4)), expected, rtol=0, atol=0)


@each_model
def test_gates_are_those_of_head_gates(name, kind):
    model, batch = new_model(name, kind).eval(), make_inputs()
    mask = torch.tensor([[True, False, True, True], [False] * 4, [True, True, False, False]])
    with head_gates(model, mask):
        expected = oracle(model, batch, "mean")
    found = hidden_states(model, [batch], gates=mask, pool="mean")
    assert_same(found, expected, rtol=2e-7, atol=4e-7)
    assert not torch.allclose(found[-1], hidden_states(model, [batch], pool="mean")[-1], atol=1e-4)


def test_without_heads_the_first_token_sees_nothing_and_measures_say_so():
    model, batch = new_model("xlm-roberta", "XLMRobertaModel").float(), make_inputs(rows=40)
    batch["input_ids"][:, 0] = 0
    for level in hidden_states(model, [rows_of(batch, 0, 7), rows_of(batch, 7, 40)], gates=torch.zeros(3, 4)):
        with pytest.warns(RuntimeWarning, match="x: all examples are the same"):
            assert math.isnan(rsa(level, gaussian(40, 24).float()))


def test_several_ways_of_pooling_in_one_pass():
    model, batch, passes = new_model("bert", "BertModel"), make_inputs(), []
    expected = {pool: hidden_states(model, [batch], pool=pool) for pool in ("first", "mean")}
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    found = pooled_states(model, iter([batch]))
    assert list(found) == ["first", "mean"]
    assert len(passes) == 1
    for pool, levels in expected.items():
        assert_same(found[pool], levels, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": []}, "batches: expected at least one batch, got none"),
        ({"pool": "men"}, "pool: expected one of first, mean, last, got 'men'; did you mean 'mean'?"),
        ({"gates": torch.ones(2, 4)}, "gates: expected the shape (3, 4)"),
    ],
)
def test_errors_of_hidden_states(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        hidden_states(new_model("bert", "BertModel"), **{"batches": [make_inputs()]} | options)


def test_an_example_without_a_token():
    batch = make_inputs() | {"attention_mask": torch.zeros(5, 8)}
    with pytest.raises(ValueError, match="batches: expected a token in every example, got an attention_mask that is 0"):
        hidden_states(new_model("bert", "BertModel"), [batch])
