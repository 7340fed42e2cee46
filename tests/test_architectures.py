"""Every architecture of the table, as tiny random models, and one that a test registers itself."""

import functools

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from xsub_utils.attribution.options import InfluenceOptions
from xsub_utils.attribution.tracin import influence
from xsub_utils.evaluation.forward import forward
from xsub_utils.evaluation.scores import evaluate
from xsub_utils.gradients.parameter_groups import chosen_parameters, in_order, parameter_group
from xsub_utils.heads.gates import check_gates, head_gates
from xsub_utils.heads.importance import head_importance
from xsub_utils.heads.removal import head_weights, parameter_count, remove_heads, removes_like_masking
from xsub_utils.heads.search import find_subnetwork
from xsub_utils.models.architecture_table import TABLE
from xsub_utils.models.architectures import architecture_of, attentions_of, head_shape
from xsub_utils.models.registration import register_architecture
from xsub_utils.stitching.maps import stitch
from xsub_utils.stitching.scores import stitched_score
from xsub_utils.weights.criteria import keep_largest
from xsub_utils.weights.masks import masked_weights
from xsub_utils.weights.prunable import Matrix, matrix, prunable_weights

TOKENS = {"vocab_size": 60, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "initializer_range": 0.3}
SMALL = TOKENS | {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 40,
}
GROUPED = SMALL | {"num_key_value_heads": 2}
WIDE = GROUPED | {"head_dim": 10}  # four heads of ten features in a model of 24
MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 3}
SEQ2SEQ = {
    "d_model": 24,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "init_std": 0.3,
}
CONFIGS = {
    "albert": SMALL | {"embedding_size": 10},
    "apertus": GROUPED,
    "bert": SMALL,
    "bloom": TOKENS | {"hidden_size": 24, "n_layer": 3, "n_head": 4},
    "camembert": SMALL,
    "cohere": GROUPED | {"use_qk_norm": True},
    "cohere2": GROUPED | MIXED,
    "deberta-v2": SMALL | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4},
    "distilbert": TOKENS | {"dim": 24, "n_layers": 3, "n_heads": 4, "hidden_dim": 20},
    "electra": SMALL | {"embedding_size": 10},
    "eurobert": GROUPED | {"mask_token_id": 3},
    "gemma": WIDE,
    "gemma2": WIDE | MIXED | {"query_pre_attn_scalar": 10},
    "gemma3_text": WIDE | MIXED | {"query_pre_attn_scalar": 10},
    "gpt2": TOKENS | {"n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 40},
    "gpt_neox": SMALL,
    "llama": WIDE,
    "m2m_100": TOKENS | SEQ2SEQ,
    "mbart": TOKENS | SEQ2SEQ,
    "mistral": WIDE,
    "modernbert": SMALL | {"cls_token_id": 0, "sep_token_id": 2, "local_attention": 4},
    "mpnet": SMALL,
    "mt5": TOKENS | {"d_model": 24, "d_kv": 5, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4, "d_ff": 20},
    "olmo2": GROUPED,
    "qwen2": GROUPED,
    "qwen3": WIDE,
    "rembert": SMALL | {"input_embedding_size": 10},
    "roberta": SMALL,
    "smollm3": GROUPED,
    "t5": TOKENS | {"d_model": 24, "d_kv": 5, "num_layers": 3, "num_heads": 4, "d_ff": 20, "decoder_start_token_id": 1},
    "xglm": TOKENS | {"d_model": 24, "num_layers": 3, "attention_heads": 4, "ffn_dim": 20},
    "xlm-roberta": SMALL,
    "xlm-roberta-xl": SMALL,
    "xmod": SMALL | {"languages": ["aa", "bb"], "default_language": "bb"},
}
ENCODER_DECODERS = ("m2m_100", "mbart", "mt5", "t5")
DECODERS = ("apertus", "bloom", "cohere", "cohere2", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama")
DECODERS += ("mistral", "olmo2", "qwen2", "qwen3", "smollm3", "xglm")
ONLY_EAGER = ("bloom", "deberta-v2", "gemma2", "mpnet", "rembert", "xglm")
ONLY_MASKED = ("albert", "bloom", "mpnet", "mt5", "olmo2", "t5")
SHARED_KEYS = tuple(name for name, config in CONFIGS.items() if "num_key_value_heads" in config)
REMOVABLE = tuple(sorted(CONFIGS.keys() - set(ONLY_MASKED)))
MODELS = [(name, "eager") for name in CONFIGS] + [(name, "sdpa") for name in CONFIGS if name not in ONLY_EAGER]
each_model = pytest.mark.parametrize(("name", "kernel"), MODELS)
MASKS = ("0000 0100 1111", "1010 0011 1110", "1101 1000 0000")


def new_model(name, kernel="eager", task="", **options):
    torch.manual_seed(sum(map(ord, name)))
    config = AutoConfig.for_model(name, **CONFIGS[name] | options)
    auto = getattr(transformers, f"AutoModel{task}")
    model = auto.from_config(config, attn_implementation=kernel).eval()
    return model if name == "xglm" else model.double()  # XGLM masks with numbers of single precision


def atol_of(name):
    return 1e-5 if name == "xglm" else 1e-12


@functools.cache
def shared_model(name, kernel="eager"):
    return new_model(name, kernel)


def language_model(name, kernel="eager"):
    return new_model(name, kernel, "ForSeq2SeqLM" if name in ENCODER_DECODERS else "ForCausalLM")


def make_batch(name="", labels=False):
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[-1, 5:] = 0
    ids = torch.randint(5, 60, (3, 7), generator=generator).masked_fill(mask == 0, 1)
    batch = {"input_ids": ids, "attention_mask": mask}
    if name in ENCODER_DECODERS:
        batch["decoder_input_ids"] = torch.randint(5, 60, (3, 5), generator=generator)
    return batch | ({"labels": ids.masked_fill(mask == 0, -100)} if labels else {})


def mask_of(text):
    return torch.tensor([[head == "1" for head in layer] for layer in text.split()])


@torch.no_grad()
def output(model, batch, gates=None):
    if gates is None:
        return model(**batch)[0]
    with head_gates(model, gates):
        return model(**batch)[0]


def output_projections(model):
    """Modules, found by their names alone: where each self-attention ends, of an encoder if there is one."""
    ends = (
        "attention.output.dense",
        "attention.out_lin",
        "attn.Wo",
        "attn.c_proj",
        "attn.o_proj",
        "attn.o",
        "attn.out_proj",
    )
    ends += ("attention.dense", "SelfAttention.o")
    found = {path: module for path, module in model.named_modules() if path.endswith(ends)}
    return [module for path, module in found.items() if "decoder." not in path]


def gated_by_hand(model, batch, gates):
    """The output with each head's slice of what enters the projections scaled, in the order of the calls."""
    calls = iter(gates)

    def scale(_module, inputs):
        gate = next(calls)
        return inputs[0] * gate.repeat_interleave(inputs[0].shape[-1] // len(gate))

    hooks = [module.register_forward_pre_hook(scale) for module in output_projections(model)]
    try:
        found = model(**batch)[0]
    finally:
        for hook in hooks:
            hook.remove()
    assert next(calls, None) is None
    return found


def test_every_architecture_is_tested():
    assert CONFIGS.keys() == {name for name in TABLE if not name.startswith("own")}


@each_model
def test_gates_are_zeroed_slices_of_what_enters_the_output_projection(name, kernel):
    model, batch = shared_model(name, kernel), make_batch(name)
    assert head_shape(model) == (3, 4)
    plain = output(model, batch)
    assert torch.equal(output(model, batch, torch.ones(3, 4)), plain)
    factors = torch.rand(3, 4, generator=torch.Generator().manual_seed(3))
    for gates in (mask_of("0100 1011 1110").to(model.dtype), factors.to(model.dtype)):
        with torch.no_grad():
            right = gated_by_hand(model, batch, gates)
        assert torch.equal(output(model, batch, gates), right)
        assert not torch.equal(right, plain)
    check_gates(model, batch)


@each_model
def test_gates_of_every_head_change_the_output_alone(name, kernel):
    model, batch = shared_model(name, kernel), make_batch(name)
    gates = torch.ones(3, 3, 4, dtype=torch.float64)
    gates[1, 2, 3] = 0
    changed = (output(model, batch, gates) != output(model, batch)).flatten(1).any(1)
    assert changed.tolist() == [False, True, False]


@pytest.mark.parametrize("name", CONFIGS)
def test_importance_is_the_gradient_of_gates_by_hand(name):
    causal = name in DECODERS or name in ENCODER_DECODERS
    model = language_model(name) if causal else new_model(name, task="ForSequenceClassification")
    batch = make_batch(labels=causal)
    batch |= {} if causal else {"labels": torch.tensor([0, 1, 0])}
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for row in range(3):
        one = {key: value[row : row + 1] for key, value in batch.items()}
        gates = torch.ones(3, 4, dtype=model.dtype, requires_grad=True)

        def loss(gates, one=one):
            calls = iter(gates)
            hooks = [
                module.register_forward_pre_hook(
                    lambda _, inputs, calls=calls: inputs[0] * next(calls).repeat_interleave(inputs[0].shape[-1] // 4)
                )
                for module in output_projections(model)
            ]
            labels, logits = forward(model, one)
            for hook in hooks:
                hook.remove()
            return nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())

        (gradient,) = torch.autograd.grad(loss(gates), gates)
        expected += gradient.abs() / 3
        with torch.no_grad():  # one entry by differences too
            step = torch.zeros_like(gates)
            step[1, 2] = 1e-2  # since most norms compute in single precision
            slope = (loss(gates + step) - loss(gates - step)) / 2e-2
        assert float(slope) == pytest.approx(float(gradient[1, 2]), rel=0.05, abs=2e-3)
    importance = head_importance(model, [batch], norm=None)
    torch.testing.assert_close(importance, expected, rtol=1e-4, atol=1e-6)
    assert (importance > 0).all()


# Models inside others


def test_parts_of_larger_models_are_found():
    """The text model of a Gemma 3 that sees too: its configuration lies within that of the whole."""
    text = CONFIGS["gemma3_text"]
    vision = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    vision |= {"image_size": 8, "patch_size": 4}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = AutoModel.from_config(config).double().eval()
    assert head_shape(model) == (3, 4)
    assert attentions_of(model, "encoder")[0].path == "language_model.layers.0.self_attn"
    check_gates(model, make_batch() | {"token_type_ids": torch.zeros(3, 7, dtype=torch.long)})


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "gpt_neox", "qwen3"])
def test_classifiers_and_language_models(name):
    for task in ("ForCausalLM", "ForSequenceClassification"):
        model, batch = new_model(name, "eager", task), make_batch()
        assert head_shape(nn.ModuleDict({"inside": model})) == (3, 4)
        check_gates(model, batch)


