"""Stitched models equal those put together by hand; maps equal lstsq; nothing of the models is changed."""

import math
import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig

from xsub_utils.evaluation import scores as evaluate_module
from xsub_utils.evaluation.scores import evaluate
from xsub_utils.heads.gates import head_gates
from xsub_utils.models.architectures import reads_first_token_only
from xsub_utils.stitching import halves as sites
from xsub_utils.stitching import maps
from xsub_utils.stitching.halves import StateCache
from xsub_utils.stitching.maps import Stitched, stitch, stitch_fronts
from xsub_utils.stitching.scores import relative_accuracy, stitched_predictions, stitched_score

LAYERS, HEADS, CLASSES = 3, 4, 3
SMALL = {
    "vocab_size": 60,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 20,
    "max_position_embeddings": 40,
    "num_labels": CLASSES,
    "initializer_range": 0.3,
}
DISTILBERT = SMALL | {"dim": 24, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 20}
MODERN = SMALL | {"cls_token_id": 0, "sep_token_id": 2, "local_attention": 4, "global_attn_every_n_layers": 2}
CONFIGS = {"distilbert": DISTILBERT, "modernbert": MODERN}
MODELS = [
    ("bert", "BertForSequenceClassification"),
    ("bert", "BertForTokenClassification"),
    ("distilbert", "DistilBertForSequenceClassification"),
    ("modernbert", "ModernBertForMaskedLM"),
    ("modernbert", "ModernBertForSequenceClassification"),
    ("modernbert", "ModernBertForTokenClassification"),
    ("roberta", "RobertaForSequenceClassification"),
    ("xlm-roberta", "XLMRobertaForMaskedLM"),
    ("xlm-roberta", "XLMRobertaForSequenceClassification"),
    ("xlm-roberta", "XLMRobertaForTokenClassification"),
    ("xlm-roberta-xl", "XLMRobertaXLForSequenceClassification"),
]
each_model = pytest.mark.parametrize(("name", "kind"), MODELS)
each_level = pytest.mark.parametrize("level", range(LAYERS + 1))


def new_model(name="xlm-roberta", kind="XLMRobertaForSequenceClassification", seed=0, kernel="sdpa", **options):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(name, **CONFIGS.get(name, SMALL) | options)
    config.id2label = dict(enumerate(["O", "B-X", "I-X"]))
    model = getattr(transformers, kind)(config).double()
    model.set_attn_implementation(kernel)
    return model.train()  # with dropout, unless switched off


