"""Lottery tickets: what is pruned, what is kept in each round, what training may move, and which tickets win."""

from dataclasses import replace
from itertools import pairwise
from operator import and_, or_

import pytest
import torch
from tiny import LANGUAGES, QUICK, SHAPE, make_task, sequence_row, text_row, token_row
from torch import nn
from torch.nn.utils import prune
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraModel,
    GPT2Config,
    GPT2Model,
    MT5Config,
    MT5EncoderModel,
    MT5ForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from xsub_utils.data.tasks import load_task
from xsub_utils.data.text2text import text_to_text
from xsub_utils.heads.masks import load_masks
from xsub_utils.models.batches import make_batches
from xsub_utils.models.tokenizers import train_tokenizer
from xsub_utils.similarity.weight_overlap import joint_overlap, mask_overlap
from xsub_utils.training import trainer
from xsub_utils.training.finetune import finetune, load_finetuned
from xsub_utils.training.iterative_pruning import find_tickets, is_winning
from xsub_utils.training.masked import finetune_ticket
from xsub_utils.training.rows import Rows
from xsub_utils.training.samplers import LengthGrouped
from xsub_utils.training.settings import Settings
from xsub_utils.weights.criteria import fisher_information, keep_largest, prune_randomly
from xsub_utils.weights.masks import random_weight_mask
from xsub_utils.weights.prunable import Matrix, matrix, prunable_weights

DECAYED = Settings(epochs=2, batch_size=8, lr=0.01, warmup=3, weight_decay=0.1)
BERT = {f"bert.encoder.layer.{layer}.{component}.weight" for layer in range(2) for component in (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "intermediate.dense", "output.dense",
)}  # fmt: skip


def flat(mask):
    return torch.cat([one.flatten() for one in mask.values()])


def sparsity(mask):
    return 1 - flat(mask).double().mean().item()


def random_values(seed=0):
    rng = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(30, 40, generator=rng), "b": 3 * torch.randn(40, 20, generator=rng)}


# What is pruned


def test_matrices_of_the_layers_and_the_pooler_are_pruned():
    config = BertConfig(vocab_size=20, **SHAPE)
    assert set(prunable_weights(BertForSequenceClassification(config))) == BERT | {"bert.pooler.dense.weight"}
    assert set(prunable_weights(BertForMaskedLM(config))) == BERT


@pytest.mark.parametrize("tied", [False, True])
def test_of_mt5_both_stacks_are_pruned_and_no_words(tied):
    config = MT5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2, tie_word_embeddings=tied)
    names = {name.removesuffix(".weight") for name in prunable_weights(MT5ForConditionalGeneration(config))}
    own = ["layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v", "layer.0.SelfAttention.o"]
    fed = ["DenseReluDense.wi_0", "DenseReluDense.wi_1", "DenseReluDense.wo"]
    crossed = [f"layer.1.EncDecAttention.{one}" for one in "qkvo"]
    encoder = {f"encoder.block.{i}.{one}" for i in range(2) for one in own + [f"layer.1.{name}" for name in fed]}
    decoder = {f"decoder.block.{i}.{one}" for i in range(2) for one in own + crossed + [f"layer.2.{n}" for n in fed]}
    assert names == encoder | decoder
    assert all(name.startswith("encoder") for name in prunable_weights(MT5EncoderModel(config)))


