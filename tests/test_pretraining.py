"""Masked language modelling: the loss equals the model's own, batches cover the texts, and it learns."""

import numpy as np
import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from xsub_utils.models import pretraining
from xsub_utils.models.pretraining import PretrainingSettings, train_masked_lm
from xsub_utils.models.tokenizers import train_tokenizer

WORDS = ["ani", "beku", "cadi", "dofe", "gilu"]
TEXTS = [" ".join(WORDS[i * k % 5] for k in range(2 + i % 7)) for i in range(90)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=40)


@pytest.fixture
def rows(tokenizer):
    return [torch.tensor(ids) for ids in tokenizer(TEXTS)["input_ids"]]


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    return XLMRobertaForMaskedLM(
        XLMRobertaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
        )
    )


def test_loss_equals_the_models_own(model, rows, tokenizer):
    model = model.double().eval()
    batches = pretraining._masked_batches(rows, tokenizer, PretrainingSettings(batch_size=16))
    for _ in range(3):
        ids, labels = next(batches)
        expected = model(ids, attention_mask=(ids != 1).long(), labels=labels).loss
        torch.testing.assert_close(pretraining._masked_loss(model, ids, labels), expected)


def test_an_epoch_holds_every_text_once_in_batches_of_like_length(rows, tokenizer):
    batches = pretraining._masked_batches(rows, tokenizer, PretrainingSettings(batch_size=20))
    epochs = [[next(batches) for _ in range(5)] for _ in range(2)]
    for epoch in epochs:
        originals = [torch.where(labels == -100, ids, labels) for ids, labels in epoch]
        seen = sorted(tuple(row[row != 1].tolist()) for original in originals for row in original)
        assert seen == sorted(tuple(row.tolist()) for row in rows)
    padding = np.mean([(ids == 1).float().mean() for ids, _ in epochs[0]])
    assert padding < 0.1
    assert any(not torch.equal(a, b) for (a, _), (b, _) in zip(*epochs, strict=True))


def test_learning_rate_rises_then_falls_to_zero(model):
    settings = PretrainingSettings(steps=40, warmup=10, lr=0.1)
    optimizer, schedule = pretraining._optimizer(model, settings)
    rates = []
    for _ in range(settings.steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.01) and max(rates) == pytest.approx(0.1) == pytest.approx(rates[9])
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-3 and schedule.get_last_lr()[0] == pytest.approx(0, abs=1e-9)


def test_only_matrices_decay(model):
    optimizer, _ = pretraining._optimizer(model, PretrainingSettings(weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {id(p): 0.3 if p.ndim > 1 else 0.0 for p in model.parameters()}


def test_training_lowers_the_loss_and_logs_every_50_steps(model, rows, tokenizer, capfd):
    settings = PretrainingSettings(steps=120, batch_size=16, lr=5e-3, warmup=10, dropout=0.1)
    curve = train_masked_lm(model, rows, tokenizer, settings)
    assert [point["step"] for point in curve] == [50, 100, 120]
    assert curve[-1]["loss"] < curve[0]["loss"] < np.log(len(tokenizer))
    out, err = capfd.readouterr()
    assert out == "" and "pre-training" in err