def make_batches(kind="ForSequenceClassification", sizes=(5, 4, 5), length=9, seed=1):
    """Rows of different lengths, padded; token labels are missing in places."""
    rng = torch.Generator().manual_seed(seed)
    batches = []
    for rows in sizes:
        ids = torch.randint(5, 60, (rows, length), generator=rng)
        mask = (torch.arange(length) < torch.randint(3, length + 1, (rows, 1), generator=rng)).long()
        classes = 60 if kind.endswith("MaskedLM") else CLASSES
        labels = torch.randint(classes, (rows, length), generator=rng)
        labels = labels.masked_fill((mask == 0) | (torch.rand(labels.shape, generator=rng) < 0.3), -100)
        if kind.endswith("SequenceClassification"):
            labels = torch.randint(classes, (rows,), generator=rng)
        batches.append({"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask, "labels": labels})
    return batches


def random_mask(seed=2):
    mask = torch.rand(LAYERS, HEADS, generator=torch.Generator().manual_seed(seed)) > 0.4
    assert 0 < mask.sum() < mask.numel()
    return mask


def metric_of(kind):
    return {"SequenceClassification": "accuracy"}.get(kind.partition("For")[2], "perplexity")


def layers_of(model):
    base = model.base_model
    if hasattr(base, "layers"):
        return base.layers
    return (base.transformer if hasattr(base, "transformer") else base.encoder).layer


def inputs_of(batch):
    return {name: values for name, values in batch.items() if name != "labels"}


@torch.no_grad()
def state(model, batch, level, gates=None):
    """Input of the layer after the level or, after the last, its output: hooks on the whole model."""
    model.eval()
    found = []
    with nullcontext() if gates is None else head_gates(model, gates):
        if level < LAYERS:
            hook = layers_of(model)[level].register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        else:
            hook = layers_of(model)[-1].register_forward_hook(lambda *call: found.append(call[2]))
        with hook:
            model(**inputs_of(batch))
    return found[0]


def logits_by_hand(front, end, level, batch, weight, bias, front_gates=None, end_gates=None):
    """Both models in full, the states of the end replaced on their way into the next layer."""
    mapped = state(front, batch, level, front_gates) @ weight.double().T + bias.double()
    end.eval()
    with nullcontext() if end_gates is None else head_gates(end, end_gates):
        if level < LAYERS:
            hook = layers_of(end)[level].register_forward_pre_hook(lambda _, inputs: (mapped, *inputs[1:]))
        else:
            hook = layers_of(end)[-1].register_forward_hook(lambda *_: mapped)
        with hook:
            return end(**inputs_of(batch)).logits


def loss_by_hand(logits, labels):
    return nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())


def snapshot(model):
    """What a user could find changed: modules, hooks, modes, gradients, weights."""
    return (
        [
            (name, id(module), module.training, len(module._forward_pre_hooks), len(module._forward_hooks))
            for name, module in model.named_modules()
        ],
        [(name, one.requires_grad, one.grad, one.double().sum().item()) for name, one in model.named_parameters()],
        model.config.to_dict(),
    )


def assert_same_map(found, expected, **tolerance):
    torch.testing.assert_close(found.weight, expected.weight, **tolerance)
    torch.testing.assert_close(found.bias, expected.bias, **tolerance)


# One model with itself


@each_model
def test_identity_stitch_with_itself_is_the_model_at_every_level(name, kind):
    model, batches, mask = new_model(name, kind), make_batches(kind), random_mask()
    for level in range(LAYERS + 1):
        check_identity(model, batches, metric_of(kind), level, {"front_gates": mask, "end_gates": mask})


def check_identity(model, batches, metric, level, same):
    mask = same["end_gates"]
    stitched = stitch(model, model, batches, level=level, init="identity", epochs=0, **same)
    score = stitched_score(stitched, model, model, batches, metric=metric, **same)
    whole = evaluate(model, batches, metric=metric, gates=mask)
    assert score == pytest.approx(whole, rel=1e-12)
    assert relative_accuracy(score, baseline=whole) == pytest.approx(1, abs=1e-12)
    for batch in batches:
        found = logits(stitched, model, model, batch, mask, mask)
        right = logits_by_hand(model, model, level, batch, torch.eye(24), torch.zeros(24), mask, mask)
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)


@each_model
def test_identity_reproduces_logits_bit_by_bit_where_all_tokens_are_read(name, kind):
    model, (batch, *_) = new_model(name, kind), make_batches(kind)
    exact = not reads_first_token_only(model)
    for level in range(LAYERS + 1):
        stitched = stitch(model, model, [batch], level=level, kind="linear", init="identity", epochs=0)
        assert stitched.bias is None
        found, right = logits(stitched, model, model, batch), model.eval()(**inputs_of(batch)).logits
        torch.testing.assert_close(found, right, rtol=0, atol=0 if exact else 1e-12)


@each_level
def test_least_squares_with_itself_is_the_identity_where_states_vary(level):
    model, batches = new_model(), make_batches(sizes=(40, 40), length=12)
    for kind in ("linear", "affine"):
        stitched = stitch(model, model, batches, level=level, kind=kind, epochs=0)
        for batch in batches:
            states, real = state(model, batch, level), batch["attention_mask"] == 1
            torch.testing.assert_close(stitched(states)[real], states[real], rtol=1e-6, atol=1e-6)
        assert (
            relative_accuracy(stitched_score(stitched, model, model, batches), baseline=evaluate(model, batches)) == 1
        )


def test_least_squares_with_itself_is_the_identity_at_full_rank():
    """States of ModernBERT have as many dimensions as features after a layer: no norm takes one away."""
    model = new_model("modernbert", "ModernBertForSequenceClassification")
    stitched = stitch(model, model, make_batches(sizes=(40, 40), length=12), level=1, epochs=0)
    torch.testing.assert_close(stitched.weight, torch.eye(24).double(), rtol=0, atol=1e-8)
    torch.testing.assert_close(stitched.bias, torch.zeros(24).double(), rtol=0, atol=1e-8)


# Two models


KERNELS = [(*model, "sdpa") for model in MODELS] + [(*MODELS[0], "eager"), (*MODELS[-2], "eager")]


