"""States equal the model's own, pooled by hand; measures equal scipy, sklearn and hand cases, and keep invariants."""

import copy
import inspect
import math
import re

import numpy as np
import pytest
import torch
import transformers
from scipy.linalg import orth, subspace_angles
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr, spearmanr
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold
from transformers import AutoConfig

from xsub_utils.heads.gates import head_gates
from xsub_utils.similarity import cca as canonical
from xsub_utils.similarity import rsa as similarity
from xsub_utils.similarity.cca import canonical_scores, pwcca, svcca
from xsub_utils.similarity.hidden_states import hidden_states, pooled_states
from xsub_utils.similarity.retrieval import retrieval_accuracy
from xsub_utils.similarity.rsa import RegressionScores, rsa, rsa_regress

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
CONFIGS = {
    "bert": SMALL,
    "gpt2": TOKENS | {"n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 40},
    "llama": SMALL | {"num_key_value_heads": 2},
    "mbart": MBART,
    "modernbert": SMALL | {"cls_token_id": 0, "sep_token_id": 2, "local_attention": 4},
    "mt5": T5,
    "xlm-roberta": SMALL,
}
MODELS = [
    ("bert", "BertModel"),
    ("bert", "BertForTokenClassification"),
    ("gpt2", "GPT2LMHeadModel"),
    ("llama", "LlamaModel"),
    ("mbart", "MBartForSequenceClassification"),
    ("modernbert", "ModernBertForMaskedLM"),
    ("modernbert", "ModernBertModel"),
    ("mt5", "MT5EncoderModel"),
    ("mt5", "MT5ForConditionalGeneration"),
    ("mt5", "MT5ForSequenceClassification"),
    ("xlm-roberta", "XLMRobertaForMaskedLM"),
    ("xlm-roberta", "XLMRobertaForSequenceClassification"),
]
NOT_FINITE = "nan or infinite in 1 examples, first 2; leave them out of both"
MEASURES = {
    "rsa": rsa,
    "rsa euclidean": lambda x, y: rsa(x, y, distance="euclidean", method="spearman"),
    "rsa_regress": lambda x, y: rsa_regress(x, y, references=5).pearson,
    "svcca": svcca,
    "pwcca": pwcca,
    "retrieval": retrieval_accuracy,
    "retrieval by cosine": lambda x, y: retrieval_accuracy(x, y, margin=False),
}
COSINES = [name for name in MEASURES if name not in ("rsa euclidean", "svcca", "pwcca")]
each_model = pytest.mark.parametrize(("name", "kind"), MODELS)
each_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


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
        found.append([state[0, 0] if pool == "first" else state[0].mean(0) for state in states])
    return [torch.stack(level) for level in zip(*found, strict=True)]


def assert_same(found, expected, **tolerance):
    assert len(found) == len(expected)
    for level, right in zip(found, expected, strict=True):
        torch.testing.assert_close(level.double(), right.double(), **tolerance)


def gaussian(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(rows=60, columns=8, others=6, noise=1.0):
    x = gaussian(rows, columns)
    return x, x @ gaussian(columns, others, 1) + noise * gaussian(rows, others, 2) + 0.5


def rotation(size, seed=3):
    return torch.linalg.qr(gaussian(size, size, seed)).Q


# Hidden states


@each_model
@pytest.mark.parametrize("pool", ["first", "mean"])
def test_states_are_those_of_the_model_in_any_batching(name, kind, pool):
    model, batch = new_model(name, kind).eval(), make_inputs()
    expected = oracle(model, batch, pool)
    for size in (2, 5):
        parts = [rows_of(batch, start, start + size) for start in range(0, 5, size)]
        found = hidden_states(model, parts, pool=pool)
        assert all(level.dtype == torch.float32 and level.shape == (5, 24) for level in found)
        assert_same(found, expected, rtol=2e-7, atol=1e-7)  # half a unit in the last place of float32


@pytest.mark.parametrize(("name", "kind"), [("llama", "LlamaModel"), ("modernbert", "ModernBertModel")])
def test_the_last_level_is_normed(name, kind):
    model, batch = new_model(name, kind).eval(), rows_of(make_inputs(), 0, 1)
    with torch.no_grad():
        last = model(**batch).last_hidden_state[:, 0]
    torch.testing.assert_close(hidden_states(model, [batch])[-1], last.float())


@pytest.mark.parametrize("pool", ["first", "mean"])
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
    with pytest.raises(ValueError, match="every example needs a token"):
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
    assert_same(found, expected, rtol=2e-7, atol=1e-7)
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
        ({"batches": []}, "batches: there is no batch; at least one would be right"),
        ({"pool": "men"}, "pool: 'men' is not one of first, mean; did you mean 'mean'?"),
        ({"part": "decoder"}, "part='decoder': only an encoder has states of the input alone; 'encoder' would be"),
        ({"gates": torch.ones(2, 4)}, "gates: the shape is (2, 4); this model takes (3, 4)"),
    ],
)
def test_errors_of_hidden_states(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        hidden_states(new_model("bert", "BertModel"), **{"batches": [make_inputs()]} | options)


def test_an_example_without_a_token():
    batch = make_inputs() | {"attention_mask": torch.zeros(5, 8)}
    with pytest.raises(ValueError, match="batches: attention_mask is 0 for all tokens of an example; every example"):
        hidden_states(new_model("bert", "BertModel"), [batch])


# RSA


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize(("method", "correlate"), [("pearson", pearsonr), ("spearman", spearmanr)])
def test_rsa_equals_scipy(distance, method, correlate):
    x, y = related()
    expected = correlate(pdist(x.numpy(), distance), pdist(y.numpy(), distance)).statistic
    assert 0.1 < expected < 0.9
    assert rsa(x, y, distance=distance, method=method) == pytest.approx(expected, abs=1e-12)
    assert rsa(x.float(), y.float(), distance=distance, method=method) == pytest.approx(expected, abs=1e-4)


def test_rsa_by_hand():
    x, y = torch.tensor([[0.0], [1], [3]]), torch.tensor([[0.0], [2], [3]])
    # Distances 1, 3, 2 and 2, 3, 1: deviations -1, 1, 0 and 0, 1, -1, hence 1 / 2.
    assert rsa(x, y, distance="euclidean") == pytest.approx(0.5)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_rsa_heeds_neither_rotation_nor_scale(distance):
    x, y = related()
    turned = 7 * x @ rotation(8)
    assert rsa(x, turned, distance=distance) == pytest.approx(1)
    assert rsa(turned, y, distance=distance) == pytest.approx(rsa(x, y, distance=distance), abs=1e-12)
    assert rsa(y, x, distance=distance) == pytest.approx(rsa(x, y, distance=distance), abs=1e-12)


def test_rsa_survives_a_large_common_mean():
    x, y = related()
    assert rsa(x + 1e5, y, distance="euclidean") == pytest.approx(rsa(x, y, distance="euclidean"), abs=1e-9)


def test_equal_distances_have_no_correlation():
    with pytest.warns(RuntimeWarning, match="y: all distances between examples are the same, so that the result is"):
        assert math.isnan(rsa(gaussian(8, 8).float(), rotation(8).float()))


def test_rows_that_differ_in_length_alone_have_no_cosines():
    lengths = torch.arange(1.0, 41).unsqueeze(1)
    with pytest.warns(RuntimeWarning, match="x: all examples are the same"):
        assert math.isnan(rsa(lengths * gaussian(1, 5).float(), gaussian(40, 3).float()))


# RSA with regression


def by_hand(x, y, references, seed, alpha):
    """Scores of one penalty, from folds cut by hand."""
    unit_x, unit_y = (rows.numpy() / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))
    order = np.random.default_rng(seed).permutation(len(x))
    rest = np.array([row for row in order if row not in references])
    d1, d2 = (1 - rows[rest] @ rows[references].T for rows in (unit_x, unit_y))
    scores = []
    for test in np.array_split(np.arange(len(rest)), 10):
        train = np.setdiff1d(np.arange(len(rest)), test)
        guess = Ridge(alpha).fit(d1[train], d2[train]).predict(d1[test])
        pearson = np.mean([pearsonr(*pair).statistic for pair in zip(guess.T, d2[test].T, strict=True)])
        residual, total = (guess - d2[test]) ** 2, (d2[test] - d2[test].mean(0)) ** 2
        scores.append((pearson, np.mean(1 - residual.sum(0) / total.sum(0)), residual.mean()))
    return RegressionScores(*np.mean(scores, axis=0), alpha)


