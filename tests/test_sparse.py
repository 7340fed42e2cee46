"""Sparse fine-tuning: what moves, what does not, and that moments and steps are those of each language alone."""

import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_finetune import Killed, after, content, killed
from tiny import LANGUAGES, QUICK, SHAPE, make_task, sequence_row, text_row, token_row
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)
from transformers import XLMRobertaForSequenceClassification as Classifier

from xsub_utils.heads.gates import head_gates
from xsub_utils.heads.removal import head_weights
from xsub_utils.training import recorder, trainer
from xsub_utils.training.delta import SparseDelta, delta_weights, load_delta, save_delta, sparse_delta, sum_deltas
from xsub_utils.training.finetune import checkpoints, load_finetuned
from xsub_utils.training.language_masks import LanguageMask, check_names, masks_by_language
from xsub_utils.training.optimizer import Piece, SubnetworkAdamW, in_pieces
from xsub_utils.training.rows import Rows
from xsub_utils.training.samplers import ByLanguage
from xsub_utils.training.settings import Settings
from xsub_utils.training.sparse import SparseTrainer, sparse_finetune

A, B = LANGUAGES
MASKS = {A: torch.tensor([[True, False], [True, True]]), B: torch.tensor([[False, False], [True, False]])}
SLOW = Settings(epochs=2, batch_size=8, lr=0.01, warmup=3, weight_decay=0.1)
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
QUERY = "roberta.encoder.layer.0.attention.self.query.weight"


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    return Classifier(XLMRobertaConfig(vocab_size=len(tokenizer), num_labels=2, **SHAPE, **STILL))


@pytest.fixture(scope="module")
def uneven():
    """A task with more examples of the first language."""
    task = make_task("reviews", sequence_row)
    train = task.splits["train"]
    return replace(task, splits={**task.splits, "train": train[~train["id"].isin(["train-0", "train-1"])].iloc[:-6]})


def trained(task, model, tokenizer, out, masks, settings=SLOW, **options):
    folder = sparse_finetune(
        task, (model, tokenizer), seed=5, out=out, masks=masks, settings=settings, progress=False, **options
    )
    return dict(load_finetuned(folder)[0].named_parameters())


def by_hand(task, model, tokenizer, masks, moves, settings=SLOW, through=True):
    """The same by a bare loop: a vector of weights of its own for every language, and an AdamW for each set of them.

    Weights that both languages move, or one of them, or none, are told apart entry by entry.
    """
    rows = Rows(task.splits["train"], tokenizer, task.kind, 128)
    order = ByLanguage(rows, settings.batch_size, 5, "round-robin", 5)
    parameters = dict(model.named_parameters())
    undecayed = {name for name in parameters if "LayerNorm" in name or name.endswith("bias")}
    state = {name: [torch.zeros_like(value) for _ in range(3)] for name, value in parameters.items()}
    step, steps = 0, settings.epochs * len(order)
    for epoch in range(settings.epochs):
        order.set_epoch(epoch)
        for chosen in order:
            lr = settings.lr * min(step / settings.warmup, (steps - step) / (steps - settings.warmup))
            (language,) = {rows.languages[i] for i in chosen}
            with head_gates(model, masks[language] if through else torch.ones_like(masks[language])):
                model(**rows.__getitems__(chosen)).loss.backward()
            moved = {name: moves[language].get(name, torch.tensor(True)).expand_as(p) for name, p in parameters.items()}
            for name, parameter in parameters.items():
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad[~moved[name]] = 0
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            with torch.no_grad():
                for name, parameter in parameters.items():
                    here, (mean, square, count) = moved[name], state[name]
                    gradient = parameter.grad[here]
                    count[here] += 1
                    mean[here] = 0.9 * mean[here] + 0.1 * gradient
                    square[here] = 0.999 * square[here] + 0.001 * gradient**2
                    unbiased = mean[here] / (1 - 0.9 ** count[here])
                    scale = (square[here] / (1 - 0.999 ** count[here])).sqrt() + 1e-8
                    decay = 0 if name in undecayed else settings.weight_decay
                    parameter[here] = parameter[here] * (1 - lr * decay) - lr * unbiased / scale
                    parameter.grad = None
            step += 1
    return parameters


# What moves


