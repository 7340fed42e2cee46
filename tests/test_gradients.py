"""Forms of gradients, projections, groups, memory and what is kept on disk: each gives the scores of the plain way."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from test_tracin import (
    MASK,
    TAGGER,
    Affine,
    Unusual,
    assert_equal,
    assert_right,
    gradients,
    make_batches,
    new_model,
    points,
    quiet_influence,
    random_weight_masks,
)
from torch import nn

from xsub_utils.attribution.options import InfluenceOptions
from xsub_utils.attribution.projection import Projection
from xsub_utils.attribution.top_k import top_examples, top_shares
from xsub_utils.gradients import factors
from xsub_utils.gradients.capture import example_loss
from xsub_utils.gradients.factors import Outer, Rows, Vector, added, inner, joined
from xsub_utils.gradients.parameter_groups import chosen_parameters, parameter_group
from xsub_utils.gradients.per_example import example_gradients

TOKENS, WIDTH = 9, 6
FORMS = ("vector", "outer", "rows")


def random_gradients(form, examples=4, positions=5, seed=0):
    """Gradients of a matrix (TOKENS, WIDTH), with positions and tokens that no gradient reaches."""
    rng = torch.Generator().manual_seed(seed)
    if form == "vector":
        return Vector(torch.randn(examples, TOKENS * WIDTH, generator=rng, dtype=torch.float64))
    values = torch.randn(examples, positions, WIDTH, generator=rng, dtype=torch.float64)
    unused = torch.rand(examples, positions, 1, generator=rng) < 0.3
    if form == "outer":
        rows = torch.randn(examples, positions, TOKENS, generator=rng, dtype=torch.float64)
        return Outer(rows.masked_fill(unused, 0), values)
    token = torch.randint(TOKENS, (examples, positions), generator=rng)
    example = torch.arange(examples)[:, None].expand_as(token)
    return Rows.summed(
        example.flatten(), token.flatten(), values.masked_fill(unused, 0).flatten(0, 1), examples, TOKENS
    )


def dense(gradients):
    """(examples, TOKENS · WIDTH), written out entry by entry."""
    if isinstance(gradients, Vector):
        return gradients.values
    if isinstance(gradients, Outer):
        return torch.einsum("npt,npw->ntw", gradients.rows, gradients.columns).flatten(1)
    found = gradients.values.new_zeros(len(gradients), TOKENS, WIDTH)
    for example, token, values in zip(gradients.example, gradients.token, gradients.values, strict=True):
        found[example, token] += values
    return found.flatten(1)


# Forms of gradients


@pytest.mark.parametrize("form", FORMS)
def test_inner_products_norms_and_sums(form):
    x, y = random_gradients(form), random_gradients(form, 3, 7, seed=1)
    assert_equal(inner(x, y), dense(x) @ dense(y).T, 1e-13)
    assert_equal(x.squared_norms(), dense(x).square().sum(1), 1e-13)
    assert_equal(dense(joined([x, y, x])), torch.cat([dense(x), dense(y), dense(x)]), 0)
    assert_equal(dense(added([x, random_gradients(form, 4, 7, seed=1)])),
                 dense(x) + dense(random_gradients(form, 4, 7, seed=1)), 1e-13)  # fmt: skip
    assert len(x) == 4 and len(joined([x, y, x])) == 11


@pytest.mark.parametrize(("block", "pairs"), [(1, 2**16), (10**9, 3), (6, 2)])
def test_frequent_and_rare_tokens_are_multiplied_alike(block, pairs, monkeypatch):
    monkeypatch.setattr(factors, "_BLOCK", block)
    monkeypatch.setattr(factors, "_PAIRS", pairs)
    x, y = random_gradients("rows", 6, 8), random_gradients("rows", 5, 9, seed=1)
    assert_equal(inner(x, y), dense(x) @ dense(y).T, 1e-13)
    others = Rows(y.example, y.token + TOKENS, y.values, 5, 2 * TOKENS)
    assert_equal(inner(x, others), torch.zeros(6, 5).double())


def test_rows_are_sorted_distinct_and_not_zero():
    token = torch.tensor([7, 2, 7, 2, 2, 5])
    example = torch.tensor([0, 0, 0, 1, 1, 2])
    values = torch.tensor([1.0, 2, 3, 4, 5, 0])[:, None].expand(-1, 2)
    found = Rows.summed(example, token, values, 3, TOKENS)
    assert found.token.tolist() == [2, 2, 7] and found.example.tolist() == [0, 1, 0]
    assert found.values[:, 0].tolist() == [2, 9, 4] and len(found) == 3


def test_uses_of_different_kinds_add_up():
    """Tied weights: an embedding, and a linear layer."""
    rows, outer, vector = (random_gradients(form) for form in ("rows", "outer", "vector"))
    assert_equal(dense(added([outer, rows])), dense(outer) + dense(rows), 1e-13)
    assert_equal(dense(added([outer, vector, outer])), 2 * dense(outer) + dense(vector), 1e-13)
    assert_equal(dense(rows.as_outer()), dense(rows), 0)


@pytest.mark.parametrize("form", ["vector", "rows"])
def test_pooled_and_masked(form):
    gradients, rng = random_gradients(form), torch.Generator().manual_seed(3)
    weights = torch.randn(2, 4, generator=rng, dtype=torch.float64)
    assert_equal(dense(gradients.pooled(weights)), weights @ dense(gradients), 1e-13)
    mask = torch.rand(TOKENS, WIDTH, generator=rng) > 0.5
    assert_equal(dense(gradients.masked(mask)), dense(gradients) * mask.flatten(), 0)


def test_factors_without_positions_that_do_not_count():
    gradients = random_gradients("outer")
    most = int((gradients.rows != 0).any(-1).sum(1).max())
    gradients = Outer(
        torch.cat([torch.zeros(4, 3, TOKENS), gradients.rows], 1),
        torch.cat([torch.ones(4, 3, WIDTH), gradients.columns], 1),
    )
    found = gradients.compact()
    assert found.rows.shape == (4, most, TOKENS) and found.columns.shape == (4, most, WIDTH)
    assert_equal(dense(found), dense(gradients), 1e-13)
    assert_equal(gradients.written_out().values, dense(gradients), 1e-13)
    assert_equal(gradients.written_out(torch.empty(4, TOKENS * WIDTH).double()).values, dense(gradients), 1e-13)


def test_sums_of_half_precision_are_kept_in_float32():
    """In bfloat16 a sum of ones ends at 256."""
    ones = torch.ones(1, 1000, 3, dtype=torch.bfloat16)
    assert Vector(ones[..., 0]).squared_norms().item() == pytest.approx(1000, rel=1e-6)
    outer = Outer(ones, ones)
    assert outer.squared_norms().item() == inner(outer, outer).item() == 9e6
    rows = Rows(torch.zeros(1000, dtype=torch.long), torch.arange(1000), ones[0], 1, 1000)
    assert rows.squared_norms().item() == inner(rows, rows).item() == 3000


def test_the_form_is_that_of_fewer_operations(monkeypatch):
    chosen, is_smaller = [], Outer.is_smaller
    monkeypatch.setattr(Outer, "is_smaller", lambda *given: chosen.append(is_smaller(*given)) or chosen[-1])
    data = [{name: batch[name] for name in ("input_ids", "labels")} for batch in make_batches(length=3)]
    assert_right([Unusual(width=64)], data, data[:1])
    assert set(chosen) == {True, False}
    one, many = (Outer(*torch.zeros(2, 1, positions, 512)) for positions in (1, 512))
    assert is_smaller(one, 1) and not is_smaller(many, 512)


def test_bfloat16_is_close():
    model, train, test = new_model(*TAGGER), make_batches(TAGGER[1]), make_batches(TAGGER[1], (5,), seed=2)
    exact, half = (quiet_influence([model], train, test, dtype=dtype).scores for dtype in (None, torch.bfloat16))
    assert 1e-6 < (exact - half).abs().max() < 1e-2


# Projections


def test_projected_inner_products_are_right_in_the_mean():
    x, y = random_gradients("outer"), random_gradients("outer", 3, 7, seed=1)
    drawn = torch.stack([inner(*(Projection(3, seed)("w", gradients) for gradients in (x, y))) for seed in range(300)])
    errors = (drawn.mean(0) - inner(x, y)) / (drawn.std(0) / 300**0.5)
    assert errors.abs().max() < 4
    rows, others = random_gradients("rows"), random_gradients("rows", 3, 7, seed=1)
    drawn = torch.stack(
        [inner(*(Projection(3, seed)("w", gradients) for gradients in (rows, others))) for seed in range(300)]
    )
    assert ((drawn.mean(0) - inner(rows, others)).abs() <= 4 * drawn.std(0) / 300**0.5).all()


def test_projections_depend_on_seed_name_and_side_alone():
    gradients = random_gradients("outer")
    first = Projection(4, 1)("w", gradients)
    torch.manual_seed(5)
    again = Projection(4, 1)("w", gradients)
    assert first.rows.shape == (4, 5, 4) and first.columns.shape == (4, 5, 4)
    assert torch.equal(first.rows, again.rows) and torch.equal(first.columns, again.columns)
    assert not torch.allclose(Projection(4, 2)("w", gradients).rows, first.rows)
    assert not torch.allclose(Projection(4, 1)("v", gradients).rows, first.rows)
    square = Outer(gradients.columns, gradients.columns)
    assert not torch.allclose(*vars(Projection(4, 1)("w", square)).values())
    assert Projection(4)("w", vector := random_gradients("vector")).values is vector.values
    assert Projection(WIDTH)("w", gradients).columns is gradients.columns


@functools.cache
def projected(size, seed=0, **options):
    """24 training and 8 test examples."""
    batches = (make_batches(sizes=(8, 8, 8)), make_batches(sizes=(5, 3), seed=2))
    train, test = ([{name: batch[name] for name in ("input_ids", "labels")} for batch in side] for side in batches)
    return quiet_influence([Unusual(width=64)], train, test, projection=size, seed=seed, **options)


def test_projected_scores_are_close_and_repeatable():
    exact, found = projected(None).scores, projected(16).scores
    assert np.corrcoef(exact.flatten(), found.flatten())[0, 1] > 0.95
    assert not torch.allclose(exact, found, atol=1e-3)
    state = torch.get_rng_state()
    torch.manual_seed(7)
    assert torch.equal(projected.__wrapped__(16).scores, found)
    torch.set_rng_state(state)
    assert not torch.allclose(projected(16, seed=1).scores, found, atol=1e-3)
    assert_equal(projected(192).scores, exact)


def test_the_first_and_last_are_scored_again_exactly():
    exact, estimated, found = projected(None), projected(4), projected(4, rescore=2)
    ends = torch.cat([top_examples(estimated.scores, count=2), top_examples(estimated.scores, count=2, lowest=True)], 1)
    marked = [i in ends for i in range(24)]
    assert 4 <= sum(marked) < 24 and projected(4).exact is None
    assert found.exact.tolist() == [marked] * 8
    assert_equal(found.scores[found.exact], exact.scores[found.exact])
    assert torch.equal(found.scores[~found.exact], estimated.scores[~found.exact])
    assert not torch.allclose(estimated.scores[found.exact], exact.scores[found.exact], atol=1e-3)
    assert_equal(projected(4, rescore=100).scores, exact.scores)


# Means of test examples, and memory


@pytest.mark.parametrize("normalize", [True, False])
def test_scores_of_groups_are_those_of_their_mean_gradients(normalize):
    models, train, test = (
        [new_model(*TAGGER, seed) for seed in range(2)],
        make_batches(TAGGER[1]),
        make_batches(TAGGER[1], seed=2),
    )
    labels = ["b", 1, "b", ("a", 2), "b", 1, "b"]
    right = 0
    for model in models:
        rows, others = gradients(model, test, MASK), gradients(model, train, MASK)
        rows, others = (nn.functional.normalize(side) if normalize else side for side in (rows, others))
        right += torch.stack([rows[[0, 2, 4, 6]].mean(0), rows[[1, 5]].mean(0), rows[3]]) @ others.T
    found = quiet_influence(models, train, test, gates=MASK, normalize=normalize, test_groups=labels)
    assert_equal(found.scores, right)
    assert_equal(
        quiet_influence(models, train, test, gates=MASK, normalize=normalize, test_groups=labels, projection=60).scores,
        right,
    )


def test_little_memory_means_several_turns_with_the_same_scores(tmp_path):
    model, train, test = new_model(*TAGGER), make_batches(TAGGER[1]), make_batches(TAGGER[1], (3, 2), seed=2)
    whole = quiet_influence([model], train, test, out=tmp_path / "whole").scores
    with pytest.raises(ValueError, match=r"memory: expected at least .* bytes") as error:
        quiet_influence([model], train, test, memory=1.0)
    least = float(re.search("at least (.*) bytes", str(error.value))[1])
    with pytest.raises(ValueError, match="memory: expected"):
        quiet_influence([model], train, test, memory=0.9 * least)
    turns = {}
    for factor in (1.02, 1.3):
        out = tmp_path / str(factor)
        assert_equal(quiet_influence([model], train, test, memory=factor * least, out=out).scores, whole, 1e-12)
        turns[factor] = len(list(out.iterdir()))
    assert turns[1.02] == 5 and 1 < turns[1.3] < 5 and len(list((tmp_path / "whole").iterdir())) == 1


PEAK = """
import re
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from xsub_utils.attribution.options import InfluenceOptions
from xsub_utils.attribution.tracin import influence


