"""Published scores of language subnetworks of single weights; the source lies beside the table."""

from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import pandas as pd

TABLE = Path(str(files("xsub_utils"))) / "assets" / "foroutan2022.csv"
_NUMBERS = {"table": "int64", "sparsity": "int64", "value": "float64"}


def published_tickets() -> pd.DataFrame:
    """Scores of lottery tickets of one language, trained and evaluated in another: tables 1 to 6 of the paper.

    A ticket is found by iterative magnitude pruning in the source language; what it leaves of the pre-trained weights
    is then trained on the target language. Scores are means over three seeds, on the development set.

    Returns:
        A row per printed number, in the order of the tables, with the columns

        - table: 1 (NER, 5 targets, among the masks one from four languages), 2 (full model, winning ticket and random
          mask per language and task), 3 (MLM), 4 (XNLI), 5 (NER; 3–5 are tickets of mBERT, every source on every
          target), or 6 (XNLI with mT5, also the full model and a random mask).
        - model: "mBERT" (bert-base-multilingual-cased) or "mT5" (mt5-base).
        - task: "mlm" (Wikipedia), "ner" (WikiANN) or "nli" (XNLI).
        - metric: "perplexity" (lower is better), "f1" or "accuracy", each of one task.
        - mask: What was trained: "full" (all weights), "ticket" or "random" (as many weights, drawn).
        - source: Language of the ticket, "en-fa-fr-zh" for the one from four; empty for full and random.
        - target: Language of training and evaluation, an ISO 639-1 code.
        - sparsity: Percent of the prunable weights that are removed; 0 for the full model. In table 2 of each winning
          ticket its own, and that of the random mask beside it; 50 elsewhere.
        - value: As printed: perplexity, or percent points.

        Key: table, task, mask, source, target. The frame is the caller's own.

    Tables 1 and 2 differ in four scores of the full model (NER), tables 1 and 5 in seven of tickets, by 0.21 points at
    most. The diagonals of tables 3–5 are the tickets of table 2 where those have 50 percent; of five they are not: NER
    fa and ur, XNLI es, ru and ur. The file beside the table lists the numbers.

    Source: Foroutan et al. 2022, tables 1–6.
    """
    return _table().copy()


@lru_cache
def _table() -> pd.DataFrame:
    return pd.read_csv(TABLE, dtype=_NUMBERS, na_filter=False)