@pytest.mark.parametrize(("name", "kind", "kernel"), KERNELS)
def test_stitched_logits_are_those_of_both_models_in_full(name, kind, kernel):
    front, end = new_model(name, kind, 1, kernel), new_model(name, kind, 2, kernel)
    gates = random_mask(3), torch.rand(LAYERS, HEADS)
    options = {"front_gates": gates[0], "end_gates": gates[1], "init": "random", "epochs": 0}
    for level in range(LAYERS + 1):
        stitched = stitch(front, end, make_batches(kind), level=level, **options)
        for batch in make_batches(kind, seed=5):
            right = logits_by_hand(front, end, level, batch, stitched.weight, stitched.bias, *gates)
            found = logits(stitched, front, end, batch, *gates)
            torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)


def logits(stitched, front, end, batch, front_gates=None, end_gates=None):
    cache = StateCache()
    pair = sites.Pair(cache.model(front, front_gates), cache.model(end, end_gates), stitched.level, cache)
    return pair.end.run(batch, stitched(pair.states(batch)), stitched.level)[1]


@pytest.mark.parametrize("kind", ["linear", "affine"])
def test_least_squares_map_is_that_of_lstsq_on_masked_states_without_padding(kind):
    front, end = new_model(seed=1), new_model("modernbert", "ModernBertForSequenceClassification")
    batches = make_batches(sizes=(30, 31))
    gates = {"front_gates": random_mask(3), "end_gates": random_mask(4)}
    found = stitch(front, end, batches, level=2, kind=kind, epochs=0, **gates)
    x, y = (
        torch.cat([state(model, one, 2, mask)[one["attention_mask"] == 1] for one in batches]).numpy()
        for model, mask in ((front, gates["front_gates"]), (end, gates["end_gates"]))
    )
    ones = np.ones((len(x), 1))
    right = np.linalg.lstsq(np.hstack([x, ones]) if kind == "affine" else x, y, rcond=1e-10)[0]
    mapped = found(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(mapped, np.hstack([x, ones]) @ right if kind == "affine" else x @ right, atol=1e-6)
    if kind == "linear":
        np.testing.assert_allclose(found.weight.numpy().T, right, atol=1e-5)


def test_map_of_least_norm_by_hand():
    x = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]).double()  # one direction; y = 2 x + 1
    weight, bias = maps._least_squares([(x[:2], 2 * x[:2, :1] + 1), (x[2:], 2 * x[2:, :1] + 1)], affine=True)
    torch.testing.assert_close(weight, torch.tensor([[1.0, 1.0]]).double())
    torch.testing.assert_close(bias, torch.tensor([1.0]).double())
    weight, bias = maps._least_squares([(x, 2 * x[:, :1])], affine=False)
    torch.testing.assert_close(weight, torch.tensor([[1.0, 1.0]]).double())
    assert bias.item() == 0


@each_level
@pytest.mark.parametrize("sizes", [(2,), (30, 30)])
def test_poor_states_give_no_large_maps(level, sizes):
    """A front without heads, or fewer tokens than features, in float32."""
    front, end = new_model(seed=1).float(), new_model(seed=2).float()
    none = torch.zeros(LAYERS, HEADS)
    stitched = stitch(front, end, make_batches(sizes=sizes, length=4), level=level, front_gates=none, epochs=0)
    assert stitched.weight.isfinite().all() and stitched.weight.abs().max() < 1000


def test_widths_tasks_depths_and_precisions_may_differ():
    front = new_model("bert", "BertForTokenClassification", hidden_size=16, num_hidden_layers=2).float()
    end, batches = new_model(), make_batches()
    for init in ("least_squares", "random"):
        stitched = stitch(front, end, batches, level=2, init=init, epochs=1)
        assert stitched.weight.shape == (24, 16) and stitched.weight.dtype == torch.float64
        assert 0 <= stitched_score(stitched, front, end, batches) <= 1
    half = stitch(front, end.bfloat16(), batches, level=2, epochs=1)
    assert half.weight.dtype == torch.float32


# Training


