"""Gates and removal on every supported architecture, as tiny random models in float64."""

import copy
import functools
import re
from contextlib import nullcontext

import pytest
import torch
import transformers
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel

from xsub_utils.heads.gates import check_gates, head_gates
from xsub_utils.heads.removal import head_weights, parameter_count, remove_heads
from xsub_utils.models.architectures import head_shape

TOKENS = {"vocab_size": 60, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
SMALL = TOKENS | {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 40,
}
T5 = TOKENS | {"d_model": 24, "d_kv": 5, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4, "d_ff": 20}
MBART = TOKENS | {
    "d_model": 24,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
}
DEBERTA = SMALL | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4}
CONFIGS = {
    "bert": SMALL,
    "deberta-v2": DEBERTA | {"share_att_key": True},
    "distilbert": TOKENS | {"dim": 24, "n_layers": 3, "n_heads": 4, "hidden_dim": 20},
    "electra": SMALL | {"embedding_size": 10},
    "eurobert": SMALL | {"num_key_value_heads": 2, "mask_token_id": 3},
    "gpt2": TOKENS | {"n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 40},
    "llama": SMALL | {"num_key_value_heads": 2, "head_dim": 10},
    "mbart": MBART,
    "modernbert": SMALL | {"cls_token_id": 0, "sep_token_id": 2, "local_attention": 4},
    "mt5": T5,
    "rembert": SMALL | {"input_embedding_size": 10},
    "roberta": SMALL,
    "t5": T5 | {"decoder_start_token_id": 1},
    "xlm-roberta": SMALL,
    "xlm-roberta-xl": SMALL,
}
SEQ2SEQ = ("mbart", "mt5", "t5")
ONLY_EAGER = ("deberta-v2", "rembert")
REMOVABLE = ("bert", "deberta-v2", "distilbert", "electra", "mbart", "rembert", "roberta")
REMOVABLE += ("xlm-roberta", "xlm-roberta-xl")
# How the names of output projections end: of self-attention, and of the attention to an encoder.
SELF = ("attention.output.dense", "attention.out_lin", "attn.Wo", "attn.c_proj", "attn.o_proj")
SELF += ("self_attn.out_proj", "SelfAttention.o")
CROSS = ("encoder_attn.out_proj", "EncDecAttention.o")

MODELS = [(name, kernel) for name in CONFIGS for kernel in ("eager", "sdpa")]
MODELS = [(name, kernel) for name, kernel in MODELS if kernel == "eager" or name not in ONLY_EAGER]
PARTS = [(name, kernel, "encoder") for name, kernel in MODELS]
PARTS += [(name, kernel, part) for name, kernel in MODELS if name in SEQ2SEQ for part in ("decoder", "cross")]
each_model = pytest.mark.parametrize(("name", "kernel"), MODELS)
each_part = pytest.mark.parametrize(("name", "kernel", "part"), PARTS)
each_removable = pytest.mark.parametrize(
    ("name", "kernel"), [(name, kernel) for name, kernel in MODELS if name in REMOVABLE]
)


@functools.cache
def shared_model(name, kernel="eager"):
    """A model for tests that leave it as it is."""
    return new_model(name, kernel)


def new_model(name, kernel="eager", task="", **options):
    torch.manual_seed(sum(map(ord, name)))
    config = AutoConfig.for_model(name, **CONFIGS[name] | options)
    auto = getattr(transformers, f"AutoModel{task}")
    return auto.from_config(config, attn_implementation=kernel).double().eval()


def make_batch(name=""):
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[-1, 5:] = 0
    batch = {"input_ids": torch.randint(5, 60, (3, 7), generator=generator), "attention_mask": mask}
    if name in SEQ2SEQ:
        batch["decoder_input_ids"] = torch.randint(5, 60, (3, 5), generator=generator)
    return batch


def one_row(batch, row):
    return {key: value[row : row + 1] for key, value in batch.items()}


def shape_of(name, part):
    if part == "encoder":
        return (3, 4)
    return (2, 3) if name == "mbart" else (2, 4)


def random_gates(*shape, seed=2):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_mask(*shape, seed=2):
    mask = random_gates(*shape, seed=seed) > 0.4
    assert 0 < mask.sum() < mask.numel()
    return mask


@torch.no_grad()
def output(model, batch, gates=None, part="encoder"):
    with nullcontext() if gates is None else head_gates(model, gates, part=part):
        return model(**batch)[0]


def projections(model, part):
    """Paths of the output projections, found without the package."""
    ends = CROSS if part == "cross" else SELF
    paths = [path for path, _ in model.named_modules() if path.endswith(ends)]
    return [path for path in paths if path.startswith("decoder") == (part != "encoder")]


def with_scaled_columns(model, gates, part):
    """A copy whose output projections have their weights multiplied by the gates."""
    scaled = copy.deepcopy(model)
    for path, gate in zip(projections(model, part), gates, strict=True):
        weight = scaled.get_submodule(path).weight.data
        by_input = weight if scaled.config.model_type == "gpt2" else weight.T
        by_input *= gate.repeat_interleave(len(by_input) // len(gate)).unsqueeze(1)
    return scaled


def count_hooks(model):
    return sum(len(module._forward_pre_hooks) for module in model.modules())


@each_part
def test_shape(name, kernel, part):
    assert head_shape(shared_model(name, kernel), part=part) == shape_of(name, part)


@each_part
def test_ones_change_no_bit(name, kernel, part):
    model, batch, shape = shared_model(name, kernel), make_batch(name), shape_of(name, part)
    plain = output(model, batch)
    assert torch.equal(output(model, batch, torch.ones(shape), part), plain)
    assert torch.equal(output(model, batch, torch.ones(3, *shape, dtype=torch.bool), part), plain)


@each_part
def test_gates_equal_scaled_columns_and_zero_exactly(name, kernel, part):
    model, batch, shape = shared_model(name, kernel), make_batch(name), shape_of(name, part)
    mask, gates = random_mask(*shape), random_gates(*shape)
    zeroed, scaled = with_scaled_columns(model, mask, part), with_scaled_columns(model, gates, part)
    assert torch.equal(output(model, batch, mask, part), output(zeroed, batch))
    torch.testing.assert_close(output(model, batch, gates, part), output(scaled, batch), rtol=0, atol=1e-13)


@each_part
def test_a_changed_gate_changes_the_output(name, kernel, part):
    model, batch, (layers, heads) = shared_model(name, kernel), make_batch(name), shape_of(name, part)
    plain = output(model, batch)
    for layer in range(layers):
        gates = torch.ones(layers, heads)
        gates[layer, layer % heads] = 0
        assert not torch.equal(output(model, batch, gates, part), plain)
    check_gates(model, batch, part=part)


@each_part
def test_gates_and_gradients_of_an_example_are_its_own(name, kernel, part):
    model, batch = shared_model(name, kernel), make_batch(name)
    gates = random_gates(3, *shape_of(name, part)).requires_grad_()
    with head_gates(model, gates, part=part):
        together = model(**batch)[0]
        (gradients,) = torch.autograd.grad(together.square().sum(), gates)
    assert gradients.abs().min() > 0
    for row in range(3):
        gate = gates[row].detach().requires_grad_()
        with head_gates(model, gate, part=part):
            alone = model(**one_row(batch, row))[0]
            (gradient,) = torch.autograd.grad(alone.square().sum(), gate)
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-13)
        torch.testing.assert_close(gradients[row], gradient, rtol=1e-11, atol=1e-12)


@each_model
def test_without_heads_no_token_sees_another(name, kernel):
    model, batch = shared_model(name, kernel), make_batch(name)
    others = batch["input_ids"].roll(1, dims=0)
    others[:, 4] = batch["input_ids"][:, 4]

    def states(ids, gates):
        with torch.no_grad(), head_gates(model, gates):
            found = model(**batch | {"input_ids": ids})
        return found.get("encoder_last_hidden_state", found[0])[:, 4]

    full, none = torch.ones(3, 4), torch.zeros(3, 4)
    assert not torch.allclose(states(batch["input_ids"], full), states(others, full))
    assert torch.equal(states(batch["input_ids"], none), states(others, none))


@each_part
def test_hooks_are_always_removed(name, kernel, part):
    model, batch, shape = shared_model(name, kernel), make_batch(name), shape_of(name, part)
    before = count_hooks(model)
    with head_gates(model, torch.zeros(shape), part=part):
        assert count_hooks(model) == before + shape[0]
    with pytest.raises(KeyboardInterrupt), head_gates(model, torch.zeros(shape), part=part):
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="those of the 3 examples of the batch, got those of 2"):
        output(model, batch, torch.zeros(2, *shape), part)
    assert count_hooks(model) == before


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_gates_of_parts_nest(name):
    model, batch = shared_model(name), make_batch(name)
    masks = {part: random_mask(*shape_of(name, part)) for part in ("encoder", "decoder", "cross")}
    zeroed = model
    for part, mask in masks.items():
        zeroed = with_scaled_columns(zeroed, mask, part)
    with head_gates(model, masks["encoder"]), head_gates(model, masks["decoder"], part="decoder"):
        gated = output(model, batch, masks["cross"], "cross")
    assert torch.equal(gated, output(zeroed, batch))


