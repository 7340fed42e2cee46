"""Notebook 03, masks: how much two subnetworks overlap, beside chance, and what moves a mask most."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import permutations, product
from typing import Any

import numpy as np
import pandas as pd
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.manifold import MDS, TSNE
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

from xsub_utils.evaluation.scores import evaluate
from xsub_utils.heads import removal
from xsub_utils.models.encoders import load_encoder
from xsub_utils.similarity import overlap
from xsub_utils.similarity.tokens import token_overlap
from xsub_utils.statistics.variance import variance_shares
from xsub_utils.study.conditions import Control, Differs, Likeness, Model, Quantity
from xsub_utils.study.nb02_pruning import tables as pruning
from xsub_utils.study.nb03_similarity.representations import parallel
from xsub_utils.study.study import Study, encoder_identity, load_model, stored_table

FACTORS = ["task", "language", "seed", "mask_seed"]
DIFFERS = {  # the factors in which the masks of a pair differ -> the condition
    ("mask_seed",): Differs.MASK_SEED,
    ("seed",): Differs.MODEL_SEED,
    ("language",): Differs.LANGUAGE,
    ("task",): Differs.TASK,
    ("task", "language"): Differs.TASK_AND_LANGUAGE,
}
CLUSTERINGS: dict[str, Callable[[int], Any]] = {
    "k-means": lambda k: KMeans(k, n_init=30, random_state=0),
    "agglomerative": lambda k: AgglomerativeClustering(k, metric="cosine", linkage="complete"),
}
MEASURES = ("jaccard", "expected_within", "adjusted_within", "p_within", "kappa", "matching", "overlap")
TSNE_PERPLEXITY = 10  # as in Apostolikas et al. 2023
Masks = Mapping[tuple, Tensor]  # (task, language, seed, mask_seed) -> (layers, heads)


def all_masks(
    study: Study, tasks: Sequence[str], seeds: Sequence[int], mask_seeds: Sequence[int]
) -> dict[tuple, Tensor]:
    """(task, language, seed, mask_seed) -> the mask."""
    return {
        (task, language, seed, mask_seed): mask
        for task, seed, mask_seed in product(tasks, seeds, mask_seeds)
        for language, mask in pruning.subnetworks(study, task, seed, mask_seed).items()
    }


def pairs(masks: Masks) -> pd.DataFrame:
    """Overlap of masks that differ in one respect: factors of both (`task`, `task_b`, …), differs, measures."""
    table = overlap.compare(masks, MEASURES)
    kept = np.array([[int(masks[name].sum()) for name in pair] for pair in zip(table["a"], table["b"], strict=True)])
    # The Jaccard index that masks of these sizes could reach.
    table["ceiling"] = kept.min(axis=1) / np.where(kept.any(axis=1), kept.max(axis=1), np.nan)
    for suffix, column in (("", "a"), ("_b", "b")):
        keys = pd.DataFrame(table.pop(column).tolist(), columns=[f"{factor}{suffix}" for factor in FACTORS])
        table = keys.join(table) if suffix == "" else table.join(keys)
    unequal = np.column_stack([table[factor] != table[f"{factor}_b"] for factor in FACTORS])
    names = [tuple(np.array(FACTORS)[row]) for row in unequal]
    return table.assign(differs=[DIFFERS.get(name) for name in names]).dropna(subset="differs").reset_index(drop=True)


def summary(table: pd.DataFrame, values: Sequence[str]) -> pd.DataFrame:
    """Mean of each value by what differs, and its range over tasks: differs, measure, mean, low, high."""
    groups = table["task"] + " " + table["task_b"]
    rows = []
    for differs, measure in product([one for one in Differs if one in set(table["differs"])], values):
        means = table[table["differs"] == differs].groupby(groups)[measure].mean()
        rows.append((differs, measure, means.mean(), means.min(), means.max()))
    return pd.DataFrame(rows, columns=["differs", "measure", "mean", "low", "high"])


def between_languages(table: pd.DataFrame, languages: Iterable[str], value: str) -> pd.DataFrame:
    """Mean overlap by task and pair of languages: task, a, b, value; on the diagonal another mask seed."""
    same = table[table["differs"] == Differs.MASK_SEED]
    other = table[table["differs"] == Differs.LANGUAGE]
    symmetric = pd.concat([same, other, _swapped(other)])
    means = symmetric.groupby(["task", "language", "language_b"], sort=False)[value].mean()
    order = pd.MultiIndex.from_product([table["task"].unique(), languages, languages])
    return means.reindex(order.set_names(["task", "a", "b"])).reset_index()


def between_tasks(table: pd.DataFrame, tasks: Sequence[str], value: str) -> pd.DataFrame:
    """Mean overlap by pair of tasks, same language: a, b, value; on the diagonal another model seed."""
    same = table[table["differs"] == Differs.MODEL_SEED]
    other = table[table["differs"] == Differs.TASK]
    means = pd.concat([same, other, _swapped(other)]).groupby(["task", "task_b"], sort=False)[value].mean()
    return means.reindex(pd.MultiIndex.from_product([tasks, tasks], names=["a", "b"])).reset_index()


def variance(masks: Masks, importance: pd.DataFrame) -> pd.DataFrame:
    """Which factor moves masks, and which the importance of heads: quantity, component, share, low, high."""
    design = pd.DataFrame(list(masks), columns=FACTORS)
    bits = np.stack([mask.flatten().numpy() for mask in masks.values()]).astype(float)
    vectors = vectors_of(importance)
    parts = {
        Quantity.HEADS_KEPT: (design, bits),
        Quantity.HEAD_IMPORTANCE: (vectors.index.to_frame(index=False), vectors.to_numpy()),
    }
    tables = [variance_shares(keys, values).assign(quantity=name) for name, (keys, values) in parts.items()]
    return pd.concat(tables, ignore_index=True)


def survivors(masks: Masks) -> pd.DataFrame:
    """Heads kept by every search of a task (or of all) in a language (or in all), and how many chance would leave.

    Returns:
        task, language, kept (heads), expected (if every search kept as many heads of each layer at random), searches.
    """
    keys = pd.DataFrame(list(masks), columns=FACTORS)
    stack = np.stack([mask.numpy() for mask in masks.values()])
    tasks, languages = [*keys["task"].unique(), "all"], [*keys["language"].unique(), "all"]
    rows = []
    for task, language in product(tasks, languages):
        searches = stack[
            keys["task"].isin([task] if task != "all" else tasks)
            & keys["language"].isin([language] if language != "all" else languages)
        ]
        chance = searches.shape[2] * searches.mean(2).prod(0).sum()
        rows.append((task, language, int(searches.all(0).sum()), chance, len(searches)))
    return pd.DataFrame(rows, columns=["task", "language", "kept", "expected", "searches"])


def joint_by_layer(masks: Masks) -> pd.DataFrame:
    """n-way Jaccard index of all searches of a task and language, by layer: task, language, layer, jaccard."""
    groups: dict[tuple, list[Tensor]] = {}
    for (task, language, *_), mask in masks.items():
        groups.setdefault((task, language), []).append(mask)
    rows = [
        (*key, layer + 1, overlap.joint_jaccard([mask[layer] for mask in group]))
        for key, group in groups.items()
        for layer in range(len(group[0]))
    ]
    return pd.DataFrame(rows, columns=["task", "language", "layer", "jaccard"])


def never_used(masks: Masks) -> pd.DataFrame:
    """Heads that no search keeps: task, layer, unused; "all" counts those that no task keeps."""
    groups = {"all": list(masks.values())}
    for (task, *_), mask in masks.items():
        groups.setdefault(task, []).append(mask)
    rows = [
        (task, layer, int(count))
        for task, group in groups.items()
        for layer, count in enumerate(overlap.never_used(group), start=1)
    ]
    return pd.DataFrame(rows, columns=["task", "layer", "unused"])


def vectors_of(importance: pd.DataFrame) -> pd.DataFrame:
    """Head importances as vectors: one row per (task, language, seed, mask_seed), one column per (layer, head)."""
    wide = importance.pivot(index=FACTORS, columns=["layer", "head"], values="importance")
    first_seen = pd.MultiIndex.from_frame(importance[FACTORS].drop_duplicates())
    return wide.reindex(first_seen)


def maps(importance: pd.DataFrame) -> pd.DataFrame:
    """Importance vectors in two dimensions: the factors, method, x, y.

    Source: t-SNE of importance vectors as in Apostolikas et al. 2023; multidimensional scaling keeps distances.
    """
    vectors = vectors_of(importance)
    few = min(TSNE_PERPLEXITY, (len(vectors) - 1) / 3)
    methods = {
        "t-SNE": TSNE(perplexity=few, init="pca", random_state=42),
        "MDS": MDS(n_init=1, init="classical_mds", random_state=42),
    }
    tables = []
    for name, method in methods.items():
        points = pd.DataFrame(method.fit_transform(vectors.to_numpy()), columns=["x", "y"], index=vectors.index)
        tables.append(points.reset_index().assign(method=name))
    return pd.concat(tables, ignore_index=True)


def clusters(importance: pd.DataFrame) -> pd.DataFrame:
    """Do clusters of importance vectors find tasks, models or languages again? clustering, groups, k, adjusted_rand.

    The adjusted Rand index is 0 for clusters at random and 1 for the groups themselves; nan for a single group and
    for groups of one vector each.

    Source: Hubert & Arabie 1985; clusterings as in Apostolikas et al. 2023.
    """
    vectors = vectors_of(importance)
    keys = vectors.index.to_frame(index=False)
    groups = {
        Differs.TASK: keys["task"],
        "model": keys["task"] + keys["seed"].astype(str),
        Differs.LANGUAGE: keys["language"],
        Differs.TASK_AND_LANGUAGE: keys["task"] + keys["language"],
    }
    rows = []
    for (name, labels), (method, make) in product(groups.items(), CLUSTERINGS.items()):
        k, rand = labels.nunique(), np.nan
        if 1 < k < len(vectors):  # else there is nothing to find
            rand = adjusted_rand_score(labels, make(k).fit_predict(vectors.to_numpy()))
        rows.append((method, name, k, rand))
    return pd.DataFrame(rows, columns=["clustering", "groups", "k", "adjusted_rand"])


def perplexities(study: Study, task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    """Perplexity of masked sub-words on the test split: task, seed, mask_seed, language, model, perplexity.

    Models are the pre-trained encoder, the fine-tuned model, and that through the language's own subnetwork: ids of
    `Model`.
    """
    folder = study.encoder_folder()

    def compute() -> pd.DataFrame:
        models = {
            Model.PRETRAINED: load_encoder(folder, "mlm")[0],
            Model.FINETUNED: load_model(study.model_folder(task, seed)),
        }
        test = {language: study.batches(task, "test", language) for language in study.languages}
        rows = [
            (language, name, evaluate(model, test[language], metric="perplexity"))
            for name, model in models.items()
            for language in test
        ]
        return pd.DataFrame(rows, columns=["language", "model", "perplexity"])

    key = {"model": study.model_folder(task, seed).name, "encoder": encoder_identity(folder)}
    full = stored_table("perplexities", key | {"task": study.task(task).identity}, compute)
    crossed = pruning.cross_evaluation(study, task, seed, mask_seed)
    own = crossed[crossed["control"] == Control.OWN].rename(columns={"score": "perplexity"})
    table = pd.concat([full, own.assign(model=Model.OWN)[full.columns]], ignore_index=True)
    return table.assign(task=task, seed=seed, mask_seed=mask_seed)


def shared_tokens(study: Study) -> pd.DataFrame:
    """Share of the sub-words of sentences in b that those in a have too: measure, task, seed, a, b, value."""
    texts, tokenizer = parallel(study), study.tokenizer()
    rows = [(a, b, token_overlap(texts[a], texts[b], tokenizer)) for a, b in permutations(texts, 2)]
    return pd.DataFrame(rows, columns=["a", "b", "value"]).assign(measure=Likeness.SHARED_SUBWORDS, task="", seed=0)


def parameter_sparsity(study: Study, task: str, seed: int, mask_seed: int) -> pd.DataFrame:
    """Share of the parameters that go with the heads: task, seed, mask_seed, language, layer (or "all"), sparsity."""
    model, rows = load_model(study.model_folder(task, seed)), []
    before = _layer_parameters(model)
    total = removal.parameter_count(model)
    for language, mask in pruning.subnetworks(study, task, seed, mask_seed).items():
        small = removal.remove_heads(model, mask)
        for layer, count in _layer_parameters(small).items():
            rows.append((language, str(layer + 1), 1 - count / before[layer]))
        rows.append((language, "all", 1 - removal.parameter_count(small) / total))
    table = pd.DataFrame(rows, columns=["language", "layer", "sparsity"])
    return table.assign(task=task, seed=seed, mask_seed=mask_seed)


def _layer_parameters(model: nn.Module) -> Counter:
    """Number of parameters in each layer, counted from 0: the first number in their names."""
    counts: Counter = Counter()
    for name, parameter in model.named_parameters():
        if number := re.search(r"\.(\d+)\.", name):
            counts[int(number[1])] += parameter.numel()
    return counts


def _swapped(table: pd.DataFrame) -> pd.DataFrame:
    """The same pairs the other way round."""
    there = {
        name: name.removesuffix("_b") if name.endswith("_b") else f"{name}_b"
        for factor in FACTORS
        for name in (factor, f"{factor}_b")
    }
    return table.rename(columns=there)
