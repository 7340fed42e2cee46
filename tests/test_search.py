"""The greedy search against a plain reading of its definition, the published procedure, and its invariants."""

import importlib.util
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
)

from xsub_utils._internal.io import StoreError
from xsub_utils.evaluation.scores import evaluate
from xsub_utils.heads import search as prune
from xsub_utils.heads import subnetwork as subnetwork_module
from xsub_utils.heads.gates import head_gates
from xsub_utils.heads.search import find_subnetwork, head_importance
from xsub_utils.heads.subnetwork import Step, Subnetwork

VOCABULARY, PAD, CLASSES = 40, 1, 3
NAMES = {0: "O", 1: "B-X", 2: "I-X"}


def make_model(layers=3, heads=4, kind=XLMRobertaForSequenceClassification):
    config = XLMRobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=4 * heads,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=16,
        max_position_embeddings=20,
        num_labels=CLASSES,
        id2label=NAMES,
        initializer_range=0.6,
        pad_token_id=PAD,
    )
    torch.manual_seed(1)
    return kind(config).eval()


def make_batches(model, seed=0, sizes=(16, 16, 16)):
    """Random sentences that the full model labels without an error, but for every eighth label."""
    rng = torch.Generator().manual_seed(seed)
    batches = []
    for size in sizes:
        lengths = torch.randint(4, 11, (size,), generator=rng)
        attended = (torch.arange(10) < lengths[:, None]).long()
        ids = torch.randint(5, VOCABULARY, attended.shape, generator=rng).masked_fill(attended == 0, PAD)
        with torch.no_grad():
            labels = model(input_ids=ids, attention_mask=attended).logits.argmax(-1)
        labels.view(-1)[::8] = (labels.view(-1)[::8] + 1) % CLASSES
        if labels.dim() == 2:
            labels[attended == 0] = -100
        batches.append({"input_ids": ids, "attention_mask": attended, "labels": labels})
    return batches


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def batches(model):
    return make_batches(model)


@pytest.fixture(scope="module")
def stop(model):
    return make_batches(model, seed=1)


@pytest.fixture(scope="module")
def full(model, batches, stop):
    return find_subnetwork(model, batches, stop, full_trajectory=True)


@pytest.fixture
def scripted(monkeypatch):
    """Makes the search find given scores: number of heads kept → score."""

    def script(scores):
        monkeypatch.setattr(
            prune, "evaluate", lambda model, batches, metric, gates, part: float(scores[int(gates.sum())])
        )

    return script


def kept(subnetwork):
    return [step.kept for step in subnetwork.trajectory]


def test_twelve_by_twelve_by_tenths():
    wide = make_model(12, 12)
    found = find_subnetwork(wide, make_batches(wide, sizes=(2,)), full_trajectory=True)
    assert kept(found) == [144, 130, 116, 102, 88, 74, 60, 46, 32, 18, 4, 0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"step": 0.3}, [12, 9, 6, 3, 0]),
        ({"step": 0.0}, list(range(12, -1, -1))),
        ({"step": 1.0}, [12, 0]),
        ({"step": 0.45}, [12, 7, 2, 0]),
        ({"step": 0.25, "sparsity": 0.5}, [12, 9, 6]),
        ({"step": 0.25, "sparsity": 0.6}, [12, 9, 6, 4]),
        ({"step": 0.25, "sparsity": 1.0}, [12, 9, 6, 3, 0]),
        ({"sparsity": 0.0}, [12]),
        ({"sparsity": 1 / 12}, [12, 11]),
    ],
)
def test_numbers_of_heads(model, batches, settings, expected):
    full_trajectory = "sparsity" not in settings
    found = find_subnetwork(model, batches[:1], full_trajectory=full_trajectory, **settings)
    assert kept(found) == expected
    if "sparsity" in settings:
        assert torch.equal(found.mask, found.trajectory[-1].mask)
        assert found.failed is None