def test_gates_of_the_same_part_multiply():
    model, batch, gates = shared_model("bert"), make_batch(), random_gates(3, 4)
    with head_gates(model, gates):
        twice = output(model, batch, gates)
    torch.testing.assert_close(twice, output(model, batch, gates**2), rtol=0, atol=1e-14)


@pytest.mark.parametrize("task", ["SequenceClassification", "TokenClassification", "MaskedLM"])
@pytest.mark.parametrize("name", ["xlm-roberta", "bert", "distilbert", "modernbert", "deberta-v2"])
def test_task_models(name, task):
    model, batch = new_model(name, task=f"For{task}"), make_batch()
    assert head_shape(model) == (3, 4)
    assert torch.equal(output(model, batch, torch.ones(3, 4)), output(model, batch))
    check_gates(model, batch)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_language_models(name):
    model, batch = new_model(name, "sdpa", task="ForCausalLM"), make_batch()
    assert torch.equal(output(model, batch, torch.ones(3, 4)), output(model, batch))
    check_gates(model, batch)


def test_models_inside_other_modules():
    model, batch, mask = shared_model("xlm-roberta"), make_batch(), random_mask(3, 4)
    tagger = nn.ModuleDict({"encoder": nn.ModuleList([model]), "classifier": nn.Linear(24, 7)})
    with head_gates(tagger, mask):
        inside = output(model, batch)
    assert torch.equal(inside, output(model, batch, mask))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_half_precision(kernel, dtype):
    model, batch, mask = new_model("xlm-roberta", kernel).to(dtype), make_batch(), random_mask(3, 4)
    gated = output(model, batch, mask.double())
    assert gated.dtype == dtype
    assert torch.equal(gated, output(with_scaled_columns(model, mask, "encoder"), batch))
    assert torch.equal(output(model, batch, torch.ones(3, 4)), output(model, batch))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gates_follow_the_device_of_the_model():
    model, mask = new_model("xlm-roberta", "sdpa").cuda(), random_mask(3, 4)
    batch = {key: value.cuda() for key, value in make_batch().items()}
    assert torch.equal(output(model, batch, mask), output(model, batch, mask.cuda()))