class Wide(nn.Sequential):
    def forward(self, x):
        return SimpleNamespace(logits=super().forward(x).mean(1))


def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])


torch.set_num_threads(1)
torch.manual_seed(0)
model = Wide(*(nn.Linear(400, 400) for _ in range(4)))
train, test = ([{"x": torch.randn(n, 16, 400), "labels": torch.arange(n)}] for n in (8, 160))
influence([model], train, [{name: values[:8] for name, values in test[0].items()}], progress=False)
for memory in (1e8, 4e9):
    before = peak()
    influence([model], train, test, options=InfluenceOptions(memory=memory), progress=False)
    print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the peak of a process, as Linux keeps it")
def test_memory_stays_near_what_was_given():
    """100 MB were given; the gradients of all test examples take 410 MB."""
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc then gives back whatever is free
    run = subprocess.run([sys.executable, "-c", PEAK], check=True, capture_output=True, text=True, env=env)
    little, much = map(int, run.stdout.split())
    assert little < 1.4e8 and much > 3e8


# Groups of parameters


GROUPS = {
    "BertForMaskedLM": {
        "bert.embeddings.LayerNorm.bias": "embeddings",
        "bert.encoder.layer.1.attention.output.LayerNorm.weight": "layer 2 attention",
        "bert.encoder.layer.0.output.LayerNorm.weight": "layer 1 feed-forward",
        "cls.predictions.transform.dense.weight": "head",
        "cls.predictions.bias": "head",
    },
    "BertForSequenceClassification": {"bert.pooler.dense.weight": "head"},
    "DistilBertForSequenceClassification": {
        "distilbert.embeddings.position_embeddings.weight": "embeddings",
        "distilbert.transformer.layer.1.sa_layer_norm.weight": "layer 2 attention",
        "distilbert.transformer.layer.1.attention.out_lin.bias": "layer 2 attention",
        "distilbert.transformer.layer.0.ffn.lin1.weight": "layer 1 feed-forward",
        "distilbert.transformer.layer.0.output_layer_norm.bias": "layer 1 feed-forward",
        "pre_classifier.weight": "head",
    },
    "ElectraForSequenceClassification": {
        "electra.embeddings_project.weight": "embeddings",
        "electra.encoder.layer.1.intermediate.dense.weight": "layer 2 feed-forward",
        "classifier.out_proj.bias": "head",
    },
    "GPT2ForTokenClassification": {
        "transformer.wte.weight": "embeddings",
        "transformer.wpe.weight": "embeddings",
        "transformer.h.0.ln_1.weight": "layer 1 attention",
        "transformer.h.0.attn.c_attn.weight": "layer 1 attention",
        "transformer.h.1.ln_2.bias": "layer 2 feed-forward",
        "transformer.h.1.mlp.c_proj.weight": "layer 2 feed-forward",
        "transformer.ln_f.weight": "head",
        "classifier.weight": "head",
    },
    "ModernBertForMaskedLM": {
        "model.embeddings.tok_embeddings.weight": "embeddings",
        "model.embeddings.norm.weight": "embeddings",
        "model.layers.1.attn_norm.weight": "layer 2 attention",
        "model.layers.0.attn.Wqkv.weight": "layer 1 attention",
        "model.layers.0.mlp_norm.weight": "layer 1 feed-forward",
        "model.layers.1.mlp.Wi.weight": "layer 2 feed-forward",
        "model.final_norm.weight": "head",
        "head.dense.weight": "head",
        "decoder.bias": "head",
    },
    "XLMRobertaForMaskedLM": {
        "roberta.embeddings.position_embeddings.weight": "embeddings",
        "roberta.encoder.layer.0.attention.self.query.weight": "layer 1 attention",
        "roberta.encoder.layer.0.output.dense.bias": "layer 1 feed-forward",
        "lm_head.layer_norm.weight": "head",
        "lm_head.bias": "head",
    },
    "MT5ForConditionalGeneration": {
        "shared.weight": "embeddings",
        "encoder.block.1.layer.0.SelfAttention.q.weight": "layer 2 attention",
        "encoder.block.1.layer.1.DenseReluDense.wo.weight": "layer 2 feed-forward",
        "decoder.block.1.layer.1.EncDecAttention.o.weight": "decoder layer 2 attention",
        "decoder.block.0.layer.2.DenseReluDense.wo.weight": "decoder layer 1 feed-forward",
        "decoder.final_layer_norm.weight": "head",
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", GROUPS)
def test_parameters_are_in_the_groups_of_their_architecture(kind):
    config = getattr(transformers, kind).config_class(num_hidden_layers=2)
    with torch.device("meta"):
        names = {name for name, _ in getattr(transformers, kind)(config).named_parameters()}
    assert names >= GROUPS[kind].keys()
    assert {name: parameter_group(name) for name in GROUPS[kind]} == GROUPS[kind]


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "ModernBertForMaskedLM", "XLMRobertaForMaskedLM"])
def test_tied_weights_are_embeddings(kind):
    model = new_model({"B": "bert", "M": "modernbert", "X": "xlm-roberta"}[kind[0]], kind)
    (tied,) = (name for name, one in model.named_parameters() if one is model.get_input_embeddings().weight)
    assert tied in chosen_parameters(model, "embeddings") and tied not in chosen_parameters(model, "head")