def test_albert_has_gates_for_each_call_of_its_shared_layer():
    model, batch = new_model("albert", "sdpa", num_hidden_groups=2, num_hidden_layers=4), make_batch()
    gates = torch.rand(4, 4, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        right = gated_by_hand(model, batch, gates)
    assert torch.equal(output(model, batch, gates), right)
    with head_gates(model, gates):
        for _ in range(2):  # a pass that ends early does not count
            with pytest.raises(ValueError, match="stop"), stopping(model.encoder.albert_layer_groups[1]):
                model(**batch)
            with torch.no_grad():
                assert torch.equal(model(**batch)[0], right)
    with pytest.raises(ValueError, match="expected an ALBERT with one layer in each group, got inner_group_num=2"):
        head_shape(new_model("albert", inner_group_num=2))


def stopping(module):
    def stop(*_):
        raise ValueError("stop")

    return module.register_forward_pre_hook(stop)


# Removal


@pytest.mark.parametrize("kept", MASKS)
@pytest.mark.parametrize("name", REMOVABLE)
def test_removal_computes_what_masking_computes(name, kept):
    mask, batch = mask_of(kept), make_batch(name)
    for kernel in ("eager",) if name in ONLY_EAGER else ("eager", "sdpa"):
        model = shared_model(name, kernel)
        small = remove_heads(model, mask)
        torch.testing.assert_close(output(small, batch), output(model, batch, mask), rtol=0, atol=atol_of(name))
        assert [attention.heads for attention in attentions_of(small, "encoder")] == mask.sum(1).tolist()
        assert head_shape(model) == (3, 4)


@pytest.mark.parametrize("name", sorted(set(REMOVABLE) & {*DECODERS, "modernbert"}))
def test_removal_in_float32_with_heads_of_both_kinds(name):
    kernel = "eager" if name in ONLY_EAGER else "sdpa"
    tasks = ("ForMaskedLM",) if name == "modernbert" else ("ForCausalLM",)
    for task in (*tasks, *(() if name in ("xglm", "cohere", "cohere2", "apertus") else ("ForSequenceClassification",))):
        model, batch, mask = new_model(name, kernel, task).float(), make_batch(), mask_of("1010 0000 0111")
        torch.testing.assert_close(
            output(remove_heads(model, mask), batch), output(model, batch, mask), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("name", sorted(set(REMOVABLE) & set(DECODERS)))
def test_smaller_models_write_what_masked_ones_write(name):
    """With a cache of keys and values, of which a layer without heads has none."""
    model, mask = language_model(name), mask_of("0000 1010 0111")
    ids = {key: value[:2] for key, value in make_batch().items()}
    options = {"max_new_tokens": 5, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with head_gates(model, mask):
        right = model.generate(**ids, **options)
    found = remove_heads(model, mask).generate(**ids, **options)
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(right.logits), rtol=0, atol=100 * atol_of(name))


@pytest.mark.parametrize(
    ("layer", "keys", "heads_per_key"), [("1100", 1, 2), ("1010", 2, 1), ("1110", 3, 1), ("0010", 1, 1), ("1111", 2, 2)]
)
def test_keys_and_values_go_with_their_last_head_and_are_repeated_for_unequal_groups(layer, keys, heads_per_key):
    mask = mask_of(f"1111 {layer} 1111")
    attention = remove_heads(shared_model("llama"), mask).layers[1].self_attn
    assert attention.k_proj.weight.shape == attention.v_proj.weight.shape == (keys * 10, 24)
    assert attention.q_proj.weight.shape == (int(mask[1].sum()) * 10, 24)
    assert attention.num_key_value_groups == heads_per_key
    assert removes_like_masking(shared_model("llama"), mask) == (layer != "1110")


@pytest.mark.parametrize("name", REMOVABLE)
def test_removal_twice_and_gradients(name):
    """Of what was removed already more can be removed; all that is left learns."""
    model, batch = shared_model(name), make_batch(name)
    even = remove_heads(model, mask_of("1110 1110 1110"))
    twice = remove_heads(even, mask_of("101 101 101"))
    torch.testing.assert_close(
        output(twice, batch), output(model, batch, mask_of("1010 1010 1010")), rtol=0, atol=1e-12
    )
    twice(**batch)[0].square().sum().backward()
    assert all(getattr(one.core, "training", False) is False for one in attentions_of(twice, "encoder"))
    assert all(one.output.weight.grad.abs().sum() > 0 for one in attentions_of(twice, "encoder"))


@pytest.mark.parametrize("name", sorted({*SHARED_KEYS, "gpt2", "gpt_neox", "modernbert", "xglm"} - set(ONLY_MASKED)))
def test_head_weights_are_those_that_decide_what_a_head_computes(name):
    """With all others of its layer set to nothing, the kept heads compute what they did."""
    model, mask, batch = new_model(name), mask_of("1100 1000 1111"), make_batch()
    right = output(model, batch, mask)
    parameters = dict(model.named_parameters())
    for parameter, kept in head_weights(model, mask).items():
        assert kept.shape == parameters[parameter].shape
        parameters[parameter].data[~kept] = 0
    torch.testing.assert_close(output(model, batch), right, rtol=0, atol=atol_of(name))
    assert parameter_count(remove_heads(model, mask)) < parameter_count(model)


@pytest.mark.parametrize("name", ONLY_MASKED)
def test_others_say_why_their_heads_can_only_be_masked(name):
    reason = {"albert": "share their weights", "olmo2": "queries of all heads together"}.get(name, "one position bias")
    with pytest.raises(
        ValueError, match=rf"heads with weights of their own \(.*\), got {name}: .*{reason}.*mask them instead"
    ):
        remove_heads(shared_model(name), torch.ones(3, 4, dtype=torch.bool))


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "modernbert"])
def test_influence_through_removed_heads_is_that_through_gates(name):
    """Also where keys would have to be repeated, whose copies would each have a gradient."""
    model = new_model(name, task="ForSequenceClassification")
    batch = make_batch() | {"labels": torch.tensor([0, 1, 0])}
    for kept in ("1100 0011 1111", "1110 0000 0101"):
        cut, gated = (
            influence([model], [batch], [batch], gates=mask_of(kept).to(kind)) for kind in (torch.bool, torch.double)
        )
        torch.testing.assert_close(torch.as_tensor(cut.scores), torch.as_tensor(gated.scores), rtol=1e-4, atol=1e-6)


