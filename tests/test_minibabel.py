"""MiniBabel's tasks: what the labels mean, that examples are reproducible, and that words alone say little."""

import hashlib
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from xsub_utils.data.minibabel import examples as minibabel
from xsub_utils.data.minibabel.examples import examples
from xsub_utils.data.minibabel.grammar import Clause, Noun, Speaker, text
from xsub_utils.data.minibabel.languages import LANGUAGES, Language

CODES = [language.code for language in LANGUAGES]


def say(code, clause):
    return text(Speaker(code, 0, LANGUAGES).clause(clause))


def words(code, *concepts):
    lexicon = Speaker(code, 0, LANGUAGES).words
    return " ".join(lexicon[concept] for concept in concepts)


EVENT = Clause("verb1", Noun("animate1", "adjective1"), Noun("animate2"), Noun("place1"), negated=True)


@pytest.mark.parametrize(
    ("code", "order"),
    [
        ("qaa", "adjective1 animate1 not verb1 animate2 in place1"),
        ("qab", "adjective1 animate1 verb1 not animate2 in place1"),
        ("qac", "adjective1 animate1 animate2 verb1 not in place1"),
        ("qba", "verb1 animate1 adjective1 animate2 in place1 not"),
        ("qbb", "verb1 animate1 adjective1 animate2 OBJ in place1 not"),
        ("qca", "animate1 adjective1 animate2 OBJ verb1 place1 in not"),
    ],
)
def test_grammar_by_hand(code, order):
    assert say(code, EVENT) == words(code, *order.split())


@pytest.mark.parametrize("task", minibabel.ROWS)
def test_examples_do_not_depend_on_how_many_are_drawn(task):
    few, many = examples(task, "qac", [5, 3]), examples(task, "qac", range(10))
    assert few.equals(many.loc[[5, 3]].reset_index(drop=True))


def test_examples_are_the_same_on_every_platform():
    rows = [examples(task, code, range(20)).to_json() for task in minibabel.ROWS for code in CODES]
    assert hashlib.sha256("".join(rows).encode()).hexdigest()[:16] == "86f981cdefeee7c9"


@pytest.mark.parametrize("task", minibabel.PARALLEL)
def test_parallel_tasks_share_ids_and_labels(task):
    tables = [examples(task, code, range(50)) for code in CODES]
    for table in tables[1:]:
        assert list(table["id"]) == list(tables[0]["id"])
        if "label" in table:
            assert list(table["label"]) == list(tables[0]["label"])
        if "labels" in table:  # case markers add words, but no entities
            entities = [[sorted(set(tags) - {0}) for tags in part["labels"]] for part in (table, tables[0])]
            assert entities[0] == entities[1]


@pytest.mark.parametrize(("task", "classes"), [("nli", 3), ("paraphrase", 2), ("reviews", 2)])
def test_labels_are_balanced(task, classes):
    shares = examples(task, "qaa", range(3000))["label"].value_counts(normalize=True)
    assert len(shares) == classes
    assert shares.min() > 0.8 / classes


def test_both_labels_of_paraphrase_hold_the_same_words():
    table = examples("paraphrase", "qba", range(500))
    for row in table.to_dict("records"):
        assert Counter(row["text"].split()) == Counter(row["text_pair"].split())
        assert row["text"] != row["text_pair"], "equal strings would give the label away"


def test_no_form_of_hypothesis_excludes_a_label():
    """Affirmed or negated, with details or without: all three labels occur, so the premise must be read."""
    seen = Counter()
    for i in range(3000):
        _, about, label = minibabel._nli(Random(i), 2)
        detailed = bool(about.place or about.agent.adjective or about.patient.adjective)
        seen[about.negated, detailed, label] += 1
    for negated in (True, False):
        for detailed in (True, False):
            assert min(seen[negated, detailed, label] for label in range(3)) > 20


def test_nli_by_meaning():
    """Entailed: a clause of the premise; contradicted: one with the other polarity; neutral: neither."""
    for i in range(500):
        premise, hypothesis, label = minibabel._nli(Random(i), 1)
        known = {(p.verb, p.agent.concept, p.patient.concept): p.negated for p in premise}
        about = (hypothesis.verb, hypothesis.agent.concept, hypothesis.patient.concept)
        if label == 1:
            assert about not in known
        else:
            assert known[about] == (hypothesis.negated if label == 0 else not hypothesis.negated)


def test_a_negated_clause_entails_only_all_of_itself():
    assert minibabel._plain(EVENT) == EVENT
    plain = minibabel._plain(replace(EVENT, negated=False))
    assert plain.place is None and plain.agent.adjective is None


def test_stars():
    assert [minibabel._stars(main, 0) for main in (-2, -1, 1, 2)] == [1, 2, 4, 5]
    assert minibabel._stars(1, -2) == 3


def test_names_are_tagged_by_role_and_written_in_script():
    latin, cyrillic = (examples("ner", code, range(300)) for code in ("qaa", "qba"))
    tags = Counter(tag for labels in latin["labels"] for tag in labels)
    assert min(tags[i] for i in range(7)) > 0
    assert all(word.isascii() for tokens in latin["tokens"] for word in tokens)
    assert not any(letter.isascii() for tokens in cyrillic["tokens"] for word in tokens for letter in word)
    for row in latin.to_dict("records"):
        for before, tag in zip([0, *row["labels"]], row["labels"], strict=False):
            assert tag not in (2, 4, 6) or before in (tag, tag - 1), "I- continues its own entity"


def test_difficulty_makes_sentences_longer():
    lengths = [examples("nli", "qaa", range(300), difficulty=d)["text"].str.split().str.len().mean() for d in range(4)]
    assert lengths == sorted(lengths)
    with pytest.raises(ValueError, match="difficulty"):
        examples("nli", "qaa", [0], difficulty=-1)


def test_an_added_language_speaks():
    world = (*LANGUAGES, Language("qad", "qaa", "VSO", "Grek", 0.9))
    table = examples("nli", "qad", range(5), languages=world)
    assert list(table["label"]) == list(examples("nli", "qaa", range(5))["label"])


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="nli, paraphrase"):
        examples("poetry", "qaa", [0])
    with pytest.raises(ValueError, match="qzz"):
        examples("nli", "qzz", [0])


def test_stories_are_reproducible_pairs():
    assert minibabel.stories("qaa", [7]) == minibabel.stories("qaa", range(8))[7:]
