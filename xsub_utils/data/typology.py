"""Typological distances between natural languages, from a table derived from URIEL+ (its licence lies beside it)."""

import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from xsub_utils._internal.io import write_text_atomic
from xsub_utils._internal.validation import one_of

TABLE = Path(str(files("xsub_utils"))) / "assets" / "typology.csv"
KINDS = ("genetic", "geographic", "syntactic", "morphological", "phonological", "inventory", "featural")
LANGUAGES = {  # ISO 639-1 -> Glottocode; of a macrolanguage, its standard variety
    "ar": "stan1318",
    "bg": "bulg1262",
    "cs": "czec1258",
    "de": "stan1295",
    "el": "mode1248",
    "en": "stan1293",
    "es": "stan1288",
    "eu": "basq1248",
    "fa": "west2369",
    "fi": "finn1318",
    "fr": "stan1290",
    "he": "hebr1245",
    "hi": "hind1269",
    "id": "indo1316",
    "it": "ital1282",
    "ja": "nucl1643",
    "ko": "kore1280",
    "lt": "lith1251",
    "nl": "dutc1256",
    "pl": "poli1260",
    "pt": "port1283",
    "ru": "russ1263",
    "sw": "swah1253",
    "ta": "tami1289",
    "te": "telu1262",
    "th": "thai1261",
    "tr": "nucl1301",
    "ur": "urdu1245",
    "vi": "viet1252",
    "zh": "mand1415",
}
_URIEL = "1.3.2"  # the numbers depend on the version
_REMEDY = (  # a folder of its own, because urielplus writes into the one that it is installed in
    f"`pip install --no-deps --target uriel urielplus=={_URIEL}`, then "
    "`PYTHONPATH=uriel python -m xsub_utils.data.typology`"
)


def typological_distances(kind: str, codes: Sequence[str]) -> pd.DataFrame:
    """Angular distances between the feature vectors of languages, over the features known of both.

    Args:
        kind: What is compared: "genetic" (the nodes of the family tree above a language), "geographic" (distances to
            points on the globe), "syntactic", "morphological", "phonological", "inventory" (of phonemes), or
            "featural" (the last four together).
        codes: ISO 639-1 codes, among those of `LANGUAGES`; another one is entered there and the table derived again.

    Returns:
        A symmetric square with the codes in their order. 0 is the same direction, 1 a right angle: nothing in common.
        nan where they share no known feature, or one has none of those shared: ar, cs, he, it, nl, pt, ta and ur
        have no phonology, ar no inventory, bg, de, es and ur no morphology.

    Raises:
        ValueError: If the kind or a code is not in the table.

    Source: Khan et al. 2025 (URIEL+); the vectors are those of Littell et al. 2017 (URIEL) with Grambank
        (Skirgård et al. 2023) and the tree of Glottolog.
    """
    one_of("kind", kind, KINDS)
    codes = [one_of("codes", code, LANGUAGES) for code in codes]
    rows = _table()[_table()["kind"] == kind]
    both = pd.concat([rows, rows.rename(columns={"a": "b", "b": "a"})])
    square = both.pivot(index="a", columns="b", values="distance").reindex(index=codes, columns=codes)
    values = square.to_numpy(copy=True)
    values[np.equal.outer(codes, codes)] = 0
    return pd.DataFrame(values, index=codes, columns=codes)


@lru_cache
def _table() -> pd.DataFrame:
    return pd.read_csv(TABLE, keep_default_na=False, na_values={"distance": ["nan"]})


def derive() -> pd.DataFrame:
    """The table computed anew: a, b, kind, distance, each pair of languages once, sorted. Takes minutes.

    Of the databases that URIEL+ can add to URIEL, Grambank is the one that describes these languages; the others are
    of South American, ancient and creole languages and of dialects of English.

    Raises:
        ImportError: If the version of urielplus that the table rests on is not installed.
    """
    uriel = _uriel()
    uriel.integrate_grambank()
    parts = [_long(uriel.get_vector(kind, list(LANGUAGES.values())), kind) for kind in KINDS]
    return pd.concat(parts).sort_values(["a", "b", "kind"], ignore_index=True)


def _uriel():
    """URIEL+ without its additions."""
    try:
        from urielplus.urielplus import URIELPlus
    except ImportError as error:
        raise ImportError(f"urielplus is not installed; {_REMEDY}") from error
    if (found := version("urielplus")) != _URIEL:
        raise ImportError(f"urielplus={found}: the table rests on another version; {_REMEDY}")
    return URIELPlus()


def _long(vectors: Mapping[str, Sequence[float]], kind: str) -> pd.DataFrame:
    """Rows of one kind; the vectors, by Glottocode, hold -1 where a feature is unknown."""
    arrays = {code: np.asarray(vectors[glottocode], float) for code, glottocode in LANGUAGES.items()}
    rows = [(a, b, kind, _angular(arrays[a], arrays[b])) for a, b in combinations(sorted(arrays), 2)]
    table = pd.DataFrame(rows, columns=["a", "b", "kind", "distance"])
    return table.fillna(1.0) if kind == "genetic" else table  # an isolate has no node above it, and no relative


def _angular(a: Float[np.ndarray, " features"], b: Float[np.ndarray, " features"]) -> float:
    """Angle between the vectors over the features known of both, in right angles; nan if either has none.

    `new_distance` of URIEL+ gives the same, but in time quadratic in the features, too long for those of the tree. It
    puts a constant vector in place of zeros, which have no angle.
    """
    known = (a >= 0) & (b >= 0)
    a, b = a[known], b[known]
    norms = np.sqrt((a @ a) * (b @ b))
    if norms == 0:
        return float("nan")
    return float(np.arccos(np.clip(a @ b / norms, -1, 1)) * 2 / np.pi)


def main() -> int:
    """Derive the table and write it into the package."""
    write_text_atomic(TABLE, _csv(derive()))
    print(f"{TABLE} is made again")
    return 0


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.3f", na_rep="nan", lineterminator="\n")


if __name__ == "__main__":
    sys.exit(main())