# Groups of parameters and matrices to prune


@pytest.mark.parametrize("name", CONFIGS)
def test_groups_and_matrices_are_complete(name):
    model = shared_model(name)
    groups = chosen_parameters(model, None)
    sides = ["", "decoder "] if name in ENCODER_DECODERS else [""]
    for side in sides:
        layers = {
            "decoder ": len(getattr(getattr(model, "decoder", None), "layers", [0, 0])),
            "": 1 if name == "albert" else 3,
        }
        layers |= {"decoder ": len(model.decoder.block)} if name in ("t5", "mt5") else {}
        blocks = [
            f"{side}layer {layer + 1} {block}"
            for layer in range(layers[side])
            for block in ("attention", "feed-forward")
        ]
        assert set(blocks) <= set(groups.values())
    assert (
        groups[next(name for name, one in model.named_parameters() if one is model.get_input_embeddings().weight)]
        == "embeddings"
    )
    if name == "albert":
        with pytest.raises(ValueError, match="layers with weights of their own, got a AlbertModel"):
            prunable_weights(model)
        return
    names = prunable_weights(model)
    linear = [one for path, one in model.named_modules() if isinstance(one, nn.Linear) and "embed" not in path]
    linear += [one for one in model.modules() if type(one).__name__ == "Conv1D"]
    assert {id(one.weight) for one in linear} == {id(one) for one in names.values()}
    assert all(matrix(one).layer for one in names if "pooler" not in one and "relative" not in one)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_table_groups_parameters_as_their_names_do(name):
    """But for the norm that follows attention within its branch, and positions, which names alone do not give away."""
    model = shared_model(name)
    different = {
        one
        for one, _ in model.named_parameters()
        if parameter_group(one) != parameter_group(one, architecture_of(model))
    }
    expected = {"gemma2": "post_attention_layernorm", "gemma3_text": "post_attention_layernorm"}
    expected |= {"olmo2": "post_attention_layernorm", "mpnet": "relative_attention_bias"}
    assert {one.split(".")[-2] for one in different} == ({expected[name]} if name in expected else set())