def test_other_architectures():
    small = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    assert len(prunable_weights(DebertaV2Model(DebertaV2Config(**small, intermediate_size=16)))) == 12
    assert len(prunable_weights(GPT2Model(GPT2Config(vocab_size=20, n_embd=8, n_layer=2, n_head=2)))) == 8
    config = ElectraConfig(vocab_size=20, embedding_size=4, **SHAPE)
    assert len(prunable_weights(ElectraModel(config))) == 12  # not the projection of the embeddings
    config = DistilBertConfig(vocab_size=20, dim=8, n_layers=2, n_heads=2, hidden_dim=16)
    names = prunable_weights(DistilBertForSequenceClassification(config))  # its head has two linear layers
    assert len(names) == 12
    with pytest.raises(ValueError, match=r"linear layers within .*, got LayerNorm without any"):
        prunable_weights(nn.LayerNorm(3))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("bert.encoder.layer.0.attention.self.query.weight", Matrix("encoder", 1, "attention.self.query")),
        ("roberta.encoder.layer.11.output.dense.weight", Matrix("encoder", 12, "output.dense")),
        ("bert.pooler.dense.weight", Matrix("encoder", None, "pooler.dense")),
        ("decoder.block.3.layer.1.EncDecAttention.q.weight", Matrix("decoder", 4, "EncDecAttention.q")),
        ("h.1.attn.c_attn.weight", Matrix("encoder", 2, "attn.c_attn")),
        ("distilbert.transformer.layer.4.ffn.lin1.weight", Matrix("encoder", 5, "ffn.lin1")),
    ],
)
def test_where_a_matrix_stands(name, place):
    assert matrix(name) == place


# What is kept


def test_selection_is_that_of_torch_in_every_round():
    torch.manual_seed(0)
    layers = {"a": nn.Linear(30, 40), "b": nn.Linear(40, 20)}
    values, mask = {name: layer.weight.detach().clone() for name, layer in layers.items()}, None
    for step in range(9):
        some = [(layer, "weight") for layer in layers.values()]
        prune.global_unstructured(some, prune.L1Unstructured, amount=1 / (10 - step))
        mask = keep_largest(values, sparsity=(step + 1) / 10, within=mask)
        assert all(torch.equal(mask[name], layer.weight_mask.bool()) for name, layer in layers.items())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.333, 0.9, 0.9999])
def test_the_share_is_exact_and_the_masks_are_nested(share):
    values = random_values()
    first = keep_largest(values, sparsity=share)
    assert int((~flat(first)).sum()) == round(share * 2000)
    assert list(first) == ["a", "b"]
    later = keep_largest(random_values(1), sparsity=(1 + share) / 2, within=first)
    assert int((~flat(later)).sum()) == round((1 + share) / 2 * 2000)
    assert not (flat(later) & ~flat(first)).any()


def test_weights_that_are_zero_do_not_take_the_place_of_dropped_ones():
    values = {"a": torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0])}
    within = {"a": torch.tensor([False, True, True, False, True])}
    assert keep_largest(values, sparsity=0.6, within=within)["a"].tolist() == [False, True, True, False, False]


def test_a_threshold_for_all_for_a_stack_or_for_a_matrix():
    values = {"encoder.layer.0.a.weight": torch.arange(10.0), "encoder.layer.0.b.weight": torch.arange(10.0, 20.0),
              "decoder.layer.0.a.weight": torch.arange(20.0, 30.0)}  # fmt: skip
    kept = {scope: [int(one.sum()) for one in keep_largest(values, sparsity=0.5, scope=scope).values()]
            for scope in ("global", "stack", "matrix")}  # fmt: skip
    assert kept == {"global": [0, 5, 10], "stack": [0, 10, 5], "matrix": [5, 5, 5]}
    with pytest.raises(ValueError, match="scope: expected one of global, stack, matrix, got 'layer'"):
        keep_largest(values, sparsity=0.5, scope="layer")


def test_random_pruning_stays_within_the_mask():
    mask = keep_largest(random_values(), sparsity=0.3)
    found = prune_randomly(mask, sparsity=0.5, seed=0)
    assert int((~flat(found)).sum()) == 1000
    assert not (flat(found) & ~flat(mask)).any()
    shares = [
        torch.stack([prune_randomly(mask, sparsity=0.5, seed=seed)[name] for seed in range(300)]).double().mean(0)
        for name in mask
    ]
    for share, kept in zip(shares, mask.values(), strict=True):
        assert share[kept].min() > 0.5 and share[kept].max() < 0.9  # 5 / 7 of those in the mask
        assert not share[~kept].any()