@pytest.mark.parametrize(("name", "kind"), [MODELS[1], MODELS[3], MODELS[8]])
@pytest.mark.parametrize("level", [0, 2, LAYERS])
def test_training_is_adam_on_both_models_in_full(name, kind, level):
    front, end, batches = new_model(name, kind, 1), new_model(name, kind, 2), make_batches(kind)
    gates = random_mask(3), random_mask(4)
    options = {"front_gates": gates[0], "end_gates": gates[1], "init": "random"}
    start = stitch(front, end, batches, level=level, epochs=0, **options)
    found = stitch(front, end, batches, level=level, epochs=3, lr=0.01, **options)
    weight, bias = (part.clone().requires_grad_() for part in (start.weight, start.bias))
    optimizer = torch.optim.Adam([weight, bias], 0.01)
    rng, losses = np.random.default_rng(0), []
    order = [i for _ in range(3) for i in rng.permutation(3)]
    for step in range(9):
        optimizer.param_groups[0]["lr"] = 1e-5 + (0.01 - 1e-5) * (1 + math.cos(math.pi * step / 9)) / 2
        batch = batches[order[step]]
        loss = loss_by_hand(logits_by_hand(front, end, level, batch, weight, bias, *gates), batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(found.weight, weight.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.bias, bias.detach(), rtol=1e-4, atol=1e-4)
    assert found.losses == pytest.approx(np.reshape(losses, (3, 3)).mean(1), rel=1e-4)


@pytest.mark.parametrize("kind", ["linear", "affine"])
def test_only_the_map_takes_gradients_and_models_stay_as_they_are(kind, monkeypatch):
    front, end = new_model(seed=1), new_model(seed=2)
    before = snapshot(front), snapshot(end)
    trained = []
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda parts, lr: trained.extend(parts) or adam(parts, lr))
    options = {"front_gates": random_mask(3), "end_gates": random_mask(4)}
    stitched = stitch(front, end, make_batches(), level=1, kind=kind, epochs=1, **options)
    assert [tuple(one.shape) for one in trained] == [(1, 24, 24), (1, 24)][: 1 + (kind == "affine")]
    assert all(one.grad is not None for one in trained)
    assert not stitched.weight.requires_grad
    stitched_predictions(stitched, front, end, make_batches(), **options)
    assert (snapshot(front), snapshot(end)) == before


@pytest.mark.parametrize("fails", [0, 3])
def test_models_stay_as_they_are_if_training_fails(fails):
    front, end, batches = new_model(seed=1), new_model(seed=2), make_batches(sizes=(3, 3, 3, 3))
    before = snapshot(front), snapshot(end)
    batches[fails] = batches[fails] | {"labels": torch.tensor([0, 1, 9])}
    with pytest.raises(ValueError, match="labels from 0 to 2, the classes of the model, got 9"):
        stitch(front, end, batches, level=1, front_gates=random_mask(), end_gates=random_mask(), epochs=2)
    assert (snapshot(front), snapshot(end)) == before


def test_training_learns_the_task():
    front, end, batches = new_model(seed=1), new_model(seed=2), make_batches()
    stitched = stitch(front, end, batches, level=1, init="random", epochs=40, lr=0.03)
    assert stitched.losses[-1] < 0.5 * stitched.losses[0]
    assert stitched_score(stitched, front, end, batches) > 0.7


def test_seeds_decide_everything():
    front, end, batches = new_model(seed=1), new_model(seed=2), make_batches()
    maps_of = {seed: stitch(front, end, batches, level=1, init="random", epochs=2, seed=seed) for seed in (0, 1)}
    torch.manual_seed(99)
    assert_same_map(stitch(front, end, batches, level=1, init="random", epochs=2), maps_of[0], rtol=0, atol=0)
    assert not torch.allclose(maps_of[0].weight, maps_of[1].weight)
    orders = [stitch(front, end, batches, level=1, epochs=2, seed=seed).weight for seed in (0, 1)]
    assert not torch.equal(*orders)


def test_batches_are_in_another_order_in_each_epoch():
    batches = [{"number": torch.tensor(number)} for number in range(9)]
    numbers = torch.stack([batch["number"] for batch in maps._order(batches, 4, 0)]).view(4, 9)
    assert len(numbers.unique(dim=0)) == 4
    assert (numbers.sort().values == torch.arange(9)).all()


