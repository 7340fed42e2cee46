"""Splits that share nothing: neither an id, in any language, nor a text."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from xsub_utils._internal.validation import invalid

SPLITS = ("train", "importance", "validation", "test")
PART_OF = {  # part of the source that a split is drawn from
    "train": "train",
    "importance": "validation",
    "validation": "validation",
    "test": "test",
}
PARTS = {  # what parts of a source are called -> our name
    "train": "train",
    "training": "train",
    "importance": "importance",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
KEPT_FIRST = ("test", "validation", "importance", "train")  # of equal texts, the first here stays


def draw_splits(
    rows: pd.DataFrame, languages: Sequence[str], sizes: Mapping[str, int], seed: int, inputs: Iterable[str]
) -> dict[str, pd.DataFrame]:
    """Disjoint splits of rows, the same ids in all languages wherever rows are parallel.

    No two splits share an id or a text, in any language: neither a pair nor one half of it, such as a premise
    that stands with several hypotheses. Of ids with equal input in any language only one stays. Then ids are
    drawn, never rows: those that more languages have come first, and their order depends on the seed and the
    rows alone, not on the order of these.

    Where the source has a train part, `train` is drawn from it, `importance` and `validation` from its validation
    part and `test` from its test part (from train too if these are missing). What shares a text with a part that is
    kept first (test, then validation) is left out. Without a train part, all rows are one pool. A part that is named
    like a split comes first: if `importance` has one, or each of the splits, then they are drawn from those.

    Where several splits are drawn from one pool, ids linked by shared texts are a group, which goes to one split; what
    is too much for it is in none.

    Args:
        rows: Columns `id`, `language`, `part` and those of the task.
        languages: Languages to draw, in the order wanted.
        sizes: Split -> rows per language.
        seed: Seed of the draw.
        inputs: Columns that hold the text.

    Returns:
        Split -> its rows, language by language, the ids in the same order.

    Raises:
        ValueError: If there are too few rows; names what is available and asked per language.
    """
    rows = rows.reset_index(drop=True)
    pools: dict[str | None, list[str]] = {}
    for split in sizes:
        pools.setdefault(_part_for(split, sizes, set(rows["part"])), []).append(split)
    texts = _numbered(rows, list(inputs))
    rows = _distinct(rows, texts)
    if None not in pools:
        rows = _apart(rows, texts)
    chosen: dict[str, pd.DataFrame] = {}
    for part, splits in pools.items():
        pool = rows if part is None else rows[rows["part"] == part]
        # A split with a pool to itself leaks nothing: its ids are drawn one by one, for more different texts.
        groups = _groups(pool["id"], texts.loc[pool.index]) if len(splits) > 1 else {}
        chosen |= _draw(pool, part, groups, languages, {split: sizes[split] for split in splits}, seed)
    return {split: chosen[split].drop(columns="part") for split in sizes}


# Equal texts


def _numbered(rows: pd.DataFrame, inputs: list[str]) -> pd.DataFrame:
    """Numbers in place of texts, equal for equal texts whatever their column, under the index of the rows."""
    texts = pd.concat([rows[column].map(_hashable) for column in inputs])
    return pd.DataFrame(pd.factorize(texts)[0].reshape(len(inputs), -1).T, index=rows.index)


def _hashable(value: str | list[str]) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else tuple(value)


def _distinct(rows: pd.DataFrame, texts: pd.DataFrame) -> pd.DataFrame:
    """Rows without the ids of which some input, in any language, stands under another id already."""
    order = rows["part"].map({part: i for i, part in enumerate(KEPT_FIRST)})
    rows = rows.iloc[order.to_numpy().argsort(kind="stable")]
    owner: dict[tuple, str] = {}
    inputs = texts.loc[rows.index].itertuples(index=False, name=None)
    lost = {name for key, name in zip(inputs, rows["id"], strict=True) if owner.setdefault(key, name) != name}
    return rows[~rows["id"].isin(lost)]


def _apart(rows: pd.DataFrame, texts: pd.DataFrame) -> pd.DataFrame:
    """Rows without the ids of which some text, in any language, stands in a part that is kept before theirs."""
    kept, seen = [], np.array([], dtype=int)
    for part in KEPT_FIRST:
        own = rows[rows["part"] == part]
        known = np.isin(texts.loc[own.index], seen).any(axis=1)
        own = own[~own["id"].isin(own["id"][known])]
        kept.append(own)
        seen = np.union1d(seen, texts.loc[own.index])
    return pd.concat(kept)


def _groups(ids: pd.Series, texts: pd.DataFrame) -> dict[str, str]:
    """Id -> the least of all ids that shared texts link it with, over any number of steps."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    owner, names = pd.factorize(ids, sort=True)
    numbers = texts.to_numpy()
    nodes = len(names) + int(numbers.max(initial=-1)) + 1  # ids, then texts
    edges = (np.repeat(owner, numbers.shape[1]), len(names) + numbers.ravel())
    graph = coo_array((np.ones(numbers.size, dtype=bool), edges), shape=(nodes, nodes))
    linked = connected_components(graph, directed=False)[1][: len(names)]
    _, first, group = np.unique(linked, return_index=True, return_inverse=True)
    return dict(zip(names, names[first[group]], strict=True))