def test_a_share_of_a_hundred_is_not_rounded_up():
    assert prune._schedule(100, 0.5, 0.07) == [100, 93]
    assert prune._schedule(100, 0.29, None) == [100, 71, 42, 13, 0]


def test_search_by_its_definition(model, batches, stop, full):
    mask = np.ones((3, 4))
    for step in full.trajectory:
        gates = torch.from_numpy(mask).bool()
        assert torch.equal(step.mask, gates)
        assert step.score == evaluate(model, stop, metric="accuracy", gates=gates)
        if mask.any():
            importance = head_importance(model, batches, gates=gates)
            assert torch.equal(step.importance, importance)
            cells = sorted(zip(*mask.nonzero(), strict=True), key=lambda cell: float(importance[cell]))
            mask[cells[0]] = 0
    assert full.trajectory[-1].importance is None


@pytest.mark.parametrize("retain", [0.5, 0.8, 0.9, 0.95, 1.0])
def test_the_mask_passes_and_its_successor_fails(model, batches, stop, full, retain):
    found = find_subnetwork(model, batches, stop, retain=retain)
    assert evaluate(model, stop, metric="accuracy", gates=found.mask) >= retain * found.baseline
    assert evaluate(model, stop, metric="accuracy", gates=found.failed) < retain * found.baseline
    assert found.trajectory[-1].mask is found.failed
    assert found.trajectory[-2].mask is found.mask


@pytest.mark.parametrize("retain", [0.0, 0.5, 0.8, 0.95, 1.0])
def test_one_search_knows_every_threshold(model, batches, stop, full, retain):
    anew, again = find_subnetwork(model, batches, stop, retain=retain), full.at(retain)
    assert torch.equal(anew.mask, again.mask)
    assert (anew.failed is None) == (again.failed is None)
    assert again.failed is None or torch.equal(anew.failed, again.failed)
    assert again.trajectory is full.trajectory


def test_heads_never_come_back(full):
    masks = [step.mask for step in full.trajectory]
    for larger, smaller in pairwise(masks):
        assert (smaller <= larger).all() and smaller.sum() == larger.sum() - 1


def test_all_heads_stay_if_the_first_step_fails(model, batches, stop, scripted):
    scripted({12: 0.8, 11: 0.7})
    found = find_subnetwork(model, batches, stop, retain=0.9)
    assert found.mask.all() and int(found.failed.sum()) == 11


def test_a_threshold_of_zero_ends_without_heads(model, batches):
    found = find_subnetwork(model, batches, retain=0.0)
    assert not found.mask.any() and found.failed is None


def test_the_last_mask_before_the_first_failure(model, batches, stop, scripted):
    scripted({12: 1.0, 9: 0.96, 6: 0.90, 3: 0.97, 0: 0.3})
    found = find_subnetwork(model, batches, stop, step=0.25, full_trajectory=True)
    assert int(found.mask.sum()) == 9 and int(found.failed.sum()) == 6
    assert int(found.at(0.9).mask.sum()) == 3


def test_perplexity_may_rise_to_its_share(model, batches, stop, scripted):
    scripted({12: 10.0, 9: 10.9, 6: 11.0, 3: 11.2, 0: 30.0})
    found = find_subnetwork(model, batches, stop, metric="perplexity", retain=1 / 1.1, step=0.25)
    assert int(found.mask.sum()) == 6 and int(found.failed.sum()) == 3
    assert found.table()["retention"].tolist() == pytest.approx([1, 10 / 10.9, 1 / 1.1, 10 / 11.2])


def test_a_model_that_scores_nothing_keeps_nothing(model, batches, stop, scripted):
    scripted(dict.fromkeys(range(13), 0.0))
    found = find_subnetwork(model, batches, stop)
    assert not found.mask.any() and found.table()["retention"].isna().all()