# Stitching

STITCHABLE = tuple(sorted(name for name, known in TABLE.items() if known.inputs and name in CONFIGS))


@pytest.mark.parametrize("name", STITCHABLE)
def test_stitches_with_itself_are_the_model_at_every_level(name):
    causal = name in DECODERS
    model = new_model(
        name, "eager" if name in ONLY_EAGER else "sdpa", "ForCausalLM" if causal else "ForSequenceClassification"
    )
    batch = make_batch(labels=causal) | ({} if causal else {"labels": torch.tensor([0, 1, 0])})
    mask, metric = mask_of("1010 0111 1110"), "perplexity" if causal else "accuracy"
    if name in ("cohere2", "gemma2", "gemma3_text"):
        with pytest.raises(ValueError, match=f"or know in which, got {name} with full_attention and sliding_attention"):
            stitch(model, model, [batch], level=1)
        return
    for gates, levels in ((mask, range(4)), (torch.rand(3, 4), (1, 3))):
        same = {"front_gates": gates, "end_gates": gates}
        right = evaluate(model, [batch], metric=metric, gates=gates)
        for level in levels:
            stitched = stitch(model, model, [batch], level=level, init="identity", epochs=0, **same)
            score = stitched_score(stitched, model, model, [batch], metric=metric, **same)
            assert score == pytest.approx(right, rel=1e-9)


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - set(STITCHABLE)))
def test_other_models_are_not_stitched(name):
    model = shared_model(name)
    with pytest.raises(
        ValueError, match=rf"of each other but their states \(.*xlm-roberta.*\), got {name}; stitch one"
    ):
        stitch(model, model, [make_batch(name)], level=1, epochs=0)