def test_batches_without_labels_that_count_are_left_out():
    model, batches = new_model("bert", "BertForTokenClassification"), make_batches("ForTokenClassification")
    none = batches[0] | {"labels": torch.full_like(batches[0]["labels"], -100)}
    stitched = stitch(model, model, [none, batches[1]], level=1, init="identity", epochs=2)
    assert_same_map(stitched, stitch(model, model, [batches[1]], level=1, init="identity", epochs=2))


# Sharing


def test_cache_shares_states_and_changes_nothing(monkeypatch):
    front, end, batches, mask = new_model(seed=1), new_model(seed=2), make_batches(), random_mask()
    reads = []
    read = sites.CutModel.read
    monkeypatch.setattr(sites.CutModel, "read", lambda self, *what: reads.append(self) or read(self, *what))
    cache = StateCache(levels=range(LAYERS + 1))
    for level in range(LAYERS + 1):
        for gates in (None, mask, mask.clone(), mask.float()):
            options = {"front_gates": mask, "end_gates": gates, "epochs": 2}
            shared = stitch(front, end, batches, level=level, cache=cache, **options)
            count = len(reads)
            assert_same_map(shared, stitch(front, end, batches, level=level, **options), rtol=0, atol=0)
            del reads[count:]
    assert len(reads) == 3 * len(batches)  # the front, and the end with and without its mask
    tokens = sum(batch["input_ids"].numel() for batch in batches)
    assert cache.bytes == 3 * (LAYERS + 1) * tokens * 24 * 8


@pytest.mark.parametrize("room", [0, 20_000, 50_000])
def test_a_small_cache_keeps_to_its_size_and_gives_the_same_maps(room):
    model, batches = new_model(seed=1), make_batches()
    for levels in ((), range(LAYERS + 1)):
        cache = StateCache(room, levels)
        for level in (0, 2):
            options = {"front_gates": random_mask(), "epochs": 2}
            found = stitch(model, model, batches, level=level, cache=cache, **options)
            assert_same_map(found, stitch(model, model, batches, level=level, **options), rtol=0, atol=0)
            assert cache.bytes <= room
            scores = [
                stitched_score(found, model, model, batches, metric="accuracy", cache=one) for one in (cache, None)
            ]
            assert scores[0] == scores[1]


def test_gates_given_while_others_are_in_force_multiply():
    model, batches = new_model(), make_batches()
    a, b = random_mask(3), random_mask(4)
    with head_gates(model, a):
        found = stitch(model, model, batches, level=2, front_gates=b, epochs=1)
    assert_same_map(found, stitch(model, model, batches, level=2, front_gates=a & b, end_gates=a, epochs=1))


def test_fronts_trained_together_are_those_trained_alone():
    kind = "BertForTokenClassification"
    end, batches = new_model("bert", kind, 1), make_batches(kind)
    fronts = [(end, random_mask()), (new_model(seed=2), None), (new_model("bert", kind, 3), random_mask(4))]
    options = {"end_gates": random_mask(5), "epochs": 3, "lr": 1e-2}
    for level, affine in ((1, "affine"), (LAYERS, "linear")):
        together = stitch_fronts(fronts, end, batches, level=level, kind=affine, **options)
        for (front, gates), found in zip(fronts, together, strict=True):
            alone = stitch(front, end, batches, level=level, kind=affine, front_gates=gates, **options)
            torch.testing.assert_close(found.weight, alone.weight, rtol=1e-8, atol=1e-8)
            assert found.losses == pytest.approx(alone.losses) and (found.bias is None) == (affine == "linear")


def test_fronts_together_have_one_width_and_are_named_when_they_diverge():
    wide, end = new_model(hidden_size=32), new_model(seed=1)
    with raises("fronts: expected states of one width in a call, got [24, 32] features"):
        stitch_fronts([(wide, None), (end, None)], end, make_batches(), level=1, epochs=1)
    assert len(stitch_fronts([(wide, None), (end, None)], end, make_batches(), level=1, epochs=0)) == 2
    with raises("fronts: expected at least one front, got none"):
        stitch_fronts([], end, make_batches(), level=1)
    with raises("lr: expected a rate at which training converges, got 1e+308 with mean losses from front 0 of the"):
        stitch_fronts([(end, None), (end, None)], end, make_batches(), level=1, lr=1e308, epochs=3)