def test_weights_outside_all_masks_do_not_move_at_all(reviews, model, tokenizer, tmp_path):
    found = trained(reviews, model, tokenizer, tmp_path, MASKS)
    union = head_weights(model, MASKS[A] | MASKS[B])
    assert QUERY in union and len(union) == 14
    for name, before in model.named_parameters():
        moved = found[name] != before
        if name in union:
            assert torch.equal(found[name][~union[name]], before[~union[name]])
            assert not union[name].any() or moved[union[name]].any(), name
        else:
            assert moved.any(), name


@pytest.mark.parametrize("through", [True, False])
def test_every_weight_sees_the_adamw_of_its_languages(through, reviews, model, tokenizer, tmp_path):
    found = trained(reviews, model, tokenizer, tmp_path, MASKS, through=through)
    moves = {language: head_weights(model, mask) for language, mask in MASKS.items()}
    expected = by_hand(reviews, copy.deepcopy(model), tokenizer, MASKS, moves, through=through)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_masks_of_ones_are_ordinary_training_step_for_step(reviews, model, tokenizer, tmp_path, monkeypatch):
    ones = torch.ones(2, 2, dtype=torch.bool)
    found = trained(reviews, model, tokenizer, tmp_path / "sparse", ones)
    monkeypatch.setattr(SparseTrainer, "create_optimizer", trainer.EpochTrainer.create_optimizer)
    monkeypatch.setattr(SparseTrainer, "training_step", plain_step)
    plain = trained(reviews, model, tokenizer, tmp_path / "plain", ones)
    assert all(torch.equal(value, plain[name]) for name, value in found.items())


def plain_step(self, model, inputs, *more):
    inputs.pop("language")
    return trainer.EpochTrainer.training_step(self, model, inputs, *more)


def test_union_of_ones_moves_everything(reviews, model, tokenizer, tmp_path):
    """Disjoint masks whose union is everything leave no weight of a head where it was."""
    masks = {A: torch.tensor([[True, False], [True, False]]), B: torch.tensor([[False, True], [False, True]])}
    found = trained(reviews, model, tokenizer, tmp_path, masks)
    before = dict(model.named_parameters())
    assert (found[QUERY] != before[QUERY]).all()


def test_frozen_leaves_heads_and_the_task_head_to_move(reviews, model, tokenizer, tmp_path):
    found = trained(reviews, model, tokenizer, tmp_path, MASKS, outside="frozen")
    named = head_weights(model, MASKS[A])
    for name, before in model.named_parameters():
        still = name.startswith("roberta.") and name not in named
        assert torch.equal(found[name], before) == still, name


@pytest.mark.parametrize("through", [True, False])
def test_weight_masks_move_their_weights_only(through, reviews, model, tokenizer, tmp_path):
    rng = torch.Generator().manual_seed(0)
    shapes = {name: value.shape for name, value in model.named_parameters() if "attention" in name or "embed" in name}
    masks = {code: {name: torch.rand(shape, generator=rng) < 0.3 for name, shape in shapes.items()} for code in MASKS}
    found = trained(reviews, model, tokenizer, tmp_path, masks, outside="frozen", through=through)
    for name, before in model.named_parameters():
        if name in shapes:
            kept = masks[A][name] | masks[B][name]
            assert torch.equal(found[name][~kept], before[~kept])
        else:
            assert torch.equal(found[name], before) == name.startswith("roberta.")
    assert (found[QUERY] != dict(model.named_parameters())[QUERY]).any()


def test_weight_masks_agree_with_the_bare_loop(reviews, model, tokenizer, tmp_path):
    rng = torch.Generator().manual_seed(0)
    masks = {code: {QUERY: torch.rand(16, 16, generator=rng) < 0.5} for code in MASKS}
    found = trained(reviews, model, tokenizer, tmp_path, masks, through=False)
    expected = by_hand(reviews, copy.deepcopy(model), tokenizer, MASKS, masks, through=False)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_one_mask_serves_all_languages(reviews, model, tokenizer, tmp_path):
    one = trained(reviews, model, tokenizer, tmp_path / "one", MASKS[A])
    each = trained(reviews, model, tokenizer, tmp_path / "each", dict.fromkeys(LANGUAGES, MASKS[A]))
    weights = trained(reviews, model, tokenizer, tmp_path / "w", head_weights(model, MASKS[A]), through=False)
    assert all(torch.equal(value, each[name]) for name, value in one.items())
    outside = ~head_weights(model, MASKS[A])[QUERY]
    assert torch.equal(weights[QUERY][outside], dict(model.named_parameters())[QUERY][outside])