@pytest.mark.parametrize("noise", [0.1, 4])
def test_regression_equals_the_grid_search_of_sklearn(noise):
    x, y = related(rows=97, noise=noise)
    found = rsa_regress(x, y, references=(references := [3, 50, 8, 96, 20]), seed=2)
    rest = [row for row in np.random.default_rng(2).permutation(97) if row not in references]
    unit = [(rows / rows.norm(dim=1, keepdim=True)).numpy() for rows in (x, y)]
    distances = [1 - rows[rest] @ rows[references].T for rows in unit]
    scores = {"mse": "neg_mean_squared_error", "r2": "r2"}
    search = GridSearchCV(Ridge(), {"alpha": similarity._ALPHAS}, scoring=scores, refit="mse", cv=KFold(10))
    search.fit(*distances)
    best = search.best_index_
    assert found.alpha == search.best_params_["alpha"]
    assert found.mse == pytest.approx(-search.cv_results_["mean_test_mse"][best], rel=1e-9)
    assert found.r2 == pytest.approx(search.cv_results_["mean_test_r2"][best], rel=1e-9)


@pytest.mark.parametrize("noise", [0.1, 4])
def test_regression_equals_folds_by_hand(noise):
    x, y = related(rows=97, noise=noise)
    references = [3, 50, 8, 96, 20]
    expected = [by_hand(x, y, references, 5, alpha) for alpha in (0.001, 0.01, 0.1, 1, 10)]
    best = min(expected, key=lambda scores: scores.mse)
    assert rsa_regress(x, y, references=references, seed=5) == pytest.approx(best, abs=1e-9)


