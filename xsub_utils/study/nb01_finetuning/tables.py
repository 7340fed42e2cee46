"""Notebook 01: scores of the joint models, their baselines, and zero-shot transfer."""

from collections.abc import Sequence
from math import nan

import pandas as pd

from xsub_utils._internal import store
from xsub_utils.data.minibabel import languages as truth
from xsub_utils.evaluation import baselines
from xsub_utils.evaluation.scores import chance_level
from xsub_utils.models.batches import scored_words
from xsub_utils.statistics.inference import mantel
from xsub_utils.study.conditions import Model
from xsub_utils.study.csv_tables import read_table
from xsub_utils.study.study import Study, load_model, stored_table
from xsub_utils.training import settings


def scores(study: Study, task: str, seed: int) -> pd.DataFrame:
    """The joint model on the test split: task, metric, language, model, seed, score."""
    return _scores(study, task, seed, study.languages).assign(model=Model.FINETUNED)


def transfer(study: Study, task: str, seed: int) -> pd.DataFrame:
    """Models trained on one language each, tested on all: task, metric, source, target, seed, score."""
    parts = [_scores(study, task, seed, (source,)).assign(source=source) for source in study.languages]
    return pd.concat(parts, ignore_index=True).rename(columns={"language": "target"})


def _scores(study: Study, task: str, seed: int, trained_on: Sequence[str]) -> pd.DataFrame:
    folder, metric = study.model_folder(task, seed, trained_on), study.task(task).metric

    def compute() -> pd.DataFrame:
        model = load_model(folder)
        rows = [(language, study.score(task, model, language)) for language in study.languages]
        return pd.DataFrame(rows, columns=["language", "score"])

    key = {"model": folder.name, "task": study.task(task).identity}
    table = stored_table("scores", key, compute)
    return table.assign(task=task, metric=metric, seed=seed)


def learning_curve(study: Study, task: str, seed: int) -> pd.DataFrame:
    """The joint model on the validation split after every epoch: task, seed, language, epoch, score."""
    table = read_table(study.model_folder(task, seed) / "scores.csv", missing=["nan", ""])
    return table.assign(task=task, seed=seed)


def baseline_scores(study: Study, task: str) -> pd.DataFrame:
    """What needs no encoder: a bag of words, and the best constant answer. Columns as in `scores`."""
    data = study.task(task)
    column, key = "labels" if data.kind == "token" else "label", {"task": data.identity}
    test = data.examples("test")
    if data.kind == "token":  # on the words that the model sees
        test = scored_words(test, study.tokenizer(), max_length=settings.preset(study.preset, data).max_length)
        key |= {"words": store.digest([len(words) for words in test["tokens"]])}

    def compute() -> pd.DataFrame:
        words = baselines.bag_of_words_baseline(data.examples("train"), test, data.spec)
        constant = {
            language: chance_level(test.loc[test["language"] == language, column], study.metric(task).name)
            for language in study.languages
        }
        table = pd.DataFrame({Model.BAG_OF_WORDS: words, Model.CONSTANT: constant}).rename_axis("language")
        return table.melt(var_name="model", value_name="score", ignore_index=False).reset_index()

    table = stored_table("baselines", key, compute)
    return table.assign(task=task, metric=data.metric, seed=0)


def with_relatedness(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `transfer` with the true relatedness (share of words in common) and the families of each pair."""
    related = 1 - truth.distances("lexical")
    root = {code: truth.ancestors(code, truth.by_code())[-1] for code in related}
    pairs = list(zip(table["source"], table["target"], strict=True))
    family = [f"family {root[a]}" if root[a] == root[b] else "unrelated" for a, b in pairs]
    return table.assign(relatedness=[related.loc[a, b] for a, b in pairs], family=family)


def kinship(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's ρ between zero-shot transfer and true relatedness, for each task and for all together.

    Together, each task's scores are standardised first, lest the task with the widest range decide.

    Args:
        table: From `with_relatedness`; several seeds are averaged.

    Returns:
        One row a task and one "all": task, rho, and p of `mantel`: the share of relabellings of the languages that
        give as much. Fewer than three languages, or equal scores of all pairs, give nan.
    """
    pairs = table[table["source"] != table["target"]]
    means = pairs.groupby(["task", "source", "target"], sort=False)["score"].mean().unstack("task", sort=False)
    means["all"] = ((means - means.mean()) / means.std()).mean(axis=1)
    related = pairs.groupby(["source", "target"])["relatedness"].first().unstack("target")
    rows = []
    for task, transferred in means.items():
        defined = len(related) > 2 and transferred.nunique() > 1
        rho, p, *_ = mantel(related, transferred.unstack("target")) if defined else (nan, nan)
        rows.append((task, rho, p))
    return pd.DataFrame(rows, columns=["task", "rho", "p"])