def test_a_full_cache_reads_no_more_than_is_asked_for(monkeypatch):
    model, batches = new_model(), make_batches()
    size = max(batch["input_ids"].numel() for batch in batches) * 24 * 8
    cache = StateCache((LAYERS + 2) * size, range(LAYERS + 1))
    wanted = []
    read = sites.CutModel.read
    monkeypatch.setattr(
        sites.CutModel, "read", lambda self, b, levels: wanted.append(len(levels)) or read(self, b, levels)
    )
    for batch in batches * 2:
        cache.states(cache.model(model, None), batch, 1)
    assert wanted == [LAYERS + 1, LAYERS + 1, 1, 1, 1][: len(wanted)] and cache.bytes <= cache.max_bytes


def test_maps_to_begin_with_have_to_fit():
    front, end, batches = new_model(seed=1), new_model(seed=2), make_batches()
    affine, linear = (stitch(front, end, batches, level=1, kind=kind, epochs=0) for kind in ("affine", "linear"))
    again = stitch(front, end, batches, level=1, init=affine, epochs=2)
    assert_same_map(again, stitch(front, end, batches, level=1, epochs=2), rtol=0, atol=0)
    assert stitch(front, end, batches, level=1, init=linear, epochs=1).bias is None
    fronts = [(front, None)] * 2
    for init in ([affine, linear], [affine], [stitch(front, end, batches, level=2, epochs=0)] * 2):
        with raises("init: expected for each of 2 fronts a map of level, end, front (1, 24, 24), all of one kind, got"):
            stitch_fronts(fronts, end, batches, level=1, init=init)
    with raises("of one kind, got 1 maps of level, end, front, linear [(1, 24, 24, False)]"):
        stitch(new_model(hidden_size=32), end, batches, level=1, init=affine, epochs=0)


def test_heads_are_removed_from_the_copy_alone():
    model, mask = new_model(), random_mask()
    mask[-1] = False  # the layer that reads its first query alone
    cut = sites.CutModel(model, mask)
    assert sum(one.numel() for one in cut.model.parameters()) < sum(one.numel() for one in model.parameters())
    mine = {one.data_ptr() for one in model.parameters()}
    whole = [one for one in cut.model.parameters() if one.data_ptr() in mine]
    assert len(whole) > len(mine) / 2, "what is not cut is shared"
    stitched = stitch(
        model, model, make_batches(), level=1, front_gates=mask, end_gates=mask, init="identity", epochs=0
    )
    options = {"front_gates": mask, "end_gates": mask}
    outputs, _ = stitched_predictions(stitched, model, model, make_batches(), **options)
    right, _ = evaluate_module.predictions(model, make_batches(), gates=mask)
    assert all(torch.equal(one, other) for one, other in zip(outputs, right, strict=True))


# Scores


def test_scores_are_those_of_the_predictions():
    kind = "BertForTokenClassification"
    front, end, batches = new_model("bert", kind, 1), new_model("bert", kind, 2), make_batches(kind)
    stitched = stitch(front, end, batches, level=1, epochs=0)
    outputs, labels = stitched_predictions(stitched, front, end, batches, metric="token_accuracy")
    hits = [(guess == gold)[gold != -100] for guess, gold in zip(outputs, labels, strict=True)]
    score = stitched_score(stitched, front, end, batches, metric="token_accuracy")
    assert score == pytest.approx(torch.cat(hits).double().mean().item())
    assert 0 <= stitched_score(stitched, front, end, batches, metric="f1") <= 1


def test_relative_accuracy_by_hand():
    assert relative_accuracy(0.6, baseline=0.8) == pytest.approx(0.75)
    assert relative_accuracy(0.9, baseline=0.6) == pytest.approx(1.5)
    assert relative_accuracy(0.6, baseline=0.8, chance=0.5) == pytest.approx(1 / 3)
    assert relative_accuracy(0.4, baseline=0.8, chance=0.5) == pytest.approx(-1 / 3)
    assert math.isnan(relative_accuracy(0.5, baseline=0.0))
    assert math.isnan(relative_accuracy(0.5, baseline=0.5, chance=0.5))
    assert math.isnan(relative_accuracy(0.5, baseline=0.4, chance=0.5))


# Errors