@pytest.mark.parametrize(("name", "row"), [("reviews", sequence_row), ("upos", token_row), ("mlm", text_row)])
def test_every_kind_of_task_is_trained(name, row, encoder, tmp_path):
    folder = sparse_finetune(
        make_task(name, row), encoder, seed=0, out=tmp_path, masks=MASKS, settings=QUICK, progress=False
    )
    assert len(checkpoints(folder)) == 3
    first, last = (dict(load_finetuned(folder, epoch)[0].named_parameters()) for epoch in (1, 3))
    kept = head_weights(load_finetuned(folder)[0], MASKS[A] | MASKS[B])[QUERY]
    assert torch.equal(first[QUERY][~kept], last[QUERY][~kept])
    assert not torch.equal(first[QUERY][kept], last[QUERY][kept])


def test_other_architectures(reviews, tokenizer, tmp_path):
    config = DistilBertConfig(vocab_size=len(tokenizer), num_labels=2, dim=16, n_layers=2, n_heads=2, hidden_dim=16)
    model = DistilBertForSequenceClassification(config)
    found = trained(reviews, model, tokenizer, tmp_path, MASKS)
    for name, kept in head_weights(model, MASKS[A] | MASKS[B]).items():
        before = dict(model.named_parameters())[name]
        assert torch.equal(found[name][~kept], before[~kept])
        assert not kept.any() or not torch.equal(found[name][kept], before[kept])


def test_scores_are_those_through_the_masks(reviews, model, tokenizer, tmp_path, monkeypatch):
    seen = []
    evaluate = recorder.evaluate

    def watched(model, batches, metric):
        seen.append(sum(len(one._forward_pre_hooks) for one in model.modules()))
        return evaluate(model, batches, metric=metric)

    monkeypatch.setattr(recorder, "evaluate", watched)
    trained(reviews, model, tokenizer, tmp_path / "masked", MASKS)
    assert seen == [2] * 4
    seen.clear()
    trained(reviews, model, tokenizer, tmp_path / "full", MASKS, through=False)
    assert seen == [0] * 4


# Order of the batches


def languages_of(order, rows):
    return [{rows.languages[i] for i in batch} for batch in order]


@pytest.mark.parametrize("name", ["round-robin", "proportional"])
def test_every_example_is_seen_once_in_a_batch_of_its_language(name, uneven, tokenizer):
    rows = Rows(uneven.splits["train"], tokenizer, "sequence", 128)
    order = ByLanguage(rows, 5, 1, name, 5)
    epochs = []
    for epoch in (0, 1, 0):
        order.set_epoch(epoch)
        epochs.append([tuple(batch) for batch in order])
    assert len(epochs[0]) == len(order)
    assert sorted(i for batch in epochs[0] for i in batch) == list(range(len(rows)))
    assert {len(one) for one in languages_of(order, rows)} == {1}
    assert epochs[0] == epochs[2] != epochs[1]


def test_round_robin_takes_turns_and_spreads_the_rarer(uneven, reviews, tokenizer):
    rows = Rows(reviews.splits["train"], tokenizer, "sequence", 128)
    turns = [one.pop() for one in languages_of(ByLanguage(rows, 3, 0, "round-robin", 5), rows)]
    assert len(turns) == 16 and all(set(turns[i : i + 2]) == {A, B} for i in range(0, 16, 2))
    rows.languages = [A] * 36 + [B] * 12
    turns = [one.pop() for one in languages_of(ByLanguage(rows, 3, 0, "round-robin", 5), rows)]
    assert Counter(turns) == {A: 12, B: 4}
    assert all(B in turns[i : i + 7] for i in range(10))