def test_one_pass_gives_what_two_passes_give(model, batches):
    one, two = (find_subnetwork(model, batches, stop, retain=0.7) for stop in (None, batches))
    assert [step.score for step in one.trajectory] == [step.score for step in two.trajectory]
    for a, b in zip(one.trajectory[:-1], two.trajectory, strict=False):
        assert torch.equal(a.mask, b.mask) and torch.equal(a.importance, b.importance)


def test_no_pass_is_made_twice_or_for_nothing(model, batches, stop, full):
    passes = []  # whether with gradients
    with model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled())):
        find_subnetwork(model, batches, full_trajectory=True)
        assert passes == [True] * 12 * len(batches) + [False] * len(batches)
        passes.clear()
        found = find_subnetwork(model, batches, stop, retain=0.9)
        assert passes.count(False) == len(found.trajectory) * len(stop)
        assert passes.count(True) == (len(found.trajectory) - 1) * len(batches)


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        (XLMRobertaForTokenClassification, "f1"),
        (XLMRobertaForTokenClassification, "token_accuracy"),
        (XLMRobertaForMaskedLM, "perplexity"),
    ],
)
def test_other_tasks(kind, metric):
    model = make_model(kind=kind)
    batches, stop = make_batches(model, sizes=(8,)), make_batches(model, seed=1, sizes=(8,))
    for held_out in (None, stop):
        found = find_subnetwork(model, batches, held_out, metric=metric, retain=0.8)
        data = batches if held_out is None else stop
        assert found.baseline == evaluate(model, data, metric=metric)
        scores = [evaluate(model, data, metric=metric, gates=mask) for mask in (found.mask, found.failed)]
        ratios = [found.baseline / s if metric == "perplexity" else s / found.baseline for s in scores]
        assert ratios[0] >= 0.8 > ratios[1]


@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize(("part", "layers"), [("encoder", 1), ("decoder", 2), ("cross", 2)])
def test_heads_of_every_part_of_an_encoder_decoder(part, layers, held_out):
    model, (batch, held) = make_generator(), make_targets(2)
    found = find_subnetwork(
        model, [batch], [held] if held_out else None, metric="perplexity", full_trajectory=True, part=part
    )
    assert kept(found) == list(range(3 * layers, -1, -1))
    for step, following in pairwise(found.trajectory):
        with head_gates(model, step.mask, part=part), torch.no_grad():
            loss = model(**(held if held_out else batch)).loss
        assert step.score == pytest.approx(float(loss.exp()), rel=1e-5)
        assert torch.equal(step.importance, head_importance(model, [batch], gates=step.mask, part=part))
        (removed,) = (step.mask & ~following.mask).nonzero().tolist()
        assert step.importance[tuple(removed)] == step.importance[step.mask].min()


def make_generator():
    sizes = {"d_model": 12, "d_kv": 4, "d_ff": 16, "num_heads": 3, "num_layers": 1, "num_decoder_layers": 2}
    torch.manual_seed(1)
    model = MT5ForConditionalGeneration(MT5Config(vocab_size=VOCABULARY, decoder_start_token_id=0, **sizes)).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)  # lest scores of different masks be the same
    return model


def make_targets(count):
    """Random batches for a model that generates text."""
    rng = torch.Generator().manual_seed(0)
    for _ in range(count):
        ids, labels = (torch.randint(2, VOCABULARY, (4, length), generator=rng) for length in (7, 5))
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@pytest.mark.parametrize("held_out", [True, False])
def test_heads_of_a_decoder_only_language_model(held_out):
    config = {"vocab_size": VOCABULARY, "hidden_size": 12, "intermediate_size": 16, "pad_token_id": PAD}
    torch.manual_seed(1)
    model = Qwen3ForCausalLM(
        Qwen3Config(**config, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=4)
    ).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    importance, validation = ({**batch, "labels": batch["input_ids"]} for batch in make_targets(2))
    subnetwork = find_subnetwork(
        model, [importance], [validation] if held_out else None, metric="perplexity", full_trajectory=True
    )
    assert kept(subnetwork) == list(range(8, -1, -1))
    for step, following in pairwise(subnetwork.trajectory):
        with head_gates(model, step.mask), torch.no_grad():
            loss = model(**(validation if held_out else importance)).loss
        assert step.score == pytest.approx(float(loss.exp()), rel=1e-5)
        (removed,) = (step.mask & ~following.mask).nonzero().tolist()
        assert step.importance[tuple(removed)] == step.importance[step.mask].min()