def test_drawn_references_are_those_of_the_generator():
    x, y = related()
    drawn = np.random.default_rng(4).permutation(60)[:7].tolist()
    found = rsa_regress(x, y, references=7, seed=4)
    assert found == rsa_regress(x, y, references=drawn, seed=4)
    assert found != rsa_regress(x, y, references=7, seed=3)


def test_regression_finds_what_is_there_and_nothing_else():
    x = gaussian(400, 8)
    same, noise = rsa_regress(x, 3 * x @ rotation(8), references=20), rsa_regress(x, gaussian(400, 8, 1), references=20)
    assert same.pearson > 0.999
    assert same.r2 > 0.999
    assert same.alpha == 0.001
    assert abs(noise.pearson) < 0.1
    assert noise.r2 < 0


@pytest.mark.parametrize(
    ("references", "message"),
    [
        (0, "references: 0 of 60 examples; at least 1 and, as 10 folds of the rest need 30, at most 30 would be right"),
        (31, "references: 31 of 60 examples; at least 1"),
        (-1, "references: 0 of 60 examples"),
        ([], "references: 0 of 60 examples"),
        ([1, 60], "references=[1, 60]: different row numbers from 0 to 59 would be right"),
        ([-1], "references=[-1]: different row numbers"),
        ([2, 2], "references=[2, 2]: different row numbers"),
    ],
)
def test_errors_of_references(references, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        rsa_regress(*related(), references=references)


# Canonical correlations


def correlations_by_sklearn(x, y):
    size = min(x.shape[1], y.shape[1])
    a, b = CCA(size, scale=False, max_iter=5000, tol=1e-12).fit_transform(x.numpy(), y.numpy())
    return np.array([pearsonr(a[:, i], b[:, i]).statistic for i in range(size)]), a


def test_cca_of_all_directions_equals_sklearn():
    x, y = related(rows=200, columns=4, others=3)
    expected, variates = correlations_by_sklearn(x, y)
    assert svcca(x, y, variance=1) == pytest.approx(expected.mean(), abs=1e-6)
    variates = variates / np.linalg.norm(variates, axis=0)
    weights = np.abs(variates.T @ (x - x.mean(0)).numpy()).sum(1)
    assert pwcca(x, y, variance=1) == pytest.approx(np.average(expected, weights=weights), abs=1e-5)


def test_svcca_equals_the_angles_between_principal_subspaces():
    x, y = (rows * torch.logspace(0, -3, rows.shape[1]) for rows in related(rows=100, columns=9, others=7))
    bases = []
    for rows in (x.numpy(), y.numpy()):
        values, vectors = np.linalg.eigh(np.cov(rows.T))
        shares = np.cumsum(values[::-1]) / values.sum()
        size = next(size for size, share in enumerate(shares, 1) if share >= 0.95)
        assert 1 < size < rows.shape[1] - 1
        bases.append((rows - rows.mean(0)) @ vectors[:, ::-1][:, :size])
    expected = np.cos(subspace_angles(*map(orth, bases))).mean()
    assert svcca(x, y, variance=0.95) == pytest.approx(expected, abs=1e-10)


def test_cca_by_hand():
    # Orthogonal, mean-free columns of length 2: y has the first, and half way between the second and a third one.
    a, b, c = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]).double().repeat(1, 2)
    x = torch.stack([3 * a, b], dim=1)
    y = torch.stack([a, (b + c) / math.sqrt(2)], dim=1)
    root = math.sqrt(0.5)
    assert svcca(x, y, variance=1) == pytest.approx((1 + root) / 2)
    assert pwcca(x, y, variance=1) == pytest.approx((3 + root) / 4)
    assert pwcca(y, x, variance=1) == pytest.approx((1 + root) / 2)
    # The first column of x holds 90 % of its variance.
    assert svcca(x, y, variance=0.89) == pytest.approx(1)