# A registered architecture


class MadeConfig(PreTrainedConfig):
    model_type = "own-made"

    def __init__(self, width=12, depth=2, mixers=3, **options):
        self.width, self.depth, self.mixers = width, depth, mixers
        super().__init__(**options)


class Mixing(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.breadth = config.width // config.mixers
        self.ask, self.tell, self.hold, self.join = (nn.Linear(config.width, config.width) for _ in range(4))

    def forward(self, hidden_states, mask):
        ask, tell, hold = (
            part(hidden_states).unflatten(-1, (-1, self.breadth)).transpose(1, 2)
            for part in (self.ask, self.tell, self.hold)
        )
        seen = nn.functional.scaled_dot_product_attention(ask, tell, hold, attn_mask=mask)
        return self.join(seen.transpose(1, 2).flatten(2)), None


class Cell(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.before, self.mix = nn.LayerNorm(config.width), Mixing(config)
        self.think = nn.Sequential(nn.Linear(config.width, 16), nn.GELU(), nn.Linear(16, config.width))

    def forward(self, states, mask):
        states = states + self.mix(self.before(states), mask)[0]
        return states + self.think(states)


class MadeModel(PreTrainedModel):
    config_class = MadeConfig
    base_model_prefix = "body"

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(60, config.width)
        self.tower = nn.Module()
        self.tower.cells = nn.ModuleList(Cell(config) for _ in range(config.depth))
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.4)

    def get_input_embeddings(self):
        return self.words

    def forward(self, input_ids, attention_mask=None):
        states = self.words(input_ids)
        for cell in self.tower.cells:
            states = cell(states, attention_mask[:, None, None].bool())
        return BaseModelOutput(last_hidden_state=states)


class MadeClassifier(PreTrainedModel):
    config_class = MadeConfig
    base_model_prefix = "body"

    def __init__(self, config):
        super().__init__(config)
        self.body, self.judge = MadeModel(config), nn.Linear(config.width, 2)
        self.post_init()

    _init_weights = MadeModel._init_weights

    def get_input_embeddings(self):
        return self.body.words

    def forward(self, input_ids, attention_mask=None):
        states = self.body(input_ids, attention_mask)[0]
        return SequenceClassifierOutput(logits=self.judge(states.mean(1)))


PATHS = {"layer": "tower.cells.{}", "attends": "mix", "output": "mix.join"}
MADE = {
    "encoder": PATHS,
    "attention": ["mix", "before"],
    "embeddings": ["words"],
    "projections": "separate",
    "head_size": "breadth",
    "inputs": "words",
}


@pytest.fixture
def made(monkeypatch):
    """A model of the registered architecture, which is forgotten afterwards."""
    monkeypatch.setitem(TABLE, "own-made", None)
    del TABLE["own-made"]
    register_architecture("own-made", **MADE)
    torch.manual_seed(0)
    return MadeClassifier(MadeConfig()).double().eval()


def made_batches():
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "input_ids": torch.randint(60, (6, 5), generator=generator),
            "attention_mask": torch.ones(6, 5, dtype=torch.long),
            "labels": torch.randint(2, (6,), generator=generator),
        }
        for _ in range(2)
    ]