def same(one, other):
    """Whether two subnetworks are equal, bit by bit."""
    fields = ("baseline", "metric", "retain")
    assert [getattr(one, name) for name in fields] == [getattr(other, name) for name in fields]
    assert torch.equal(one.mask, other.mask) and (one.failed is None) == (other.failed is None)
    assert one.failed is None or torch.equal(one.failed, other.failed)
    for step, again in zip(one.trajectory, other.trajectory, strict=True):
        assert torch.equal(step.mask, again.mask) and step.score == again.score
        assert (step.importance is None) == (again.importance is None)
        assert step.importance is None or torch.equal(step.importance, again.importance)
        assert step.importance is None or step.importance.dtype == again.importance.dtype
    return True


def test_a_saved_subnetwork_comes_back_bit_by_bit(full, model, batches, stop, tmp_path):
    cut_short = find_subnetwork(model, batches, stop, sparsity=0.25)
    for number, subnetwork in enumerate((full, full.at(0.8), cut_short)):
        folder = subnetwork.save(tmp_path / "deep" / str(number))
        loaded = Subnetwork.load(folder)
        assert same(loaded, subnetwork) and repr(loaded) == repr(subnetwork)
        assert same(Subnetwork.load(str(folder)), subnetwork)
    assert same(Subnetwork.load(tmp_path / "deep" / "0").at(0.8), full.at(0.8))
    assert cut_short.retain is None and full.at(0.8).retain == 0.8 and full.retain == 0.95