def raises(message):
    return pytest.raises(ValueError, match=re.escape(message))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "afine"}, "kind: expected one of linear, affine, got 'afine'; did you mean 'affine'?"),
        ({"init": "pinv"}, "init: expected one of least_squares, identity, random, got 'pinv'"),
        ({"epochs": -1}, "epochs: expected at least 0, got -1"),
        ({"lr": 0.0}, "lr: expected a finite number above 0, got 0.0"),
        ({"lr": math.nan}, "lr: expected a finite number above 0, got nan"),
        ({"level": 4}, "expected 0 (embeddings) to 3, as XLMRobertaForSequenceClassification has 3 layers, got 4"),
        ({"level": -1}, "as XLMRobertaForSequenceClassification has 3 layers, got -1"),
        ({"batches": []}, "batches: expected at least one batch, got none"),
        ({"front_gates": torch.ones(2, 4)}, "of this model's heads, got (2, 4)"),
        ({"end_gates": torch.ones(3, 5)}, "of this model's heads, got (3, 5)"),
    ],
)
def test_bad_options_are_refused(options, message):
    arguments = {"level": 1, "batches": make_batches(), "epochs": 0} | options
    with raises(message):
        stitch(new_model(), new_model(), **arguments)


@pytest.mark.parametrize("call", [stitch, stitched_score, stitched_predictions])
def test_misspelt_options_are_refused(call):
    model, batches = new_model(), make_batches()
    between = () if call is stitch else (stitch(model, model, batches, level=1, epochs=0),)
    where = {"level": 1} if call is stitch else {}
    with pytest.raises(TypeError, match="fronts_gates"):
        call(*between, model, model, batches, fronts_gates=random_mask(), **where)


def test_unfit_models_are_refused():
    batches, model = make_batches(), new_model()
    with raises(
        "init: expected 'least_squares' or 'random' from 16 features of the front to 24 of the end, got 'identity'"
    ):
        stitch(new_model(hidden_size=16), model, batches, level=1, init="identity")
    with raises("level: expected 0 (embeddings) to 2, as BertModel has 2 layers, got 3"):
        stitch(new_model("bert", "BertModel", num_hidden_layers=2), model, batches, level=3)
    with raises("end: expected a model with a task head, got XLMRobertaModel"):
        stitch(model, model.base_model, batches, level=1)
    with raises("xlm-roberta, xlm-roberta-xl), got gpt2; stitch one of those"):
        stitch(new_model("gpt2", "GPT2Model"), model, batches, level=1)
    with raises("xlm-roberta, xlm-roberta-xl), got Linear; stitch one of those"):
        stitch(nn.Linear(2, 2), model, batches, level=1)


def test_unfit_batches_are_refused():
    model, (batch, *_) = new_model(), make_batches()
    stitched = stitch(model, model, [inputs_of(batch)], level=1, epochs=0)  # needs no labels
    cases = [
        (batch | {"labels": torch.full((5,), 3)}, "labels from 0 to 2, the classes of the model, got 3"),
        (batch | {"labels": torch.zeros(5, 9).long()}, "of shape (5, 3), got those of shape (5, 9) and torch.int64"),
        (batch | {"labels": torch.zeros(5)}, "of shape (5, 3), got those of shape (5,) and torch.float32"),
        (inputs_of(batch), "batches: expected dicts that hold 'labels', got only ['attention_mask', 'input_ids']"),
    ]
    for level in (1, LAYERS):
        for bad, message in cases:
            with raises(message):
                stitch(model, model, [bad], level=level)
            with raises(message):
                stitched_score(Stitched(level, stitched.weight, stitched.bias), model, model, [bad])
    with raises("batches: expected at least one label that counts, got -100 everywhere"):
        stitch(model, model, [batch | {"labels": torch.full((5,), -100)}], level=1)
    with raises("batches: expected at least one token, got an attention_mask that is 0 for all"):
        stitch(model, model, [batch | {"attention_mask": torch.zeros(5, 9).long()}], level=1)
    with raises("batches: expected at least one batch, got none"):
        stitched_score(stitched, model, model, [])


def test_divergence_and_room_below_zero_are_refused():
    model = new_model()
    with raises("lr: expected a rate at which training converges, got 1e+308 with mean losses of the epochs ["):
        stitch(model, model, make_batches(), level=LAYERS, lr=1e308, epochs=3)
    with raises("a rate at which training converges"):  # in the only step
        stitch(model, model, make_batches()[:1], level=LAYERS, lr=1e308, epochs=1)
    with raises("max_bytes: expected 0 or more, got -1"):
        StateCache(-1)