# The draw


def _part_for(split: str, sizes: Iterable[str], parts: set) -> str | None:
    """Part that a split is drawn from; None if all rows are one pool."""
    if parts.issuperset(sizes):
        return split
    if "train" not in parts:
        return None
    return next(part for part in (split, PART_OF[split], "train") if part in parts)


def _draw(
    pool: pd.DataFrame,
    part: str | None,
    groups: Mapping[str, str],
    languages: Sequence[str],
    sizes: dict[str, int],
    seed: int,
) -> dict[str, pd.DataFrame]:
    """Splits of one pool."""
    wanted = {split: dict.fromkeys(languages, size) for split, size in sizes.items()}
    chosen = _chosen(pool, groups, wanted, seed)
    _check(pool, part, groups, sizes, wanted)
    rows = pool.set_index(["language", "id"], drop=False)
    rank = {language: i for i, language in enumerate(languages)}
    return {
        split: rows.loc[sorted(names, key=lambda row: rank[row[0]])].reset_index(drop=True)
        for split, names in chosen.items()
    }


def _chosen(
    pool: pd.DataFrame, groups: Mapping[str, str], wanted: dict[str, dict[str, int]], seed: int
) -> dict[str, list[tuple[str, str]]]:
    """Split -> its languages and ids, in the order drawn; what is then still missing is left in `wanted`."""
    have: dict[str, list[str]] = {}
    rows_of: dict[str, Counter[str]] = {}  # group -> rows per language
    for name, language in zip(pool["id"], pool["language"], strict=True):
        have.setdefault(name, []).append(language)
        rows_of.setdefault(groups.get(name, name), Counter())[language] += 1

    def turn(name: str) -> tuple[int, bytes, bytes]:
        return -len(have[name]), _place_in_line(groups.get(name, name), seed), _place_in_line(name, seed)

    home: dict[str, str] = {}  # group -> split
    chosen: dict[str, list[tuple[str, str]]] = {split: [] for split in wanted}
    for name in sorted(have, key=turn):
        group = groups.get(name, name)
        if group not in home:
            home[group] = max(wanted, key=lambda split: _room(rows_of[group], wanted[split]))
        missing = wanted[home[group]]
        for language in have[name]:
            if missing[language] > 0:
                missing[language] -= 1
                chosen[home[group]].append((language, name))
    return chosen


def _room(rows: Mapping[str, int], missing: Mapping[str, int]) -> int:
    """How many of a group's rows a split can take."""
    return sum(min(count, missing[language]) for language, count in rows.items())


def _place_in_line(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()


def _check(
    pool: pd.DataFrame,
    part: str | None,
    groups: Mapping[str, str],
    sizes: dict[str, int],
    missing: dict[str, dict[str, int]],
) -> None:
    """Raises if a split is not full in every language."""
    short = [language for language in missing[next(iter(sizes))] if any(m[language] for m in missing.values())]
    if not short:
        return
    counts = pool["language"].value_counts()
    asked = " + ".join(f"{split} {size:,}" for split, size in sizes.items())
    available = ", ".join(f"{language} {counts.get(language, 0):,}" for language in short)
    origin = f" in part {part!r}" if part else ""
    largest = max(Counter(groups.values()).values(), default=1)
    together = f" (rows that share a text stay together: up to {largest:,} ids go to one split)" * (largest > 1)
    raise invalid(
        "sizes",
        f"no more rows than there are of different texts{origin}: {available}{together}",
        f"{asked} = {sum(sizes.values()):,} of each language",
        "ask for fewer rows or leave a split out",
    )
