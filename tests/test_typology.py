"""Typological distances: symmetry, kinship as it is known, gaps as nan, and the angle computed by hand."""

import sys
from itertools import combinations
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from xsub_utils.data import typology
from xsub_utils.data.typology import KINDS, LANGUAGES, TABLE, typological_distances


@pytest.mark.parametrize("kind", KINDS)
def test_distances_are_symmetric_with_zeros_on_the_diagonal(kind):
    codes = list(LANGUAGES)
    square = typological_distances(kind, codes)
    assert list(square.index) == list(square.columns) == codes
    np.testing.assert_array_equal(square, square.T)
    assert (np.diag(square) == 0).all()
    known = square.to_numpy()[np.isfinite(square)]
    assert known.min() >= 0 and known.max() <= 1 and len(known) > 100


def test_codes_keep_their_order_and_may_come_twice():
    square = typological_distances("syntactic", ["zh", "en", "zh"])
    assert list(square.index) == ["zh", "en", "zh"]
    assert square.iloc[0, 2] == 0 and square.iloc[0, 1] == square.iloc[1, 2] > 0


def test_relatives_are_near():
    genetic = typological_distances("genetic", ["de", "nl", "en", "ru", "zh"]).loc["de"]
    assert genetic.is_monotonic_increasing and genetic["zh"] == 1
    geographic = typological_distances("geographic", ["de", "nl", "zh"]).loc["de"]
    assert geographic.is_monotonic_increasing
    syntactic = typological_distances("syntactic", ["hi", "ur", "en", "es"])
    assert syntactic.loc["hi", "ur"] < syntactic.loc["en", "es"] < syntactic.loc["en", "ur"]


def test_genetic_distance_counted_in_glottolog():
    # 11 nodes above German, 9 above Dutch, of which they share 5: from Indo-European down to West Germanic
    expected = np.arccos(5 / np.sqrt(11 * 9)) * 2 / np.pi
    assert typological_distances("genetic", ["de", "nl"]).loc["de", "nl"] == pytest.approx(expected, abs=5e-4)


def test_an_isolate_has_no_relatives():
    assert (typological_distances("genetic", list(LANGUAGES)).drop(index="eu")["eu"] == 1).all()


def test_what_is_unknown_is_nan():
    square = typological_distances("morphological", ["en", "de", "es", "nl"])
    expected = [[0, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 1], [0, 1, 1, 0]]
    assert square.isna().to_numpy().astype(int).tolist() == expected
    assert typological_distances("inventory", ["ar", "en"]).isna().to_numpy().any()
    assert typological_distances("phonological", ["he", "en"]).isna().to_numpy().any()
    assert not typological_distances("featural", list(LANGUAGES)).isna().to_numpy().any()


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"kind: expected one of genetic, .*got 'syntax'; did you mean 'syntactic'\?"):
        typological_distances("syntax", ["en", "de"])
    with pytest.raises(ValueError, match=r"codes: expected one of ar, bg, .*got 'eng'; did you mean 'en'\?"):
        typological_distances("syntactic", ["eng", "de"])


def test_the_table_has_every_pair_once_and_sorted():
    table = pd.read_csv(TABLE, keep_default_na=False)
    assert list(table) == ["a", "b", "kind", "distance"]
    pairs = [(a, b, kind) for a, b in combinations(sorted(LANGUAGES), 2) for kind in sorted(KINDS)]
    assert list(table[["a", "b", "kind"]].itertuples(index=False, name=None)) == pairs
    assert table["distance"].str.fullmatch(r"[01]\.\d{3}|nan").all()


def test_the_table_comes_with_its_licence():
    licence = TABLE.with_suffix(".LICENSE.txt").read_text("utf-8")
    assert "CC BY-SA 4.0" in licence and "2025.coling-main.463" in licence and "E17-2002" in licence


# Derivation


def test_angles_over_shared_features_computed_by_hand():
    # known of both: (1, 0, 1) and (1, 1, 0); cosine 1/2, 60° of 90°
    assert typology._angular(np.array([1.0, 0, 1, -1, 1]), np.array([1.0, 1, 0, 1, -1])) == pytest.approx(2 / 3)
    assert typology._angular(np.array([3.0, 4.0]), np.array([3.0, 4.0])) == pytest.approx(0, abs=1e-7)
    assert typology._angular(np.array([0.0, 1]), np.array([1.0, 0])) == pytest.approx(1)
    assert np.isnan(typology._angular(np.array([1.0, -1]), np.array([-1.0, 1])))
    assert np.isnan(typology._angular(np.array([0.0, 0]), np.array([0.0, 1])))


class FakeURIEL:
    """Knows one feature of every language, and a second one of all but Chinese once Grambank is there."""

    grambank = False

    def integrate_grambank(self):
        self.grambank = True

    def get_vector(self, kind, codes):
        assert self.grambank
        vectors = {code: [1.0, float(kind == "genetic")] for code in codes}
        return vectors | {LANGUAGES["zh"]: [-1.0, 1.0] if kind == "genetic" else [-1.0, -1.0]}


@pytest.fixture
def fake(monkeypatch, tmp_path):
    module = ModuleType("urielplus.urielplus")
    module.URIELPlus = FakeURIEL
    monkeypatch.setitem(sys.modules, "urielplus", ModuleType("urielplus"))
    monkeypatch.setitem(sys.modules, "urielplus.urielplus", module)
    monkeypatch.setattr(typology, "version", lambda name: "1.3.2")
    monkeypatch.setattr(typology, "TABLE", tmp_path / "typology.csv")


def test_isolates_are_unrelated_to_all_and_to_each_other():
    vectors = {glottocode: [0.0, 1.0] for glottocode in LANGUAGES.values()}
    isolates = {LANGUAGES["eu"]: [0.0, 0.0], LANGUAGES["ko"]: [0.0, 0.0]}
    table = typology._long(vectors | isolates, "genetic").set_index(["a", "b"])["distance"]
    assert table["de", "en"] == 0 and table["de", "eu"] == table["eu", "ko"] == 1
    assert typology._long(vectors | isolates, "syntactic").set_index(["a", "b"])["distance"].isna()["de", "eu"]


def test_derivation_writes_the_table(fake, capsys):
    assert typology.main() == 0
    lines = typology.TABLE.read_text("utf-8").splitlines()
    assert len(lines) == 1 + len(KINDS) * len(LANGUAGES) * (len(LANGUAGES) - 1) // 2
    assert {"ar,bg,featural,0.000", "ar,zh,genetic,0.000", "ar,zh,featural,nan"} <= set(lines)
    assert "typology.csv is made again" in capsys.readouterr().out


def test_another_version_is_refused(fake, monkeypatch):
    monkeypatch.setattr(typology, "version", lambda name: "1.1")
    with pytest.raises(ImportError, match=r"urielplus=1.1: the table rests on another .*urielplus==1\.3\.2"):
        typology.derive()


def test_without_urielplus_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "urielplus.urielplus", None)
    with pytest.raises(ImportError, match=r"not installed; `pip install .*--target uriel urielplus==1\.3\.2`, then"):
        typology.derive()


@pytest.mark.slow
def test_the_committed_table_is_the_derived_one():
    pytest.importorskip("urielplus")
    assert typology._csv(typology.derive()) == TABLE.read_text("utf-8")