@pytest.mark.parametrize("size", [5, 7, 8, 64])
def test_there_are_as_many_steps_as_with_mixed_batches(size, uneven, tokenizer):
    rows = Rows(uneven.splits["train"], tokenizer, "sequence", 128)
    order = ByLanguage(rows, size, 0, "proportional", 5)
    sizes = [len(batch) for batch in order]
    assert len(sizes) == len(order) == max(2, -(-len(rows) // size))
    assert max(sizes) - min(sizes) <= 0.4 * size + 1


def test_temperature_evens_out_languages(uneven, tokenizer):
    rows = Rows(uneven.splits["train"], tokenizer, "sequence", 128)
    rows.languages = [A] * (len(rows) - 4) + [B] * 4

    def share(temperature):
        order, found = ByLanguage(rows, 2, 0, "temperature", temperature), Counter()
        for epoch in range(200):
            order.set_epoch(epoch)
            found.update(one.pop() for one in languages_of(order, rows))
        return found[B] / found.total()

    rare = 4 / len(rows)
    assert share(1) == pytest.approx(rare, abs=0.02)
    assert share(1e9) == pytest.approx(0.5, abs=0.02)
    weights = np.array([1 - rare, rare]) ** (1 / 2)
    assert share(2) == pytest.approx(weights[1] / weights.sum(), abs=0.02)


# Pieces


def test_pieces_cover_every_moving_weight_once():
    parameter = torch.nn.Parameter(torch.zeros(3, 4))
    rng = torch.Generator().manual_seed(0)
    masks = {code: {"w": torch.rand(3, 4, generator=rng) < 0.5} for code in "abc"}
    whole, pieces = in_pieces({"w": parameter}, masks)
    assert whole == []
    counts = torch.zeros(12)
    for piece in pieces:
        index = piece.index
        counts[index] += 1
        for code in "abc":
            assert bool(masks[code]["w"].flatten()[index].all()) == (code in piece.languages)
    assert torch.equal(counts.view(3, 4) > 0, masks["a"]["w"] | masks["b"]["w"] | masks["c"]["w"])
    assert counts.max() == 1


def test_a_step_of_one_language_leaves_the_state_of_others():
    parameter = torch.nn.Parameter(torch.ones(4))
    pieces = [Piece(frozenset("a"), parameter, torch.tensor([0, 1])),
              Piece(frozenset("b"), parameter, torch.tensor([3]))]  # fmt: skip
    optimizer = SubnetworkAdamW([{"params": [piece.values for piece in pieces]}], pieces, lr=0.1, weight_decay=0.5)
    for language in "aab":
        optimizer.language = language
        parameter.grad = torch.tensor([1.0, -1.0, 1.0, 1.0])
        before = parameter.detach().clone()
        optimizer.step()
        moved = torch.tensor([True, True, False, False]) if language == "a" else torch.tensor([False] * 3 + [True])
        assert torch.equal(parameter != before, moved)
    assert [float(optimizer.state[piece.values]["step"]) for piece in pieces] == [2, 1]


# Killed and resumed


WEIGHTS = {A: {QUERY: torch.arange(256).view(16, 16) % 3 > 0}, B: {QUERY: torch.arange(256).view(16, 16) % 2 > 0}}


@pytest.mark.parametrize(
    ("owner", "method", "calls", "masks"),
    [
        (Rows, "__getitems__", 3, MASKS),
        (Rows, "__getitems__", 10, MASKS),
        (Rows, "__getitems__", 10, WEIGHTS),
        (recorder.Recorder, "publish", 1, MASKS),
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(owner, method, calls, masks, reviews, encoder, tmp_path, monkeypatch):
    def go(out):
        return sparse_finetune(reviews, encoder, seed=3, out=out, masks=masks, settings=QUICK, progress=False)

    whole = go(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, method, after(calls, getattr(owner, method), killed))
        go(tmp_path / "again")
    assert content(go(tmp_path / "again")) == content(whole)


# Bad input


@pytest.mark.parametrize(
    ("masks", "options", "message"),
    [
        ({A: MASKS[A]}, {}, "masks: expected a mask for every language to train on, got none for qba"),
        ({**MASKS, A: torch.ones(3, 2) > 0}, {}, r"masks\['qaa'\]: expected a mask of shape \(2, 2\), .* got \(3, 2\)"),
        ({**MASKS, A: torch.ones(2, 2)}, {}, r"masks\['qaa'\]: expected a tensor of torch.bool, got torch.float32"),
        ({**MASKS, B: torch.zeros(2, 2, dtype=torch.bool)}, {}, r"masks\['qba'\]: .* keeps nothing"),
        ({code: {"query": torch.ones(2) > 0} for code in MASKS}, {}, r"masks\['qaa'\]: .* got 'query'; see"),
        ({code: {QUERY: torch.ones(2) > 0} for code in MASKS}, {}, r"masks\['qaa'\]: .* shape .* for 'roberta.*', as"),
        (MASKS, {"order": "random"}, "order"),
        (MASKS, {"outside": "open"}, "outside"),
        (MASKS, {"order": "temperature", "temperature": 0}, "temperature: expected a finite number above 0, got 0"),
        (MASKS, {"order": "temperature", "temperature": float("nan")}, "temperature: .* got nan"),
        ({**MASKS, "qaz": MASKS[A]}, {}, "masks: expected one of qaa, qba, got 'qaz'; did you mean 'qba'"),
        ({"qaz": MASKS[A]}, {}, r"masks: expected languages of the task \(qaa, qba\) or par.*, got 'qaz'; did"),
        ({QUERY + "s": torch.ones(2) > 0}, {}, f"masks: .* did you mean '{QUERY}'"),
        ({QUERY: torch.ones(16, 16) > 0, A: MASKS[A]}, {}, "masks: expected one of qaa, qba, got 'roberta"),
        ({}, {}, "masks: expected a bool tensor, .* got {}"),
        (MASKS, {"settings": replace(QUICK, precision="fp16")}, "settings: expected precision .* got 'fp16'"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_nothing_is_written(masks, options, message, reviews, encoder, tmp_path):
    options = {"settings": QUICK, **options}
    with pytest.raises(ValueError, match=message):
        sparse_finetune(reviews, encoder, seed=0, out=tmp_path / "out", masks=masks, progress=False, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (None, "masks: expected a bool tensor, .* got a NoneType"),
        ({**MASKS, A: MASKS[A].numpy()}, r"masks\['qaa'\]: .* got a ndarray; torch.from_numpy"),
        ({**MASKS, A: {QUERY: MASKS[A].numpy()}}, r"masks\['qaa'\]: .* got a ndarray for 'roberta"),
    ],
)
def test_what_is_no_mask_is_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        masks_by_language(masks, LANGUAGES)


def test_names_that_are_languages_and_parameters_are_ambiguous(model):
    for code in LANGUAGES:
        model.register_parameter(code, torch.nn.Parameter(torch.zeros(2, 2)))
    check_names({code: {QUERY: torch.ones(16, 16) > 0} for code in LANGUAGES}, LANGUAGES, model)
    check_names(MASKS, ("qaa", "qba"), Classifier(model.config))
    with pytest.raises(ValueError, match=r"masks: .* got qaa, qba, which are both; give language -> "):
        check_names(MASKS, LANGUAGES, model)


def test_parameters_without_a_dot_in_their_names_are_weights():
    """What a name means follows from the languages of the task and the parameters of the model."""
    mask = {"weight": torch.ones(2, 3) > 0}
    assert masks_by_language(mask, LANGUAGES) == dict.fromkeys(LANGUAGES, mask)
    check_names(mask, LANGUAGES, torch.nn.Linear(3, 2))
    dotted = {"zh.Hans": MASKS[A], "zh.Hant": MASKS[B]}
    assert masks_by_language(dotted, ("zh.Hans", "zh.Hant")) == dotted


def test_only_the_languages_to_train_on_need_masks(reviews, model, tokenizer, tmp_path):
    found = trained(reviews, model, tokenizer, tmp_path, {A: MASKS[A]}, languages=A)
    kept = head_weights(model, MASKS[A])[QUERY]
    assert torch.equal(found[QUERY] != dict(model.named_parameters())[QUERY], kept)


def test_another_mask_is_another_run(reviews, encoder, tmp_path):
    settings = replace(QUICK, epochs=1)
    sparse_finetune(reviews, encoder, seed=0, out=tmp_path, masks=MASKS, settings=settings, progress=False)
    with pytest.raises(ValueError, match="holds another run"):
        sparse_finetune(reviews, encoder, seed=0, out=tmp_path, masks=MASKS[A], settings=settings, progress=False)


# Deltas


@pytest.fixture
def pair(model):
    """A model and a fine-tuned one, of which a tenth of the weights moved."""
    tuned, rng = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for parameter in tuned.parameters():
        moved = torch.rand(parameter.shape, generator=rng) < 0.1
        parameter.data[moved] += torch.randn(int(moved.sum()), generator=rng)
    return model, tuned


def bits(model):
    return [value.detach().clone() for value in model.parameters()]


def test_a_delta_leads_from_one_model_to_the_other_and_back(pair, tmp_path):
    base, tuned = pair
    before = bits(base)
    save_delta(tmp_path / "delta.safetensors", sparse_delta(tuned, base))
    delta = load_delta(tmp_path / "delta.safetensors")
    assert 0.05 < len(delta) / sum(value.numel() for value in before) < 0.15
    with delta_weights(base, delta):
        for one, other in zip(base.parameters(), tuned.parameters(), strict=True):
            torch.testing.assert_close(one, other)
    assert all(torch.equal(one, other) for one, other in zip(before, bits(base), strict=True))


def test_weights_come_back_after_an_error(pair):
    base, tuned = pair
    before = bits(base)
    with pytest.raises(Killed), delta_weights(base, sparse_delta(tuned, base)):
        raise Killed
    assert all(torch.equal(one, other) for one, other in zip(before, bits(base), strict=True))


def test_the_order_of_composition_does_not_matter(pair):
    base, tuned = pair
    deltas = []
    for scale in (1, -1e3, 1e-4):
        other = copy.deepcopy(tuned)
        for parameter in other.parameters():
            parameter.data.mul_(scale)
        deltas.append(sparse_delta(other, base))
    orders = [deltas, deltas[::-1], [deltas[1], deltas[0], deltas[2]]]
    found = []
    for order in orders:
        with delta_weights(base, *order):
            found.append(bits(base))
    for one in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(one, found[0], strict=True))
    place = [name for name, _ in base.named_parameters()].index("classifier.dense.weight")
    true = base.classifier.dense.weight + sum(
        torch.zeros(256).index_add(0, change.index, change.values).view(16, 16)
        for change in (delta.changes["classifier.dense.weight"] for delta in deltas)
    )
    torch.testing.assert_close(found[0][place], true, rtol=1e-3, atol=1e-3)


def test_scale_weakens_the_changes(pair):
    base, tuned = pair
    with delta_weights(base, sparse_delta(tuned, base), scale=0.0):
        pass
    start, end = base.classifier.dense.weight.detach().clone(), tuned.classifier.dense.weight
    with delta_weights(base, sparse_delta(tuned, base), scale=0.25):
        torch.testing.assert_close(base.classifier.dense.weight, start + 0.25 * (end - start))


def test_a_new_head_is_kept_whole_and_left_out_elsewhere(pair, encoder):
    _, tuned = pair
    language_model = XLMRobertaForMaskedLM(tuned.config)
    delta = sparse_delta(tuned, language_model)
    assert set(delta.whole) == {name for name, _ in tuned.named_parameters() if name.startswith("classifier")}
    with delta_weights(language_model, delta):
        torch.testing.assert_close(
            dict(language_model.named_parameters())[QUERY], dict(tuned.named_parameters())[QUERY]
        )
    other = Classifier(tuned.config)
    with delta_weights(other, delta):
        assert torch.equal(other.classifier.dense.weight, tuned.classifier.dense.weight)
    with pytest.raises(ValueError, match="one holds whole and another one holds too"):
        sum_deltas(delta, delta)


def test_bad_deltas_are_refused(pair, tmp_path):
    base, tuned = pair
    with pytest.raises(ValueError, match="deltas: expected at least one, got none"):
        sum_deltas()
    with pytest.raises(FileNotFoundError, match="path: expected a file that save_delta wrote, got no file"):
        load_delta(tmp_path / "none")
    save_delta(tmp_path / "delta", sparse_delta(tuned, base))
    (tmp_path / "cut").write_bytes((tmp_path / "delta").read_bytes()[:-40])
    save_file({"weights": torch.zeros(2)}, tmp_path / "other")
    for name in ("cut", "other"):
        with pytest.raises(ValueError, match=r"path: .* is damaged or holds no delta .*; save it again"):
            load_delta(tmp_path / name)
    small = Classifier(XLMRobertaConfig(**{**tuned.config.to_dict(), "vocab_size": 7}))
    with (
        pytest.raises(ValueError, match="deltas of a model of the same shape"),
        delta_weights(small, sparse_delta(tuned, base)),
    ):
        pass
    with pytest.raises(ValueError, match=r"base: expected the model that was fine-tuned, got .* of shape"):
        sparse_delta(small, base)
    with pytest.raises(ValueError, match=r"base: .* has no parameter of the model"):
        sparse_delta(tuned, torch.nn.Linear(2, 2))


def test_deltas_of_other_shapes_and_precisions(pair):
    base, tuned = pair
    delta = sparse_delta(tuned, base)
    name, change = next(iter(delta.changes.items()))
    small = SparseDelta({name: replace(change, shape=(2, 128))})
    with pytest.raises(ValueError, match="deltas of a model of the same shape"), delta_weights(base, small):
        pass
    half = SparseDelta({name: replace(change, values=change.values.bfloat16())})
    one, other = sum_deltas(delta, half).changes[name], sum_deltas(half, delta).changes[name]
    assert one.values.dtype == other.values.dtype == torch.float32 and torch.equal(one.values, other.values)
    before = bits(base)
    with delta_weights(base, delta):
        base.double()
    assert all(torch.equal(old.double(), new) for old, new in zip(before, bits(base), strict=True))


def test_frozen_language_models_keep_all_but_what_the_head_owns(encoder, tmp_path):
    """The word embeddings are tied to the head and stay, too."""
    masks = {code: mask for code, mask in MASKS.items()}
    folder = sparse_finetune(
        make_task("mlm", text_row),
        encoder,
        seed=0,
        out=tmp_path,
        masks=masks,
        outside="frozen",
        settings=QUICK,
        progress=False,
    )
    model, start = load_finetuned(folder)[0], XLMRobertaForMaskedLM.from_pretrained(encoder)
    words = "roberta.embeddings.word_embeddings.weight"
    assert torch.equal(model.get_parameter(words), start.get_parameter(words))
    assert not torch.equal(model.get_parameter(QUERY), start.get_parameter(QUERY))
    assert not torch.equal(model.lm_head.dense.weight, start.lm_head.dense.weight)


def test_weights_that_the_loss_does_not_depend_on_stay(encoder, reviews, tokenizer, tmp_path):
    torch.manual_seed(0)
    model = Classifier(XLMRobertaConfig(vocab_size=len(tokenizer), num_labels=2, **SHAPE, **STILL))
    model.unused = torch.nn.Linear(3, 3)
    mask = {"unused.weight": torch.eye(3) > 0, QUERY: torch.ones(16, 16) > 0}
    rows = Rows(reviews.splits["train"], tokenizer, "sequence", 128)
    found = {code: LanguageMask.of(model, code, mask, False) for code in MASKS}
    before = model.unused.weight.detach().clone()
    arguments = trainer.training_arguments(tmp_path, SLOW, 0)
    arguments.save_strategy = "no"
    SparseTrainer(model, arguments, rows, [], found, True, ("round-robin", 5.0)).train()
    assert torch.equal(model.unused.weight, before)


def test_more_languages_than_can_be_told_apart():
    parameter = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="masks: expected masks of at most 62 languages, got 63"):
        in_pieces({"w": parameter}, {str(i): {"w": torch.arange(2) == i % 2} for i in range(63)})


def test_weights_run_through_their_mask(reviews, model, tokenizer, tmp_path, monkeypatch):
    """The gradient is that of the model whose other weights are zero."""
    mask = {QUERY: torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.5}
    seen = []
    step = trainer.EpochTrainer.training_step

    def watched(self, model, inputs, *more):
        loss = step(self, model, dict(inputs), *more)
        masked = {QUERY: self.model.get_parameter(QUERY).detach()}
        seen.append((self.model.get_parameter(QUERY).detach().clone(), self.model.get_parameter(QUERY).grad.clone()))
        assert torch.equal(masked[QUERY] != 0, mask[QUERY])
        return loss

    monkeypatch.setattr(trainer.EpochTrainer, "training_step", watched)
    trained(reviews, model, tokenizer, tmp_path, mask)
    assert len(seen) == 12 and not torch.equal(seen[0][0], seen[-1][0])