def test_gradients_equal_finite_differences():
    model, batch = shared_model("xlm-roberta", "sdpa"), make_batch()

    def loss(gates):
        with head_gates(model, gates):
            return model(**batch)[0].square().mean()

    assert torch.autograd.gradcheck(loss, random_gates(3, 4).requires_grad_())


def test_gradients_under_checkpointing():
    model, batch, gates = shared_model("bert"), make_batch(), random_gates(3, 4).requires_grad_()

    def gradient(run):
        with head_gates(model, gates):
            return torch.autograd.grad(run().square().mean(), gates)[0]

    def plain():
        return model(**batch)[0]

    torch.testing.assert_close(gradient(lambda: checkpoint(plain, use_reentrant=False)), gradient(plain))


def test_equals_masked_attention_probabilities(monkeypatch):
    """The former `head_mask` multiplied the probabilities before they met the values."""
    model, batch, mask = shared_model("xlm-roberta"), make_batch(), random_mask(3, 4)
    gated = output(model, batch, mask)
    gate_of_layer = iter(mask)

    def attention(module, query, key, value, attention_mask, scaling, **_options):
        scores = query @ key.transpose(2, 3) * scaling + attention_mask
        probabilities = scores.softmax(dim=-1) * next(gate_of_layer)[:, None, None]
        return (probabilities @ value).transpose(1, 2), probabilities

    source = "transformers.models.xlm_roberta.modeling_xlm_roberta.eager_attention_forward"
    monkeypatch.setattr(source, attention)
    torch.testing.assert_close(gated, output(model, batch), rtol=0, atol=1e-13)
    assert next(gate_of_layer, None) is None