def test_layers_are_chosen_by_their_whole_number():
    model = nn.ModuleDict(
        {"layers": nn.ModuleList(nn.ModuleDict({"attention": nn.Linear(2, 2, bias=False)}) for _ in range(12))}
    )
    assert list(chosen_parameters(model, "layer 1")) == ["layers.0.attention.weight"]
    assert list(chosen_parameters(model, ["layer 12", r"\.1\."])) == [
        "layers.1.attention.weight",
        "layers.11.attention.weight",
    ]
    assert len(chosen_parameters(model, None)) == 12


# Shares


SCORES = torch.tensor([[0.5, 0.1, 0.9, 0.5, 0.5], [-1.0, -2.0, -2.0, -2.0, 3.0]])


def test_top_examples_by_hand():
    assert top_examples(SCORES, count=3).tolist() == [[2, 0, 3], [4, 0, 1]]
    assert top_examples(SCORES, count=3, lowest=True).tolist() == [[1, 0, 3], [1, 2, 3]]
    assert top_examples(torch.zeros(1, 5000), count=40).tolist() == [list(range(40))]


def test_shares_by_hand():
    found = top_shares(SCORES, ["sw", "de", "sw", "fi", "de"], count=3)
    assert list(found.columns) == ["sw", "de", "fi"]
    np.testing.assert_allclose(found, np.array([[2, 0, 1], [1, 2, 0]]) / 3, rtol=1e-12)
    found = top_shares(SCORES, ["sw", "de", "sw", "fi", "de"], count=2, lowest=True)
    np.testing.assert_allclose(found, [[0.5, 0.5, 0], [0.5, 0.5, 0]], rtol=1e-12)
    np.testing.assert_allclose(top_shares(SCORES, [1, 2, 1, 3, 2], count=5), [[0.4, 0.4, 0.2]] * 2, rtol=1e-12)


