"""Splits that share nothing: neither an id, in any language, nor a text."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

SPLITS = ("train", "score", "stop", "report")
PART_OF = {
    "train": "train",
    "score": "train",
    "stop": "validation",
    "report": "test",
}  # where a source has parts
KEPT_FIRST = (
    "report",
    "test",
    "stop",
    "validation",
    "score",
    "train",
)  # of equal texts, the first here stays


def draw_splits(
    rows: pd.DataFrame, languages: Sequence[str], sizes: Mapping[str, int], seed: int, inputs: Iterable[str]
) -> dict[str, pd.DataFrame]:
    """Disjoint splits of rows, the same ids in all languages wherever rows are parallel.

    Of ids with equal text in any language only one stays. Then ids are drawn, never rows: those that more
    languages have come first, and their order depends on the seed and the id alone.

    Where the source has a train part, `train` and `score` are drawn from it, `stop` from validation and
    `report` from test (from train too if these are missing). Otherwise all rows are one pool.

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
    rows = _distinct(rows, list(inputs))
    pools: dict[str | None, list[str]] = {}
    for split in sizes:
        pools.setdefault(_part_for(split, set(rows["part"])), []).append(split)
    chosen = {}
    for part, splits in pools.items():
        pool = rows if part is None else rows[rows["part"] == part]
        chosen |= _draw(pool, languages, {split: sizes[split] for split in splits}, seed)
    return {split: chosen[split].drop(columns="part") for split in sizes}


def _distinct(rows: pd.DataFrame, inputs: list[str]) -> pd.DataFrame:
    """Rows without the ids of which some text, in any language, stands under another id already."""
    order = rows["part"].map({part: i for i, part in enumerate(KEPT_FIRST)})
    rows = rows.iloc[order.to_numpy().argsort(kind="stable")]
    owner: dict[tuple, str] = {}
    texts = zip(*(rows[column].map(_hashable) for column in inputs), strict=True)
    lost = {name for text, name in zip(texts, rows["id"], strict=True) if owner.setdefault(text, name) != name}
    return rows[~rows["id"].isin(lost)]


def _hashable(value: str | list[str]) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else tuple(value)


def _part_for(split: str, parts: set) -> str | None:
    """Part that a split is drawn from; None if all rows are one pool."""
    if split in parts:
        return split
    if "train" not in parts:
        return None
    return PART_OF[split] if PART_OF[split] in parts else "train"


def _draw(pool: pd.DataFrame, languages: Sequence[str], sizes: dict[str, int], seed: int) -> dict[str, pd.DataFrame]:
    """Splits of one pool."""
    have: dict[str, list[str]] = {}
    for name, language in zip(pool["id"], pool["language"], strict=True):
        have.setdefault(name, []).append(language)
    wanted = {split: dict.fromkeys(languages, size) for split, size in sizes.items()}
    chosen: dict[str, list[tuple[str, str]]] = {split: [] for split in sizes}
    for name in sorted(have, key=lambda name: (-len(have[name]), _place_in_line(name, seed))):
        split = max(sizes, key=lambda split: sum(wanted[split][language] > 0 for language in have[name]))
        for language in have[name]:
            if wanted[split][language] > 0:
                wanted[split][language] -= 1
                chosen[split].append((language, name))
    _check(pool, sizes, wanted)
    rows = pool.set_index(["language", "id"], drop=False)
    rank = {language: i for i, language in enumerate(languages)}
    return {
        split: rows.loc[sorted(names, key=lambda row: rank[row[0]])].reset_index(drop=True)
        for split, names in chosen.items()
    }


def _place_in_line(name: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()


def _check(pool: pd.DataFrame, sizes: dict[str, int], missing: dict[str, dict[str, int]]) -> None:
    """Raises if a split is not full in every language."""
    short = [language for language in missing[next(iter(sizes))] if any(m[language] for m in missing.values())]
    if not short:
        return
    counts = pool["language"].value_counts()
    asked = " + ".join(f"{split} {size:,}" for split, size in sizes.items())
    available = ", ".join(f"{language} {counts.get(language, 0):,}" for language in short)
    raise ValueError(
        f"too few rows: sizes asks for {asked} = {sum(sizes.values()):,} of each language, but of different "
        f"texts there are: {available}. Ask for fewer rows or leave a split out."
    )
