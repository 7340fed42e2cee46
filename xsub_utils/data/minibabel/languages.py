"""Invented languages with a known family tree: lexicon, grammar and the true distances between them.

A language is its parent in the tree, a share of words kept from that parent (cognates), a script and five
grammatical settings. Everything else follows from one seed: proto-words are drawn, inherited with regular
sound changes, replaced or borrowed, and written in the script of the language.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import pandas as pd

from xsub_utils._internal.validation import invalid, one_of

ORDERS = ("SVO", "SOV", "VSO")
SCRIPTS = {  # every script writes the same 20 sounds, letter by letter
    "Latn": "ptkbdgmnslrvzfjaeiou",
    "Cyrl": "пткбдгмнслрвзфйаеиоу",
    "Grek": "πτκβδγμνσλρϝζφϊαεηου",
    "Armn": "պտկբդգմնսլրվզֆյաեիօւ",
}
CONSONANTS, VOWELS = SCRIPTS["Latn"][:15], SCRIPTS["Latn"][15:]
GRAMMAR = ("order", "adjective_first", "prepositions", "negation", "object_marker")

CONCEPTS = {  # word class -> number of meanings
    "animate": 24,
    "thing": 12,
    "place": 12,
    "verb": 18,
    "adjective": 12,
    "judgement": 8,
    "function": 6,
}
FUNCTION_WORDS = ("not", "and", "although", "in", "OBJ", "is")


@dataclass(frozen=True)
class Language:
    """One invented language; add your own by naming its parent, word order, script and cognate rate.

    Args:
        code: ISO 639 code; qaa–qtz are reserved for local use.
        parent: Another language's code, or a proto-language: "A" is the root of a family, "A.1" a branch of it.
        order: Order of subject, verb and object: "SVO", "SOV" or "VSO".
        script: "Latn", "Cyrl", "Grek" or "Armn" (ISO 15924).
        cognates: Share of content words kept from the parent, in [0, 1]; the others are new. Function words last.
        adjective_first: Adjective before its noun.
        prepositions: Adposition before its noun.
        negation: Place of the negative particle: "before" the verb, "after" it, or "final" in the clause.
        object_marker: A case particle follows the object.
        loans: Pairs (donor code, share of the own content words replaced by the donor's).
    """

    code: str
    parent: str
    order: str
    script: str
    cognates: float
    adjective_first: bool = True
    prepositions: bool = True
    negation: str = "before"
    object_marker: bool = False
    loans: tuple[tuple[str, float], ...] = ()

    def __post_init__(self):
        for name, value, valid in (
            ("order", self.order, ORDERS),
            ("script", self.script, tuple(SCRIPTS)),
            ("negation", self.negation, ("before", "after", "final")),
        ):
            one_of(f"{name} of language {self.code!r}", value, valid)
        shares = [("cognates", self.cognates), *((f"loans from {d}", r) for d, r in self.loans)]
        for name, share in shares:
            if not 0 <= share <= 1:
                raise invalid(f"{name} of language {self.code!r}", "a share from 0 to 1", share)


LANGUAGES = (
    Language("qaa", "A.1", "SVO", "Latn", 0.92),
    Language("qab", "A.1", "SVO", "Latn", 0.88, negation="after"),
    Language("qac", "A.2", "SOV", "Latn", 0.75, negation="after"),
    Language("qba", "B", "VSO", "Cyrl", 0.95, adjective_first=False, negation="final"),
    Language("qbb", "B", "VSO", "Cyrl", 0.90, adjective_first=False, negation="final", object_marker=True),
    Language("qca", "C", "SOV", "Latn", 1.00, False, False, "final", True, loans=(("qac", 0.2),)),
)


def by_code(languages: Iterable[Language] = LANGUAGES) -> dict[str, Language]:
    """Languages keyed by code.

    Raises:
        ValueError: If a code stands twice, or a language is its own ancestor.
    """
    table: dict[str, Language] = {}
    for language in languages:
        if language.code in table:
            raise invalid("languages", "a code of its own for each language", f"{language.code!r} twice")
        table[language.code] = language
    for code in table:
        ancestors(code, table)
    return table


def ancestors(code: str, table: dict[str, Language]) -> list[str]:
    """The way from a language up to its proto-language, itself first."""
    path = [code]
    while path[-1] in table or "." in path[-1]:
        parent = table[path[-1]].parent if path[-1] in table else path[-1].rpartition(".")[0]
        if parent in path:
            raise invalid(f"parent of language {path[-1]!r}", "a tree", f"a circle: {' > '.join([*path, parent])}")
        path.append(parent)
    return path


def _syllable(rng: Random) -> str:
    return rng.choice(CONSONANTS) + rng.choice(VOWELS)


def _new_word(rng: Random, taken: set[str]) -> str:
    """An unused word of two syllables, sometimes closed; function words come out of the same mould."""
    while True:
        word = _syllable(rng) + _syllable(rng) + (rng.choice("nslr") if rng.random() < 0.3 else "")
        if word not in taken:
            return word


def _concepts() -> list[str]:
    names = [f"{kind}{i}" for kind, n in CONCEPTS.items() if kind != "function" for i in range(n)]
    return [*names, *FUNCTION_WORDS]


@lru_cache(maxsize=256)
def _sounds(code: str, seed: int, languages: tuple[Language, ...]) -> dict[str, str]:
    """Concept -> word in sounds (Latin letters), before the script is applied."""
    table = by_code(languages)
    rng = Random(f"lexicon/{seed}/{code}")
    path = ancestors(code, table)
    if len(path) == 1:  # the root of a family
        words: dict[str, str] = {}
        for concept in _concepts():
            words[concept] = _new_word(rng, set(words.values()))
        return words
    cognates = table[code].cognates if code in table else 1.0
    old, new = Random(f"sound/{seed}/{code}").sample(VOWELS, 2)  # one regular change of the final vowel
    words = {}
    for concept, inherited in _sounds(path[1], seed, languages).items():
        kept = inherited[:-1] + new if inherited.endswith(old) else inherited
        taken = set(words.values())
        lasting = concept in FUNCTION_WORDS  # the small words of a language are seldom replaced
        inherits = (rng.random() < cognates or lasting) and kept not in taken
        words[concept] = kept if inherits else _new_word(rng, taken)
    return _borrow(table[code], words, seed, languages) if code in table else words


def _borrow(language: Language, words: dict[str, str], seed: int, languages: tuple[Language, ...]) -> dict:
    for donor, share in language.loans:
        foreign = _sounds(donor, seed, languages)
        rng = Random(f"loans/{seed}/{language.code}/{donor}")
        for concept in words:
            if rng.random() < share and foreign[concept] not in words.values() and concept not in FUNCTION_WORDS:
                words[concept] = foreign[concept]
    return words


def write(sounds: str, script: str) -> str:
    """A word in a script, letter by letter."""
    return sounds.translate(str.maketrans(SCRIPTS["Latn"], SCRIPTS[script]))


@lru_cache(maxsize=256)
def lexicon(code: str, seed: int = 0, languages: tuple[Language, ...] = LANGUAGES) -> dict[str, str]:
    """Concept -> written word of one language.

    Raises:
        ValueError: If the language is unknown.
    """
    table = by_code(languages)
    one_of("language", code, table)
    return {c: write(s, table[code].script) for c, s in _sounds(code, seed, languages).items()}


def tree_distance(a: str, b: str, languages: tuple[Language, ...] = LANGUAGES) -> float:
    """Share of the way to the root that two languages do not have in common, in [0, 1]; 1 = unrelated."""
    table = by_code(languages)
    up_a, up_b = ancestors(a, table), ancestors(b, table)
    shared = len(set(up_a) & set(up_b))
    return 1 - 2 * shared / (len(up_a) + len(up_b))


def lexical_distance(a: str, b: str, seed: int = 0, languages: tuple[Language, ...] = LANGUAGES) -> float:
    """Share of meanings that the two languages write with different words, in [0, 1]."""
    words_a, words_b = lexicon(a, seed, languages), lexicon(b, seed, languages)
    return sum(words_a[c] != words_b[c] for c in words_a) / len(words_a)


def syntactic_distance(a: str, b: str, languages: tuple[Language, ...] = LANGUAGES) -> float:
    """Share of the five grammatical settings in which the two languages differ, in [0, 1]."""
    table = by_code(languages)
    return sum(getattr(table[a], g) != getattr(table[b], g) for g in GRAMMAR) / len(GRAMMAR)


def script_distance(a: str, b: str, languages: tuple[Language, ...] = LANGUAGES) -> float:
    """0 if both are written in the same script, else 1."""
    table = by_code(languages)
    return float(table[a].script != table[b].script)


DISTANCES = ("tree", "lexical", "syntactic", "script")


def distances(
    kind: str = "lexical",
    codes: Sequence[str] | None = None,
    *,
    seed: int = 0,
    languages: tuple[Language, ...] = LANGUAGES,
) -> pd.DataFrame:
    """True distances between the languages: a symmetric matrix with zeros on the diagonal.

    Args:
        kind: "tree", "lexical", "syntactic" or "script".
        codes: Languages to compare; all by default.
        seed: Seed of the lexicons.
        languages: The languages that exist.

    Returns:
        Values in [0, 1]; 1 − lexical distance is what the notebooks call true relatedness.

    Raises:
        ValueError: If the kind or a language is unknown.
    """
    one_of("kind", kind, DISTANCES)
    codes = list(by_code(languages) if codes is None else codes)
    measure = {
        "tree": lambda a, b: tree_distance(a, b, languages),
        "lexical": lambda a, b: lexical_distance(a, b, seed, languages),
        "syntactic": lambda a, b: syntactic_distance(a, b, languages),
        "script": lambda a, b: script_distance(a, b, languages),
    }[kind]
    for code in codes:
        lexicon(code, seed, languages)
    return pd.DataFrame([[measure(a, b) for b in codes] for a in codes], codes, codes, dtype=float)


def family_table(codes: Sequence[str] | None = None, languages: tuple[Language, ...] = LANGUAGES) -> pd.DataFrame:
    """The tree and the grammars as a tidy table, one row a node; languages (leaf = True) in their order.

    Returns:
        Columns node, parent ("" at a root), leaf, then the settings of the languages in words.
    """
    table = by_code(languages)
    codes = list(table if codes is None else codes)
    rows = [_leaf_row(table[code]) for code in codes]
    proto = [node for code in codes for node in ancestors(code, table)[1:]]
    for node in dict.fromkeys(proto):
        path = ancestors(node, table)
        rows.append({"node": node, "parent": path[1] if len(path) > 1 else "", "leaf": False})
    return pd.DataFrame(rows).fillna("")


def _leaf_row(language: Language) -> dict:
    return {
        "node": language.code,
        "parent": language.parent,
        "leaf": True,
        "order": language.order,
        "script": language.script,
        "adjective": "adj. noun" if language.adjective_first else "noun adj.",
        "adposition": "preposition" if language.prepositions else "postposition",
        "negation": {"before": "before verb", "after": "after verb", "final": "clause-final"}[language.negation],
        "object": "marked" if language.object_marker else "unmarked",
    }