def test_beam_search():
    model, batch = new_model("t5", "sdpa", task="ForSeq2SeqLM"), make_batch()
    options = {"num_beams": 2, "max_new_tokens": 4, "output_scores": True, "return_dict_in_generate": True}

    def scores(gates, part):
        with head_gates(model, gates, part=part):
            return torch.stack(model.generate(**batch, **options).scores)

    plain = torch.stack(model.generate(**batch, **options).scores)
    for part in ("encoder", "decoder", "cross"):
        ones = torch.ones(shape_of("t5", part))
        assert torch.equal(scores(ones, part), plain)
        assert not torch.equal(scores(ones * 0, part), plain)
    gates = random_gates(3, 4)
    assert torch.equal(scores(gates.expand(3, 3, 4), "encoder"), scores(gates, "encoder"))
    with pytest.raises(ValueError, match="those of the 6 examples of the batch, got those of 3"):
        scores(torch.ones(3, 2, 4), "decoder")


class FirstLayer(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, **batch):
        return (self.inner(**batch, output_hidden_states=True).hidden_states[1],)


def test_check_names_the_layers_without_effect():
    expected = r"got a FirstLayer whose output does not depend on those of layers \[1, 2\]"
    with pytest.raises(ValueError, match=expected):
        check_gates(FirstLayer(shared_model("bert")).eval(), make_batch())


def test_check_refuses_dropout():
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        check_gates(new_model("bert").train(), make_batch())


@each_removable
@pytest.mark.parametrize("kept", ["0100 0000 1111", "0000 0000 0000", "1111 1111 1111", "1010 0101 0011"])
def test_removal_computes_what_masking_computes(name, kernel, kept):
    model, batch = shared_model(name, kernel), make_batch(name)
    mask = torch.tensor([[head == "1" for head in layer] for layer in kept.split()])
    before = copy.deepcopy(model.state_dict())
    pruned = remove_heads(model, mask)
    torch.testing.assert_close(output(pruned, batch), output(model, batch, mask), rtol=0, atol=1e-14)
    # A head of width 6 has 24 · 6 weights in each of four projections, and 6 biases in three of them.
    removed = parameter_count(model) - parameter_count(pruned)
    assert removed == int((~mask).sum()) * (4 * 24 * 6 + 3 * 6)
    assert head_shape(model) == (3, 4)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@each_removable
def test_gradients_reach_all_that_is_left(name, kernel):
    mask = torch.tensor([[True, False, True, False], [False] * 4, [True] * 4])
    pruned = remove_heads(shared_model(name, kernel), mask)
    pruned(**make_batch(name))[0].square().sum().backward()
    paths = projections(pruned, "encoder")
    assert len(paths) == 3
    assert all(pruned.get_submodule(path).bias.grad.abs().sum() > 0 for path in paths)
    assert pruned.get_submodule(paths[1]).weight.shape == (24, 0)


def test_removal_from_separate_projections_of_positions():
    model, batch, mask = new_model("deberta-v2", share_att_key=False), make_batch(), random_mask(3, 4)
    assert "encoder.layer.0.attention.self.pos_key_proj.weight" in model.state_dict()
    pruned = remove_heads(model, mask)
    torch.testing.assert_close(output(pruned, batch), output(model, batch, mask), rtol=0, atol=1e-14)