def test_wrong_shares_and_masks_are_refused():
    values = random_values()
    for share in (-0.1, 1.0, 1.5):
        with pytest.raises(ValueError, match=f"sparsity: expected a share from 0, .* got {share}"):
            keep_largest(values, sparsity=share)
    within = keep_largest(values, sparsity=0.5)
    with pytest.raises(
        ValueError,
        match=r"sparsity: expected 0.500 or more, as within keeps only 1000 entries, got 0.3, which keeps 1400",
    ):
        keep_largest(values, sparsity=0.3, within=within)
    for wrong in ({"a": within["a"]}, within | {"b": within["b"].float()}, within | {"b": within["b"].T}):
        with pytest.raises(ValueError, match=r"within: expected a bool tensor of shape .* for 'b', got"):
            keep_largest(values, sparsity=0.7, within=wrong)


@pytest.mark.parametrize(("name", "row"), [("reviews", sequence_row), ("mlm", text_row), ("upos", token_row)])
def test_fisher_information_is_the_mean_squared_gradient(name, row, encoder, tokenizer):
    from xsub_utils.gradients.capture import example_loss
    from xsub_utils.models.encoders import load_encoder

    task = make_task(name, row)
    model = load_encoder(encoder, task.kind, list(task.labels) or None)[0]
    examples = task.examples("validation", LANGUAGES[0])
    before = [value.requires_grad for value in model.parameters()]
    found = fisher_information(model, make_batches(examples, tokenizer, task.kind, batch_size=4))
    assert [value.requires_grad for value in model.parameters()] == before
    weights = prunable_weights(model)
    expected = {key: torch.zeros_like(weight) for key, weight in weights.items()}
    for batch in make_batches(examples, tokenizer, task.kind, batch_size=1):
        labels = batch.pop("labels")
        loss = example_loss(model(**batch).logits, labels)
        for key, gradient in zip(weights, torch.autograd.grad(loss.sum(), list(weights.values())), strict=True):
            expected[key] += gradient.square() / len(examples)
    for key, one in expected.items():
        torch.testing.assert_close(found[key], one, rtol=1e-4, atol=1e-12)
    with pytest.raises(ValueError, match="batches: expected at least one batch, got none"):
        fisher_information(model, [])


# What training moves


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return XLMRobertaForSequenceClassification(
        XLMRobertaConfig(vocab_size=len(tokenizer), num_labels=2, **SHAPE, **still)
    )


def test_dropped_weights_stay_zero_and_training_is_that_of_torch_pruning(reviews, model, tokenizer, tmp_path):
    mask = keep_largest(prunable_weights(model), sparsity=0.5)
    folder = finetune_ticket(
        reviews, (model, tokenizer), seed=5, out=tmp_path, mask=mask, settings=DECAYED, progress=False
    )
    found = dict(load_finetuned(folder)[0].named_parameters())
    for name, kept in mask.items():
        assert not found[name][~kept].any()
        assert found[name][kept].ne(0).all()

    for name, kept in mask.items():  # a weight is now the product of a parameter and the mask
        prune.custom_from_mask(model.get_submodule(name.removesuffix(".weight")), "weight", kept)
    rows, whole = Rows(reviews.splits["train"], tokenizer, "sequence", 128), dict(model.named_parameters())
    still = {name for name in whole if "LayerNorm" in name or name.endswith("bias")}
    groups = [{"params": [whole[name] for name in still], "weight_decay": 0.0},
              {"params": [whole[name] for name in whole.keys() - still], "weight_decay": 0.1}]  # fmt: skip
    optimizer, order, step = torch.optim.AdamW(groups, lr=0.01), LengthGrouped(rows, 8, 5), 0
    for epoch in range(2):
        order.set_epoch(epoch)
        indices = list(order)
        for start in range(0, len(indices), 8):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * min(step / 3, (12 - step) / (12 - 3))
            model(**rows.__getitems__(indices[start : start + 8])).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    for name, value in whole.items():
        key = name.removesuffix("_orig")
        value = value * mask[key] if key in mask else value
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