@pytest.mark.parametrize("measure", [svcca, pwcca])
def test_cca_heeds_neither_rotation_nor_scale_nor_shift(measure):
    x, y = related(rows=100)
    turned = 5 * y @ rotation(6) - 3
    assert measure(x, turned) == pytest.approx(measure(x, y), abs=1e-12)
    assert measure(y, turned) == pytest.approx(1)
    assert 0.5 < measure(x, y) < 0.99


def test_svcca_is_symmetric_and_pwcca_is_not():
    x, y = related(rows=100)
    assert canonical_scores(x, y) == pytest.approx((svcca(x, y), pwcca(x, y), pwcca(y, x)), abs=1e-12)
    assert svcca(x, y) == pytest.approx(svcca(y, x), abs=1e-12)
    assert abs(pwcca(x, y) - pwcca(y, x)) > 1e-3


def test_projection_weights_sum_to_one():
    x, y = related()
    correlations, variates, _ = canonical._canonical(x, y, 0.99)
    weights = canonical._projection_weights(variates, x)
    assert len(weights) == len(correlations) == 6
    assert float(weights.sum()) == pytest.approx(1)
    assert weights.min() > 0
    torch.testing.assert_close(variates.T @ variates, torch.eye(6).double())


@pytest.mark.parametrize("measure", [svcca, pwcca])
def test_directions_of_rounding_do_not_count(measure):
    x, y = related(rows=100, columns=4, others=3)
    wide = x @ gaussian(4, 20, 7) + 100
    expected = measure(x, y, 1)
    assert measure(torch.cat([x, x[:, :2]], dim=1) @ rotation(6), y, 1) == pytest.approx(measure(x, y, 1), abs=0.1)
    assert svcca(wide, y, variance=1) == pytest.approx(svcca(x, y, variance=1), abs=1e-9)
    assert svcca(wide.float(), y.float(), variance=1) == pytest.approx(svcca(x, y, variance=1), abs=1e-4)
    assert measure(x, x @ gaussian(4, 20, 7), 1) == pytest.approx(1)
    assert expected < 0.99


