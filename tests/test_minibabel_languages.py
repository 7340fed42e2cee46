"""The invented languages: the truth that measures are judged against."""

import numpy as np
import pytest

from xsub_utils.data.minibabel import languages as truth
from xsub_utils.data.minibabel.languages import LANGUAGES, Language, by_code, distances, lexicon

CODES = [language.code for language in LANGUAGES]


@pytest.mark.parametrize("kind", truth.DISTANCES)
def test_distances_are_distances(kind):
    matrix = distances(kind).to_numpy()
    assert (np.diag(matrix) == 0).all()
    np.testing.assert_array_equal(matrix, matrix.T)
    assert matrix.min() >= 0 and matrix.max() <= 1


def test_lexical_distance_counts_different_words():
    a, b = lexicon("qaa"), lexicon("qab")
    assert distances("lexical").loc["qaa", "qab"] == np.mean([a[c] != b[c] for c in a])


def test_tree_distance_by_hand():
    # qaa > A.1 > A and qab > A.1 > A share two of three nodes; qac > A.2 > A shares the root alone.
    tree = distances("tree")
    assert tree.loc["qaa", "qab"] == pytest.approx(1 / 3)
    assert tree.loc["qaa", "qac"] == pytest.approx(2 / 3)
    assert tree.loc["qaa", "qba"] == 1


def test_relatives_share_more_words_than_strangers():
    lexical = distances("lexical")
    family = {code: truth.ancestors(code, by_code())[-1] for code in CODES}
    kin = [lexical.loc[a, b] for a in CODES for b in CODES if a < b and family[a] == family[b]]
    strangers = [lexical.loc[a, b] for a in CODES for b in CODES if a < b and family[a] != family[b]]
    assert max(kin) < min(strangers)


def test_words_of_a_language_are_distinct():
    for code in CODES:
        words = list(lexicon(code).values())
        assert len(set(words)) == len(words)


def test_the_seed_changes_the_words_and_nothing_else():
    assert lexicon("qaa", 0) != lexicon("qaa", 1)
    assert lexicon("qaa", 0).keys() == lexicon("qaa", 1).keys()
    assert distances("syntactic", seed=0).equals(distances("syntactic", seed=1))


def test_scripts_write_every_sound_differently():
    for letters in truth.SCRIPTS.values():
        assert len(letters) == len(set(letters)) == len(truth.SCRIPTS["Latn"])


def test_a_new_language_needs_one_line():
    daughter = Language("qad", "qaa", "VSO", "Grek", 0.9)
    world = (*LANGUAGES, daughter)
    assert set(lexicon("qad", 0, world).values()).isdisjoint(lexicon("qaa").values())
    latin = (*LANGUAGES, Language("qad", "qaa", "VSO", "Latn", 0.9))
    assert distances("lexical", languages=latin).loc["qad", "qaa"] < 0.4
    assert lexicon("qaa", 0, world) == lexicon("qaa"), "the others stay as they were"


def test_cognate_rate_is_what_it_says():
    for rate in (0.0, 0.5, 1.0):
        world = (Language("qax", "P", "SVO", "Latn", 1.0), Language("qay", "qax", "SVO", "Latn", rate))
        same_but_for_the_vowel = np.mean(
            [
                a[:-1] == b[:-1] or a == b
                for a, b in zip(*(lexicon(c, 0, world).values() for c in ("qax", "qay")), strict=True)
            ]
        )
        assert same_but_for_the_vowel == pytest.approx(rate, abs=0.12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": "OVS"}, "expected one of SVO, SOV, VSO"),
        ({"script": "Runr"}, "expected one of Latn"),
        ({"cognates": 1.2}, "expected a share from 0 to 1"),
        ({"negation": "never"}, "before, after, final"),
        ({"loans": (("qaa", 2.0),)}, "loans from qaa"),
    ],
)
def test_impossible_languages_are_refused(changes, message):
    valid = {"code": "qzz", "parent": "A", "order": "SVO", "script": "Latn", "cognates": 0.5}
    with pytest.raises(ValueError, match=message):
        Language(**(valid | changes))


def test_circles_and_doubles_are_refused():
    ring = (Language("qax", "qay", "SVO", "Latn", 0.5), Language("qay", "qax", "SVO", "Latn", 0.5))
    with pytest.raises(ValueError, match="circle"):
        lexicon("qax", 0, ring)
    with pytest.raises(ValueError, match="twice"):
        by_code((*LANGUAGES, LANGUAGES[0]))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="qzz"):
        distances("tree", ["qaa", "qzz"])
    with pytest.raises(ValueError, match="kind: expected one of tree"):
        distances("phonetic")