def test_a_mask_of_ones_is_ordinary_training(reviews, encoder, tmp_path):
    whole = finetune(reviews, encoder, seed=3, out=tmp_path / "whole", settings=QUICK, progress=False)
    weights = prunable_weights(load_finetuned(whole)[0])
    ones = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    folder = finetune_ticket(reviews, encoder, seed=3, out=tmp_path / "ones", mask=ones, settings=QUICK, progress=False)
    found = load_finetuned(folder)[0].state_dict()
    assert all(torch.equal(found[name], value) for name, value in load_finetuned(whole)[0].state_dict().items())


def test_a_mask_that_does_not_fit_is_refused_and_nothing_is_written(reviews, encoder, tmp_path):
    with pytest.raises(ValueError, match="mask: expected names of parameters of the model, got 'a'"):
        finetune_ticket(reviews, encoder, seed=3, out=tmp_path / "out", mask={"a": torch.ones(2) > 0}, settings=QUICK)
    assert not list(tmp_path.glob("out/*"))


def test_another_mask_is_another_run(reviews, encoder, tmp_path):
    whole = finetune(reviews, encoder, seed=3, out=tmp_path / "whole", settings=QUICK, progress=False)
    weights = prunable_weights(load_finetuned(whole)[0])
    out = tmp_path / "out"
    finetune_ticket(
        reviews, encoder, seed=3, out=out, mask=keep_largest(weights, sparsity=0.5), settings=QUICK, progress=False
    )
    with pytest.raises(ValueError, match="holds another run"):
        finetune_ticket(
            reviews, encoder, seed=3, out=out, mask=keep_largest(weights, sparsity=0.6), settings=QUICK, progress=False
        )


# Rounds


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def rounds(reviews, encoder, tmp_path_factory):
    """Three rounds, and the weights with which each began."""
    starts, train = [], trainer.train

    def watched(model, *arguments):
        starts.append({name: value.clone() for name, value in model.state_dict().items()})
        train(model, *arguments)

    out = tmp_path_factory.mktemp("rounds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train", watched)
        found = find_tickets(
            reviews, encoder, seed=3, out=out, sparsities=(0.3, 0.5, 0.9), settings=QUICK, progress=False
        )
    return found, starts, out


def test_every_round_begins_with_the_same_weights_but_for_dropped_ones(rounds):
    found, starts, _ = rounds
    assert len(starts) == 4
    for ticket, start in zip(found, starts, strict=True):
        for name, value in starts[0].items():
            kept = ticket.mask.get(name, torch.ones_like(value, dtype=torch.bool))
            assert torch.equal(start[name], torch.where(kept, value, 0.0)), name


def test_rounds_drop_the_smallest_trained_weights(rounds):
    found, _, out = rounds
    assert [ticket.sparsity for ticket in found] == [0, 0.3, 0.5, 0.9]
    total = sum(one.numel() for one in found[0].mask.values())
    for ticket, later in pairwise(found):
        assert int((~flat(later.mask)).sum()) == round(later.sparsity * total)
        assert not (flat(later.mask) & ~flat(ticket.mask)).any()
        weights = prunable_weights(load_finetuned(ticket.folder)[0])
        trained = torch.cat([weights[name].detach().abs().flatten() for name in later.mask])
        kept, dropped = flat(later.mask), flat(ticket.mask) & ~flat(later.mask)
        assert trained[kept].min() >= trained[dropped].max()
        assert not trained[~flat(ticket.mask)].any()
        saved, meta = load_masks(out / f"sparsity-{100 * later.sparsity:g}.npz")
        assert all(torch.equal(saved[name], one) for name, one in later.mask.items())
        assert meta["sparsity"] == later.sparsity