def test_svcca_of_noise_is_as_documented():
    found = [svcca(gaussian(200, 60, 2 * seed), gaussian(200, 40, 2 * seed + 1), variance=1) for seed in range(5)]
    x, y = gaussian(200, 60), gaussian(200, 40, 1)
    correlations, *_ = canonical._canonical(x, y, 1)
    assert float(correlations.square().mean()) == pytest.approx(60 / 199, abs=0.02)
    assert max(found) < math.sqrt(60 / 199)


@pytest.mark.parametrize("measure", [svcca, pwcca])
def test_errors_of_cca(measure):
    x, y = gaussian(20, 30), gaussian(20, 3, 1)
    with pytest.raises(ValueError, match=r"x: its 19 directions are all that 20 examples can differ in, .* below 1 "):
        measure(x, y, variance=1)
    with pytest.raises(ValueError, match="y: its 19 directions"):
        measure(y, x, variance=1)
    assert measure(x, y, variance=0.9) <= 1
    for variance in (0, 1.1, -1, math.nan):
        with pytest.raises(ValueError, match=f"variance={variance}: not a share of the variance; above 0 and at most"):
            measure(x, y, variance=variance)


# Retrieval


@pytest.mark.parametrize("margin", [True, False])
def test_a_sentence_finds_itself(margin):
    x = gaussian(50, 10)
    assert retrieval_accuracy(x, x, margin=margin) == 1
    assert retrieval_accuracy(x, 3 * x, margin=margin) == 1
    assert retrieval_accuracy(x, x.roll(1, 0), margin=margin) == 0


@pytest.mark.parametrize("margin", [True, False])
def test_noise_is_found_by_chance(margin):
    found = [
        retrieval_accuracy(gaussian(50, 10, seed), gaussian(50, 10, seed + 99), margin=margin) for seed in range(40)
    ]
    assert np.mean(found) == pytest.approx(1 / 50, abs=0.01)


def angles(*degrees):
    radians = torch.deg2rad(torch.tensor(degrees).double())
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def test_margin_by_hand():
    # x at 40° is 9° from y at 31° and 10° from its translation at 50°.
    x, y = angles(0, 40), angles(31, 50)
    (a, b), (c, d) = [[math.cos(math.radians(gap)) for gap in row] for row in ((31, 50), (9, 10))]
    assert c > d
    assert retrieval_accuracy(x, y, margin=False) == 0.5
    # But 31° is near to 0° too: relative to all neighbours, 50° is the nearer one.
    assert d / ((c + d) / 4 + (b + d) / 4) > c / ((c + d) / 4 + (a + c) / 4)
    assert a / ((a + b) / 4 + (a + c) / 4) > b / ((a + b) / 4 + (b + d) / 4)
    assert retrieval_accuracy(x, y, k=2) == 1
    assert retrieval_accuracy(x, y, k=3) == retrieval_accuracy(x, y, k=99) == 1