def test_equal_subnetworks_are_equal_files(full, tmp_path):
    folders = [full.save(tmp_path / name) for name in "ab"]
    for name in ("subnetwork.json", "subnetwork.safetensors"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_masks_of_another_layout_are_saved_as_they_read(full, tmp_path):
    step = full.trajectory[0]
    turned = Step(step.mask.T.contiguous().T, step.score, step.importance.T.contiguous().T)
    subnetwork = Subnetwork(turned.mask, None, [turned], step.score, "accuracy")
    assert same(Subnetwork.load(subnetwork.save(tmp_path / "turned")), subnetwork)


def test_saving_replaces_a_subnetwork_and_nothing_else(full, tmp_path):
    folder = tmp_path / "subnetwork"
    folder.mkdir()  # an empty one will do
    full.save(folder)
    full.at(0.8).save(folder)
    assert same(Subnetwork.load(folder), full.at(0.8))
    assert sorted(path.name for path in folder.iterdir()) == ["subnetwork.json", "subnetwork.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["subnetwork"]
    (folder / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for taken, holds in ((folder, "notes.txt"), (tmp_path / "file", "the file")):
        with pytest.raises(ValueError, match=f"folder: expected a new or (an )?empty .* {holds}.*; choose a"):
            full.save(taken)
    assert same(Subnetwork.load(folder), full.at(0.8))


def test_a_save_that_breaks_off_leaves_what_was_there(full, tmp_path, monkeypatch):
    folder = full.save(tmp_path / "subnetwork")

    def no_space(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(subnetwork_module, "write_json", no_space)
    for target in (folder, tmp_path / "new"):
        with pytest.raises(StoreError, match="the disk is full"):
            full.at(0.8).save(target)
    assert [path.name for path in tmp_path.iterdir()] == ["subnetwork"]
    assert same(Subnetwork.load(folder), full)


def test_what_is_no_saved_subnetwork_is_refused(full, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder: expected .* got .*nowhere, which does not exist"):
        Subnetwork.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"which lacks subnetwork\.json"):
        Subnetwork.load(tmp_path)
    folder = full.save(tmp_path / "subnetwork")
    (folder / "subnetwork.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"which lacks subnetwork\.safetensors"):
        Subnetwork.load(folder)
    for name in ("subnetwork.json", "subnetwork.safetensors"):
        for damage in (lambda data: data[:-9], lambda data: b"", lambda data: data.replace(b"s", b"t")):
            path = full.save(folder) / name
            path.write_bytes(damage(path.read_bytes()))
            with pytest.raises(ValueError, match=r"folder: expected .* which is damaged .*; save it again"):
                Subnetwork.load(folder)


def test_unknown_part(model, batches):
    with pytest.raises(ValueError, match=r"part: expected one of .*, got 'cross'"):
        find_subnetwork(model, batches, part="cross")


@pytest.mark.parametrize("reset", [True, False])
def test_the_published_procedure_finds_the_same_masks(batches, model, reset):
    path = Path(__file__).parents[1] / "benchmarks" / "bench_prune.py"
    spec = importlib.util.spec_from_file_location("bench_prune", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    masks = bench.published_search(make_model(), batches, threshold=0.6, reset=reset)
    found = find_subnetwork(model, batches, retain=0.6, per="batch" if reset else "cumulative")
    assert 3 <= len(masks) <= 12
    assert [mask.bool().tolist() for mask in masks] == [step.mask.tolist() for step in found.trajectory]


def test_table(full):
    table = full.table()
    assert list(table) == ["step", "kept", "sparsity", "score", "retention"]
    assert table["step"].tolist() == list(range(13))
    assert table["kept"].tolist() == list(range(12, -1, -1))
    assert table["sparsity"].tolist() == pytest.approx(np.arange(13) / 12)
    assert table["score"].tolist() == [step.score for step in full.trajectory]
    assert table["retention"].tolist() == pytest.approx(table["score"] / full.baseline)


def test_same_data_same_search(model, batches, stop, full):
    again = find_subnetwork(model, iter(batches), iter(stop), full_trajectory=True)
    assert [step.mask.tolist() for step in again.trajectory] == [step.mask.tolist() for step in full.trajectory]


def test_leaves_the_model_as_it_was_when_it_breaks_off(batches, stop, scripted):
    model = make_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scripted({12: 0.9, 11: 0.9})
    with pytest.raises(KeyError):
        find_subnetwork(model, batches, stop)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retain": 1.1}, r"retain: expected a share in \[0, 1\], got 1.1"),
        ({"step": -0.1}, "step: expected a share"),
        ({"sparsity": 2.0}, "sparsity: expected a share"),
        ({"sparsity": 0.5, "full_trajectory": True}, "leave one out"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"per": "batches"}, "did you mean 'batch'"),
        ({"norm": "global"}, "norm: expected one of layer, got 'global'"),
        ({"metric": "f1"}, "metric: expected accuracy for labels"),
    ],
)
def test_bad_settings(model, batches, settings, message):
    with pytest.raises(ValueError, match=message):
        find_subnetwork(model, batches, **settings)


def test_missing_data(model, batches):
    for data, stop in (([], None), ([], batches), (batches, [])):
        with pytest.raises(ValueError, match=r"(importance|validation): expected at least one batch"):
            find_subnetwork(model, data, stop)


def test_scores_that_are_not_finite(model, batches, stop, scripted):
    scripted({12: float("nan")})
    with pytest.raises(ValueError, match="model: expected a finite accuracy, got nan with 12 heads"):
        find_subnetwork(model, batches, stop)


def test_thresholds_beyond_the_search(model, batches, stop):
    found = find_subnetwork(model, batches, stop, sparsity=0.25)
    with pytest.raises(ValueError, match="still met by its 9 heads"):
        found.at(0.1)
    with pytest.raises(ValueError, match="retain: expected a share"):
        found.at(-1.0)