def test_complete_rounds_are_read_and_killed_ones_go_on(rounds, reviews, encoder, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    calls = []

    def go(out):
        return find_tickets(
            reviews, encoder, seed=3, out=out, sparsities=(0.3, 0.5, 0.9), settings=QUICK, progress=False
        )

    def fails_in_the_third(*arguments, train=trainer.train):
        calls.append(arguments)
        if len(calls) == 3:
            raise Killed
        train(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainer, "train", fails_in_the_third)
        go(tmp_path)
    go(tmp_path)
    found, _, out = rounds
    before = content(out)
    assert content(tmp_path) == before
    monkeypatch.setattr(trainer, "train", None)  # nothing is trained again
    again = go(out)
    assert content(out) == before
    for ticket, other in zip(found, again, strict=True):
        assert all(torch.equal(one, other.mask[name]) for name, one in ticket.mask.items())


def test_rounds_of_another_kind_are_refused_and_change_nothing(rounds, reviews, encoder):
    _, _, out = rounds
    before = content(out)
    with pytest.raises(ValueError, match="holds another run"):
        find_tickets(
            reviews, encoder, seed=3, out=out, sparsities=(0.3,), scope="matrix", settings=QUICK, progress=False
        )
    assert content(out) == before


def test_late_rewinding_begins_after_an_epoch_of_the_full_model(reviews, encoder, tmp_path, monkeypatch):
    starts, train = [], trainer.train

    def watched(model, *arguments):
        starts.append({name: value.clone() for name, value in model.state_dict().items()})
        train(model, *arguments)

    monkeypatch.setattr(trainer, "train", watched)
    options = {"sparsities": (0.5,), "settings": QUICK, "progress": False}
    found = find_tickets(reviews, encoder, seed=3, out=tmp_path, rewind_epoch=1, **options)
    first = load_finetuned(found[0].folder, 1)[0].state_dict()
    for name, value in first.items():
        kept = found[1].mask.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(starts[1][name], torch.where(kept, value, 0.0)), name


def test_late_rewinding_to_an_epoch_that_patience_spared_says_which_there_are(reviews, encoder, tmp_path):
    settings = replace(QUICK, epochs=3, lr=1e-12, patience=1, eval_size=8)  # no score gets better
    with pytest.raises(
        ValueError, match="rewind_epoch: expected an epoch of the full model \\(epoch-1, epoch-2\\), got 3"
    ):
        find_tickets(reviews, encoder, seed=3, out=tmp_path, rewind_epoch=3, settings=settings, progress=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        *[({"sparsities": one}, "rising shares above 0") for one in ((0.5, 0.5), (0.5, 0.4), (0.0, 0.1), (0.5, 1.0))],
        ({"sparsities": 1.0}, r"sparsities: expected rising shares above 0 and below 1, got \(1.0,\)"),
        ({"scope": "layer"}, "scope: expected one of global, stack, matrix, got 'layer'"),
        ({"rewind_epoch": 4}, "rewind_epoch: expected 0 to 3, got 4; settings have that many epochs"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_training(wrong, message, reviews, encoder, tmp_path):
    with pytest.raises(ValueError, match=message):
        find_tickets(reviews, encoder, seed=3, out=tmp_path, settings=QUICK, **wrong)
    assert not list(tmp_path.iterdir())


def test_an_encoder_decoder_finds_tickets_in_both_stacks(tmp_path):
    task = text_to_text(load_task("nli", ["qaa"], sizes={"train": 24, "test": 8}))
    texts = [*task.examples("train")["text"], *task.examples("train")["target"]]
    tokenizer = train_tokenizer(texts, vocab_size=150, max_length=60)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    ids = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    torch.manual_seed(0)
    MT5ForConditionalGeneration(MT5Config(vocab_size=len(tokenizer), **shape, **ids)).save_pretrained(tmp_path / "mt5")
    tokenizer.save_pretrained(tmp_path / "mt5")
    options = {"scope": "stack", "sparsities": (0.2, 0.5), "settings": replace(QUICK, epochs=1), "progress": False}
    found = find_tickets(task, tmp_path / "mt5", seed=0, out=tmp_path / "out", **options)
    for ticket in found:
        weights = prunable_weights(load_finetuned(ticket.folder)[0])
        for stack in ("encoder", "decoder"):
            names = [name for name in ticket.mask if matrix(name).stack == stack]
            dropped = torch.cat([~ticket.mask[name].flatten() for name in names])
            assert int(dropped.sum()) == round(ticket.sparsity * len(dropped))
            assert not any(weights[name][~ticket.mask[name]].any() for name in names)
    layers = mask_overlap(found[1].mask, found[2].mask, by="layer")
    assert layers["part"].tolist() == [f"{stack} {layer}" for stack in ("encoder", "decoder") for layer in (1, 2)]


# Overlap


def weight_masks(model, share=0.5):
    shapes = {name: weight.shape for name, weight in prunable_weights(model).items()}
    return [{name: torch.rand(shape) < share for name, shape in shapes.items()} for _ in range(3)]


def test_overlap_is_that_of_the_parts():
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=20, **SHAPE))
    a, b, c = weight_masks(model)
    total = mask_overlap(a, b).iloc[0]
    assert total["part"] == "all"
    assert total["jaccard"] == pytest.approx((flat(a) & flat(b)).sum().item() / (flat(a) | flat(b)).sum().item())
    layers = mask_overlap(a, b, by="layer").set_index("part")["jaccard"]
    assert list(layers.index) == [1, 2]  # the pooler is in none
    names = [name for name in a if matrix(name).layer == 2]
    both, some = (sum(int(join(a[name], b[name]).sum()) for name in names) for join in (and_, or_))
    assert layers[2] == pytest.approx(both / some)
    components = mask_overlap(a, b, by="component").set_index("part")["jaccard"]
    assert len(components) == 7
    key = "bert.encoder.layer.{}.attention.self.key.weight"
    pooled = [torch.cat([mask[key.format(i)].flatten() for i in range(2)]) for mask in (a, b)]
    both, some = (pooled[0] & pooled[1]).sum().item(), (pooled[0] | pooled[1]).sum().item()
    assert components["attention.self.key"] == pytest.approx(both / some)
    stack = torch.stack([flat(one) for one in (a, b, c)])
    assert joint_overlap([a, b, c]) == pytest.approx(stack.all(0).sum().item() / stack.any(0).sum().item())


def test_chance_is_what_random_masks_share():
    torch.manual_seed(0)
    dense, thin = {"x": torch.rand(400, 100) < 0.9}, {"x": torch.rand(400, 100) < 0.1}
    a, b = ({"a": one["x"], "b": other["x"]} for one, other in ((dense, thin), (dense, thin)))
    found = mask_overlap(a, b).iloc[0]
    drawn = [
        mask_overlap(random_weight_mask(a, seed=seed), random_weight_mask(b, seed=50 + seed)) for seed in range(20)
    ]
    assert found["expected_within"] == pytest.approx(sum(one["jaccard"][0] for one in drawn) / 20, abs=2e-3)
    assert found["expected"] == pytest.approx(0.25 / 0.75, abs=0.01)  # half of the entries, anywhere
    assert found["expected_within"] > 0.6


def test_masks_of_other_models_are_refused():
    a = {"x": torch.ones(2, 3) > 0}
    with pytest.raises(ValueError, match="masks with a matrix in common"):
        mask_overlap(a, {"y": a["x"]})
    with pytest.raises(ValueError, match=r"b: expected a mask of shape \(2, 3\) for 'x', as in a, got \(3, 2\)"):
        mask_overlap(a, {"x": a["x"].T})
    with pytest.raises(ValueError, match="masks: expected at least one, got none"):
        joint_overlap([])
    for other in ({"y": a["x"]}, {"x": a["x"].T}, a | {"y": a["x"]}):
        with pytest.raises(ValueError, match=r"masks: .* others in number 2 than in the first"):
            joint_overlap([a, other])


# Winning


def test_a_ticket_wins_within_a_standard_deviation():
    full = [0.8, 0.9]  # of a standard deviation of .0707
    assert [is_winning(score, full) for score in (0.95, 0.78, 0.77)] == [True, True, False]
    assert [is_winning(score, full, lower_is_better=True) for score in (0.5, 0.92, 0.93)] == [True, True, False]
    with pytest.raises(ValueError, match=r"full: expected scores of at least two seeds, .* got 1"):
        is_winning(0.9, [0.9])
    with pytest.raises(ValueError, match="finite"):
        is_winning(0.5, [float("nan"), 0.9])