@pytest.mark.parametrize("k", [1, 4, 100])
def test_margin_equals_a_loop(k):
    x = gaussian(30, 5).abs()
    y = x + 0.5 * gaussian(30, 5, 1).abs()
    cosines = 1 - np.array([[pdist([a, b], "cosine")[0] for b in y.numpy()] for a in x.numpy()])
    right = 0
    for i in range(30):
        ratios = []
        for j in range(30):
            near_x, near_y = sorted(cosines[i])[-k:], sorted(cosines[:, j])[-k:]
            ratios.append(cosines[i, j] / (sum(near_x) / (2 * len(near_x)) + sum(near_y) / (2 * len(near_y))))
        right += np.argmax(ratios) == i
    assert 3 < right < 28
    assert retrieval_accuracy(x, y, k=k) == pytest.approx(right / 30)


def test_neighbours_that_point_away():
    x, y = angles(0, 10), angles(180, 190)
    with pytest.warns(RuntimeWarning, match="x, y: neighbours point away from each other, so that the margin is nan"):
        assert math.isnan(retrieval_accuracy(x, y))
    assert retrieval_accuracy(x, y, margin=False) == 0


def test_errors_of_retrieval():
    x = gaussian(10, 3)
    with pytest.raises(ValueError, match="k=0: there is no such neighbourhood; at least 1 would be right"):
        retrieval_accuracy(x, x, k=0)
    with pytest.raises(ValueError, match="x, y: of 3 and 2 features; a cosine needs the same of both"):
        retrieval_accuracy(x, x[:, :2])


# All measures


@each_measure
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4])
def test_constant_representations_have_no_likeness(measure, value):
    x = gaussian(40, 5).float()
    constant = torch.full((40, 5), value) * torch.arange(1, 6)
    constant = constant * (1 + 1e-7 * gaussian(40, 5, 1).float())
    for pair, name in (((constant, x), "x"), ((x, constant), "y"), ((constant, constant), "x, y")):
        with pytest.warns(RuntimeWarning, match=f"^{name}: all examples .*are the same, so that the result is nan"):
            assert math.isnan(measure(*pair))


@each_measure
def test_order_of_examples_does_not_matter(measure):
    x, y = related(others=8)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    if measure is not MEASURES["rsa_regress"]:  # whose references are rows
        assert measure(x[order], y[order]) == pytest.approx(measure(x, y), abs=1e-10)
    assert measure(x, y) > measure(x, y[order]) - 1e-12


@each_measure
def test_precision_and_gradients_do_not_matter(measure):
    x, y = related(others=8)
    expected = measure(x, y)
    assert isinstance(expected, float)
    assert measure(x.requires_grad_(), y) == expected
    assert measure(x.float(), y.float()) == pytest.approx(expected, abs=1e-3)


@each_measure
def test_errors_of_all_measures(measure):
    x, y = related(others=8)
    with pytest.raises(ValueError, match=r"x, y: \d examples are too few; at least \d+ would be right"):
        measure(x[:1], y[:1])
    for value in (math.nan, math.inf):
        y[2, 3] = value
        with pytest.raises(ValueError, match=f"y: {NOT_FINITE}"):
            measure(x, y)
        with pytest.raises(ValueError, match=f"x: {NOT_FINITE}"):
            measure(y, x)


@pytest.mark.parametrize("name", COSINES)
def test_zeros_have_no_cosine(name):
    x, y = related(others=8)
    y[7] = 0
    with pytest.raises(ValueError, match="y: zero in 1 examples, first 7, has no cosine; leave them out of both"):
        MEASURES[name](x, y)


@pytest.mark.parametrize("measure", [rsa, canonical_scores, retrieval_accuracy])
def test_examples_have_to_match(measure):
    x, y = related(others=8)
    without_shape_checks = inspect.unwrap(measure)
    with pytest.raises(ValueError, match="x, y: of 60 and 59 examples; row i of both has to be of one example"):
        without_shape_checks(x, y[:-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "cosin"}, "distance: 'cosin' is not one of cosine, euclidean; did you mean 'cosine'?"),
        ({"method": "kendall"}, "method: 'kendall' is not one of pearson, spearman"),
    ],
)
def test_options_of_rsa(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        rsa(*related(), **options)