def test_removal_equals_torch_pruning():
    pruning = pytest.importorskip("torch_pruning")
    model, batch, mask = shared_model("bert"), make_batch(), torch.ones(3, 4, dtype=torch.bool)
    mask[1, 2] = False
    oracle = copy.deepcopy(model)
    graph = pruning.DependencyGraph().build_dependency(oracle, batch)
    query, units = oracle.encoder.layer[1].attention.self.query, list(range(12, 18))
    graph.get_pruning_group(query, pruning.prune_linear_out_channels, units).prune()
    expected = oracle.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in remove_heads(model, mask).state_dict().items())


def test_pruned_task_model_trains_on():
    model = new_model("xlm-roberta", "sdpa", task="ForSequenceClassification").train()
    pruned = remove_heads(model, random_mask(3, 4))
    pruned(**make_batch(), labels=torch.tensor([0, 1, 0])).loss.backward()
    assert pruned.training
    assert all(parameter.grad is not None for parameter in pruned.parameters())


def test_frozen_parameters_stay_frozen():
    pruned = remove_heads(new_model("bert").requires_grad_(False), random_mask(3, 4))
    assert not any(parameter.requires_grad for parameter in pruned.parameters())


def test_hooks_by_which_transformers_hands_out_states_are_no_obstacle():
    model, batch, mask = new_model("bert").eval(), make_batch(), random_mask(3, 4)
    before = output(remove_heads(model, mask), batch)
    model(**batch, output_attentions=True, output_hidden_states=True)
    assert torch.equal(output(remove_heads(model, mask), batch), before)


