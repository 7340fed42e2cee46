"""Notebook 00: the invented languages, and what pre-training on them has learned."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from xsub_utils.data.minibabel import examples as minibabel
from xsub_utils.data.minibabel import languages as truth
from xsub_utils.evaluation.scores import evaluate
from xsub_utils.models import encoders
from xsub_utils.models.batches import IGNORED, make_batches
from xsub_utils.models.example_order import NumberedBatch
from xsub_utils.study.conditions import Model
from xsub_utils.study.study import encoder_identity, stored_table

KINDS = truth.DISTANCES
UNSEEN = 10**6  # number of the first text that no pre-training has seen


def true_distances(languages: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """The truth, tidy: kind, a, b, distance."""
    parts = []
    for kind in KINDS:
        matrix = truth.distances(kind, languages, seed=seed).rename_axis("a").rename_axis("b", axis=1)
        parts.append(matrix.stack().rename("distance").reset_index().assign(kind=kind))
    return pd.concat(parts, ignore_index=True)


def pretraining(languages: Sequence[str], size: int = 300, encoder: str = "minibabel-base") -> pd.DataFrame:
    """Perplexity of masked sub-words of new texts: model, language, perplexity.

    Models are `Model.PRETRAINED`, its `UNTRAINED` twin, and `WORD_FREQUENCIES`, those of the sub-words of a language.
    """
    key = {"encoder": encoder_identity(encoder), "languages": list(languages), "size": size}
    return stored_table("pretraining", key, lambda: _perplexities(languages, size, encoder))


def _perplexities(languages: Sequence[str], size: int, encoder: str) -> pd.DataFrame:
    model, tokenizer = encoders.load_encoder(encoder, "mlm")
    models = {Model.UNTRAINED: encoders.random_twin(model), Model.PRETRAINED: model}
    rows = []
    for language in languages:
        texts = minibabel.examples("mlm", language, range(UNSEEN, UNSEEN + size))
        masked = make_batches(texts, tokenizer, "mlm")
        rows.append((Model.WORD_FREQUENCIES, language, _unigram_perplexity(language, masked, tokenizer)))
        rows += [(name, language, evaluate(scored, masked, metric="perplexity")) for name, scored in models.items()]
    return pd.DataFrame(rows, columns=["model", "language", "perplexity"])


def _unigram_perplexity(language: str, masked: list[NumberedBatch], tokenizer: PreTrainedTokenizerBase) -> float:
    """Perplexity of guessing by sub-word counts (plus one) in texts like those that were pre-trained on."""
    seen = minibabel.examples("mlm", language, range(2000))["text"].tolist()
    ids = np.concatenate(tokenizer(seen, add_special_tokens=False)["input_ids"])
    counts = np.bincount(ids, minlength=len(tokenizer)) + 1.0
    labels = np.concatenate([batch["labels"][batch["labels"] != IGNORED].numpy() for batch in masked])
    return float(np.exp(-np.log(counts[labels] / counts.sum()).mean()))