def test_shares_of_the_whole_sum_to_one():
    scores = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
    for count in (1, 7, 50):
        found = top_shares(scores, [i % 3 for i in range(50)], count=count)
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("count", [0, 6, -1])
def test_wrong_shares_are_explained(count):
    with pytest.raises(ValueError, match=f"count: expected 1 to 5, got {count}; there are 5 training examples"):
        top_shares(SCORES, list("abcde"), count=count)
    with pytest.raises(ValueError, match=r"origins: expected one label for each of 5 training examples, got 4$"):
        top_shares(SCORES, list("abcd"), count=2)


# What is kept on disk


CALLS, KILL_AT = [], []


def mortal_loss(logits, labels):
    CALLS.append(labels)
    if len(CALLS) in KILL_AT:
        raise KeyboardInterrupt
    return example_loss(logits, labels)


def test_a_killed_run_goes_on(tmp_path):
    """40 batches are kept in three pieces; the first is there when the run is killed."""
    models, train, test = [Affine(seed=seed) for seed in range(2)], points((1,) * 40), points((3, 2), seed=1)

    def run(out):
        CALLS.clear()
        return quiet_influence(models, train, test, loss=mortal_loss, out=out).scores, len(CALLS)

    KILL_AT.clear()
    right, all_calls = run(None)
    KILL_AT[:] = [all_calls // 2 - 10]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]
    KILL_AT[:] = [all_calls - 16 - 5]  # at the second checkpoint
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert len(list(tmp_path.iterdir())) == 5
    KILL_AT.clear()
    scores, few_calls = run(tmp_path)
    assert torch.equal(scores, right) and few_calls == all_calls - 2 * 40 - len(test) + 8
    scores, fewest_calls = run(tmp_path)
    assert torch.equal(scores, right) and fewest_calls == all_calls - 2 * (40 + len(test))
    assert len(list(tmp_path.iterdir())) == 6


def test_a_loss_without_a_name_of_its_own_keeps_nothing(tmp_path):
    def double(logits, labels):
        return 2 * example_loss(logits, labels)

    for loss in (double, lambda *sides: example_loss(*sides)):
        with pytest.raises(ValueError, match=r"out: expected a loss that is a function of a module, got .*<"):
            quiet_influence([Affine()], points((4,)), points((2,)), loss=loss, out=tmp_path)


def other_loss(logits, labels):
    return 2 * example_loss(logits, labels).square()


def frozen(model, pattern):
    """The model with these parameters frozen."""
    for name, parameter in model.named_parameters():
        if re.search(pattern, name):
            parameter.requires_grad_(False)
    return model


KEEP = {"dense.weight": torch.ones(3, 5).bool().tril()}
CHANGES = {
    "train": {"train": points((4, 3), seed=5)},
    "test": {"test": points((2, 3), seed=6)},
    "order": {"train": points((4, 3))[::-1]},
    "labels": {"test": [batch | {"labels": (batch["labels"] + 1) % 3} for batch in points((2, 3), seed=1)]},
    "model": {"checkpoints": [Affine(seed=1)]},
    "cosine": {"normalize": True},
    "parameters": {"parameters": "weight"},
    "weight masks": {"weight_masks": KEEP},
    "groups": {"test_groups": [0, 0, 1, 1, 0]},
    "precision": {"dtype": torch.bfloat16},
    "projection": {"projection": 2},
    "seed": {"projection": 2, "seed": 1},
    "size": {"projection": 1},
    "loss": {"loss": other_loss},
    "frozen": {"checkpoints": [frozen(Affine(), "weight")]},
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_taken_from_another_run(change, tmp_path):
    base = {"checkpoints": [Affine()], "train": points((4, 3)), "test": points((2, 3), seed=1), "normalize": False}
    scores = [quiet_influence(**base, out=tmp_path).scores]
    scores += [quiet_influence(**base | {"projection": 2}, out=tmp_path).scores]
    right = quiet_influence(**base | CHANGES[change]).scores
    found = quiet_influence(**base | CHANGES[change], out=tmp_path).scores
    assert torch.equal(found, right)
    assert change == "projection" or not any(one.shape == right.shape and torch.equal(one, right) for one in scores)


@pytest.mark.parametrize("kind", ["plain", "weight masks", "groups", "projection"])
def test_each_checkpoint_has_the_forms_and_the_room_that_its_own_gradients_need(kind):
    first, second, data = frozen(new_model(seed=1), "encoder"), new_model(seed=2), make_batches()
    first.classifier.out_proj.weight.data.zero_()  # no gradient gets beyond it
    options = {
        "plain": {},
        "weight masks": {"weight_masks": random_weight_masks(second, "query|dense")},
        "groups": {"test_groups": [0, 1, 0, 1, 0, 1, 0]},
        "projection": {"projection": 8},
    }[kind]
    together = quiet_influence([first, second], data, data, **options).by_checkpoint
    alone = [quiet_influence([model], data, data, **options).scores for model in (first, second)]
    assert all(map(torch.equal, together, alone))


def test_nothing_is_taken_from_other_gates(tmp_path):
    model, data = new_model(), make_batches()
    found = [
        quiet_influence([model], data, data, gates=gates, out=tmp_path).scores
        for gates in (None, MASK, MASK / 2, ~MASK)
    ]
    right = [quiet_influence([model], data, data, gates=gates).scores for gates in (None, MASK, MASK / 2, ~MASK)]
    assert all(map(torch.equal, found, right))
    assert len(list(tmp_path.iterdir())) == 4


# The door to gradients of single examples


@pytest.mark.parametrize("gates", [None, MASK])
def test_gradients_of_examples_are_handed_over_batch_by_batch(gates):
    model, data, arrived = new_model(*TAGGER), make_batches(TAGGER[1]), {}
    names = [name for name, _ in model.named_parameters() if "word" in name or "classifier" in name or "dense" in name]

    def receive(name, gradients_of_batch):
        arrived.setdefault(name, []).append(gradients_of_batch.written_out().values)

    wanted = names if gates is None else [name for name in names if "attention" not in name]  # which lose columns
    assert example_gradients(model, data, receive, parameters=wanted, gates=gates) == 7
    assert sorted(arrived) == sorted(wanted)
    found = torch.cat([torch.cat(arrived[name]) for name in wanted], 1)
    assert_equal(found, gradients(model, data, gates, names=wanted))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": []}, r"parameters: expected at least one group or name, got \[\]; None stands for all"),
        ({"dtype": torch.int64}, r"dtype: expected a type of real numbers, such as torch.bfloat16, got torch.int64"),
        ({"projection": 0}, "projection: expected at least 1, got 0; it is a number of entries, such as 64, or None"),
        ({"projection": 8, "rescore": -1}, "rescore: expected at least 0, got -1"),
        ({"rescore": 3}, "rescore: expected 0 without a projection, got 3; give projection too"),
        ({"memory": 0.0}, r"memory: expected a finite number above 0, got 0\.0"),
        ({"part": "encodr"}, "part: expected one of encoder, decoder, cross, got 'encodr'; did you mean 'encoder'"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        InfluenceOptions(**options)