def test_gates_importance_and_search_of_a_registered_architecture(made):
    batches = made_batches()
    inputs = {key: value for key, value in batches[0].items() if key != "labels"}
    assert head_shape(made) == (2, 3)
    check_gates(made, inputs)
    importance = head_importance(made, batches)
    assert importance.shape == (2, 3) and (importance > 0).all()
    subnetwork = find_subnetwork(made, batches, batches, metric="accuracy", retain=0.5)
    assert subnetwork.mask.shape == (2, 3) and not subnetwork.mask.all()


def test_removal_stitching_and_pruning_of_a_registered_architecture(made):
    batches, mask = made_batches(), mask_of("101 000")
    inputs = {key: value for key, value in batches[0].items() if key != "labels"}
    small = remove_heads(made, mask)
    torch.testing.assert_close(output(small, inputs), output(made, inputs, mask), rtol=0, atol=1e-13)
    assert parameter_count(made) - parameter_count(small) == 4 * (4 * 12 * 4 + 3 * 4)
    for level in range(3):
        stitched = stitch(made, made, batches, level=level, init="identity", epochs=0, front_gates=mask, end_gates=mask)
        score = stitched_score(stitched, made, made, batches, front_gates=mask, end_gates=mask)
        assert score == evaluate(made, batches, gates=mask)
    weights = prunable_weights(made)
    components = ["mix.ask", "mix.tell", "mix.hold", "mix.join", "think.0", "think.2"]
    assert sorted(weights) == sorted(f"body.tower.cells.{i}.{one}.weight" for i in range(2) for one in components)
    assert matrix("body.tower.cells.1.mix.ask.weight") == Matrix("encoder", 2, "mix.ask")
    ticket = keep_largest(weights, sparsity=0.5)
    before = output(made, inputs)
    with masked_weights(made, ticket):
        assert not torch.equal(output(made, inputs), before)