def test_removal_draws_no_random_numbers():
    model, state = shared_model("bert"), torch.get_rng_state()
    remove_heads(model, random_mask(3, 4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", REMOVABLE)
def test_pruned_models_are_gated_while_their_layers_are_even(name):
    model, mask = shared_model(name), torch.ones(3, 4, dtype=torch.bool)
    mask[:, 1] = False
    even = remove_heads(model, mask)
    assert head_shape(even) == (3, 3)
    check_gates(even, make_batch(name))
    mask[0] = False
    with pytest.raises(
        ValueError, match=r"expected as many heads in each layer, got \[0, 3, 3\], as some were removed"
    ):
        head_shape(remove_heads(model, mask))


def test_tied_parameters_count_once():
    layer = nn.Linear(3, 4)
    assert parameter_count(nn.Sequential(layer, layer)) == 3 * 4 + 4


@pytest.mark.parametrize("shape", [(4, 3), (3, 3), (2, 4), (3, 3, 3), (1, 1, 3, 4)])
def test_wrong_shapes_are_explained(shape):
    expected = re.escape(f"gates: expected the shape (3, 4) or (batch, 3, 4) of this model's heads, got {shape}")
    with pytest.raises(ValueError, match=expected), head_gates(shared_model("bert"), torch.ones(shape)):
        pass


def test_wrong_masks_are_explained():
    expected = re.escape("mask: expected the shape (3, 4) of this model's heads, got (4, 3)") + "$"
    with pytest.raises(ValueError, match=expected):
        remove_heads(shared_model("bert"), torch.ones(4, 3, dtype=torch.bool))


def test_gates_are_finite():
    model, gates = shared_model("bert"), torch.ones(3, 4)
    gates[1, 2] = float("nan")
    with pytest.raises(ValueError, match="gates: expected finite numbers"), head_gates(model, gates):
        pass


def test_gates_of_one_example_do_not_serve_others():
    with pytest.raises(ValueError, match="those of the 3 examples of the batch, got those of 1"):
        output(shared_model("bert"), make_batch(), torch.ones(1, 3, 4))


def test_unsupported_architectures():
    """ConvBERT's projection mixes heads with convolutions."""
    model = AutoModel.from_config(AutoConfig.for_model("convbert", **SMALL, embedding_size=24))
    expected = (
        r"heads are known \(albert, .*\), got ConvBertModel \(convbert\); add its type with register_architecture$"
    )
    with pytest.raises(ValueError, match=expected):
        head_shape(model)


def test_no_transformer():
    with (
        pytest.raises(ValueError, match=r"a type whose heads are known .*, got Conv2d; add"),
        head_gates(nn.Conv2d(3, 3, 3), torch.ones(1, 1)),
    ):
        pass


@pytest.mark.parametrize(("name", "parts"), [("bert", "encoder"), ("t5", "encoder, decoder, cross")])
def test_unknown_part(name, parts):
    with pytest.raises(
        ValueError, match=rf"part: expected one of those that {name} models have \({parts}\), got 'self'"
    ):
        head_shape(shared_model(name), part="self")


def test_part_that_this_model_lacks():
    model = transformers.T5EncoderModel(AutoConfig.for_model("t5", **CONFIGS["t5"]))
    assert head_shape(model) == (3, 4)
    with pytest.raises(ValueError, match=r"a t5 model with cross attention at .*, got T5EncoderModel without it"):
        head_shape(model, part="cross")


def test_two_models_in_one():
    with pytest.raises(
        ValueError, match=r"expected one model, got ModuleList of several \(BertModel, RobertaModel\); pass"
    ):
        head_shape(nn.ModuleList([shared_model("bert"), shared_model("roberta")]))


def test_a_sharing_copy_has_the_models_own_weights_wherever_nothing_is_cut():
    model = shared_model("xlm-roberta")
    mask = random_mask(*shape_of("xlm-roberta", "encoder"))
    mask[0] = True
    small, apart = remove_heads(model, mask, share=True), remove_heads(model, mask)
    batch = make_batch("xlm-roberta")
    assert torch.equal(output(small, batch), output(apart, batch))
    own = {name: one.data_ptr() for name, one in model.named_parameters()}
    shared = {name for name, one in small.named_parameters() if one.data_ptr() == own[name]}
    assert any("layer.0.attention.self" in name for name in shared), "a layer that keeps all its heads"
    assert not any("layer.1.attention.self.query" in name for name in shared)
    assert not {one.data_ptr() for one in apart.parameters()} & set(own.values())


@pytest.mark.parametrize("name", sorted(set(REMOVABLE) & CONFIGS.keys()))
def test_head_weights_are_those_that_removal_leaves(name):
    model, mask = shared_model(name), random_mask(3, 4)
    found, parameters = head_weights(model, mask), dict(model.named_parameters())
    removed = dict(remove_heads(model, mask).named_parameters())
    cut = {one for one, value in parameters.items() if one not in removed or value.shape != removed[one].shape}
    assert cut and cut <= found.keys()
    for one, kept in found.items():
        if one in removed:
            assert torch.equal(parameters[one][kept].flatten(), removed[one].flatten())
    assert not any(kept.any() for kept in head_weights(model, torch.zeros_like(mask)).values())


class Unheard(nn.Module):
    """A model whose last layer projects without calling the projection, as a fused kernel does."""

    def __init__(self, model):
        super().__init__()
        self.inner = model
        dense = model.base_model.encoder.layer[-1].attention.output.dense
        dense.forward_without_hooks = dense.forward
        model.base_model.encoder.layer[-1].attention.output.forward = self._fused(
            model.base_model.encoder.layer[-1].attention.output
        )

    @staticmethod
    def _fused(output):
        return lambda states, given: output.LayerNorm(output.dense.forward_without_hooks(states) + given)

    def forward(self, **batch):
        return self.inner(**batch)


def test_gates_that_do_not_act_are_noticed():
    model, batch = Unheard(new_model("bert")).eval(), make_batch()
    with (
        pytest.raises(ValueError, match=r"does not depend on those of layers \[2\]"),
        head_gates(model, torch.ones(3, 4)),
    ):
        model(**batch)
    with head_gates(model, torch.ones(3, 4)):
        pass  # nothing ran


def test_hooks_of_others_stay_in_force():
    model, batch = new_model("bert").eval(), make_batch()
    half = torch.tensor([[True, False, True, True], [False, True, True, False], [True, True, True, True]])
    doubled = half.float() * 2
    output = model.base_model.encoder.layer[0].attention.output.dense

    def double(_module, inputs):
        return (2 * inputs[0],)

    with output.register_forward_pre_hook(double):
        with pytest.raises(ValueError, match="attention without hooks, got hooks in force"):
            remove_heads(model, half)
        with head_gates(model, half), torch.no_grad():
            hooked = model(**batch)[0]
    doubled[1:] = half[1:].float()
    with head_gates(model, doubled), torch.no_grad():
        assert torch.equal(hooked, model(**batch)[0])
