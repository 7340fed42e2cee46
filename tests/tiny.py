"""A tiny task of each kind and a tiny encoder, which several tests train."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from xsub_utils.data.schema import TASKS
from xsub_utils.data.tasks import Task
from xsub_utils.models.tokenizers import train_tokenizer
from xsub_utils.training.settings import Settings

LANGUAGES = ("qaa", "qba")
WORDS = ["ani", "beku", "cadi", "dofe", "gilu", "hamo", "jenu", "kilo"]
SIZES = {"train": 24, "validation": 10}
SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
}
QUICK = Settings(epochs=3, batch_size=8, lr=0.01)


def sequence_row(rng):
    words = rng.choice(WORDS[:-2], rng.integers(2, 9)).tolist()
    label = int(rng.integers(2))
    words[rng.integers(len(words))] = WORDS[-2:][label]
    return {"text": " ".join(words), "label": label}


def token_row(rng):
    words = rng.choice(WORDS, rng.integers(2, 9)).tolist()
    return {"tokens": words, "labels": [WORDS.index(word) % 2 for word in words]}


def text_row(rng):
    return {"text": " ".join(rng.choice(WORDS, rng.integers(3, 9)))}


def make_task(name, row, sizes=SIZES):
    rng = np.random.default_rng(0)
    splits = {
        split: pd.DataFrame(
            [{"id": f"{split}-{i}", "language": code, **row(rng)} for code in LANGUAGES for i in range(size)]
        )
        for split, size in sizes.items()
    }
    return Task(TASKS[name], LANGUAGES, splits, "local", f"made of {sizes}")


@pytest.fixture(scope="module")
def reviews():
    return make_task("reviews", sequence_row)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(WORDS)] * 3, vocab_size=60, max_length=30)


@pytest.fixture(scope="module")
def encoder(tokenizer, tmp_path_factory):
    """Folder of a tiny XLM-R as it comes from pre-training."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    XLMRobertaForMaskedLM(XLMRobertaConfig(vocab_size=len(tokenizer), **SHAPE)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