def test_influence_of_a_registered_architecture(made):
    train, test = made_batches()
    groups = InfluenceOptions(parameters=["embeddings", "layer 2 attention", "head"])
    found = influence([made], [train], [test], options=groups)
    names = set(chosen_parameters(made, "layer 2 attention"))
    assert names == {
        name for name, _ in made.named_parameters() if ".cells.1.mix." in name or ".cells.1.before." in name
    }
    assert in_order(chosen_parameters(made, None)) == (
        "embeddings", "layer 1 attention", "layer 1 feed-forward", "layer 2 attention", "layer 2 feed-forward", "head",
    )  # fmt: skip
    scores = torch.as_tensor(found.scores)
    assert scores.shape == (6, 6) and scores.isfinite().all() and (scores != 0).any()
    masked = influence([made], [train], [test], gates=mask_of("101 110"))
    assert torch.as_tensor(masked.scores).shape == (6, 6)


def test_an_architecture_like_another(monkeypatch):
    monkeypatch.setitem(TABLE, "own-llama", TABLE["llama"])
    entry = register_architecture("own-llama", like="llama", projections="separate", inputs=["a", "b"], replace=True)
    assert entry.encoder == TABLE["llama"].encoder and entry.inputs == ("a", "b")


def test_an_architecture_with_a_decoder(monkeypatch):
    monkeypatch.setitem(TABLE, "own-both", TABLE["mbart"])
    known = TABLE["mbart"]
    entry = register_architecture(
        "own-both", encoder=known.encoder, decoder=known.decoder, cross=known.cross, replace=True
    )
    assert entry.parts == known.parts and not entry.projections
    assert entry.attention == ("self_attn", "self_attn.out_proj", "encoder_attn", "encoder_attn.out_proj")


BAD = [
    (
        {"encoder": PATHS},
        "model_type: expected one that is not known yet, got 'bert'; replace=True gives it a new meaning",
    ),
    (
        {"encoder": PATHS | {"layer": "tower.cells"}},
        "encoder: expected a layer with one {} for its number, .* got 'tower.cells'",
    ),
    ({"cross": PATHS | {"layer": "a.{}.b.{}"}, "encoder": PATHS}, "cross: expected a layer with one {}"),
    ({"encoder": {"layer": "a.{}"}}, "encoder: expected paths by the names layer, attends, output, got layer"),
    ({}, "encoder: expected the paths of the attention, got None; or name a model type"),
    ({"like": "lama"}, "like: expected one of .*, got 'lama'; did you mean 'llama'?"),
    (
        {"encoder": PATHS, "projections": "fused"},
        "projections: expected one of separate, stacked, interleaved, got 'fused'",
    ),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_what_cannot_be_registered(options, message):
    before = dict(TABLE)
    name = "bert" if "model_type" in message else "own-other"
    with pytest.raises(ValueError, match=message.replace("{", r"\{").replace("?", r"\?")):
        register_architecture(name, **options)
    assert before == TABLE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"encoder": PATHS | {"layer": "tower.floors.{}"}},
            "encoder attention at tower.floors.{}.mix, got MadeClassifier",
        ),
        (
            {"encoder": PATHS | {"output": "mix.out"}},
            "an output projection at .*tower.cells.0.mix.out, got MadeClassifier",
        ),
        ({"encoder": PATHS, "head_size": None}, r"the width of a head in .*mix \(as attention_head_size or head_dim"),
    ],
)
def test_paths_that_a_model_does_not_have_are_named_on_first_use(made, options, message):
    register_architecture("own-made", **MADE | options, replace=True)
    remedy = r".*register_architecture\('own-made', …, replace=True\) corrects them"
    with pytest.raises(
        ValueError, match="model: expected a own-made model with " + message.replace("{}", r"\{\}") + remedy
    ):
        head_shape(made)


def test_inputs_that_a_model_does_not_have(made):
    register_architecture("own-made", **MADE | {"inputs": "letters"}, replace=True)
    with pytest.raises(ValueError, match="a own-made model with letters, got MadeClassifier; if the paths are wrong"):
        stitch(made, made, made_batches(), level=1)
