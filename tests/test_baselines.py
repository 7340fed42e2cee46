"""The bag-of-words baseline: sees words, overlap and differences of pairs, never their order."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer

from xsub_utils.data.schema import TASKS, TaskSpec
from xsub_utils.evaluation.baselines import _features, bag_of_words_baseline

WORDS = ["ani", "beku", "cadi", "dofe", "gilu", "hamo"]


def table(rows, columns, language="qaa"):
    return pd.DataFrame(rows, columns=columns).assign(language=language, id=range(len(rows)))


def reviews(count, seed, language="qaa"):
    """Positive if and only if there is the word "good", somewhere."""
    rng = np.random.default_rng(seed)
    rows = [(list(rng.choice(WORDS, 4)), int(rng.integers(2))) for _ in range(count)]
    texts = [(" ".join(rng.permutation([*words, "good"] if label else words)), label) for words, label in rows]
    return table(texts, ["text", "label"], language)


def pairs(count, seed, label_of):
    rng = np.random.default_rng(seed)
    sides = [(rng.choice(WORDS, 3, replace=False), rng.choice(WORDS, 3, replace=False)) for _ in range(count)]
    rows = [(" ".join(a), " ".join(b), label_of(list(a), list(b))) for a, b in sides]
    return table(rows, ["text", "text_pair", "label"])


def test_words_are_enough_for_what_words_decide():
    scores = bag_of_words_baseline(reviews(80, 0), reviews(40, 1), TASKS["reviews"])
    assert scores.to_dict() == {"qaa": 1.0}


def test_scores_are_per_language_of_one_joint_classifier():
    foreign = reviews(40, 2, "qba").assign(text="zzz")
    train = pd.concat([reviews(80, 0), foreign])
    report = pd.concat([foreign, reviews(40, 1)], ignore_index=True)
    scores = bag_of_words_baseline(train, report, TASKS["reviews"])
    majority = foreign["label"].value_counts(normalize=True)
    assert scores["qaa"] == 1.0
    assert scores["qba"] in set(majority)
    assert scores.name == "bag of words" and scores.index.name == "language"


def test_overlap_and_difference_of_pairs_are_features():
    shared = lambda a, b: int(len(set(a) & set(b)) >= 2)  # noqa: E731
    scores = bag_of_words_baseline(pairs(300, 0, shared), pairs(100, 1, shared), TASKS["paraphrase"])
    assert scores["qaa"] > 0.95


def test_order_is_out_of_reach():
    first = lambda a, b: int(a[0] < a[1])  # noqa: E731
    scores = bag_of_words_baseline(pairs(300, 0, first), pairs(200, 1, first), TASKS["paraphrase"])
    assert scores["qaa"] < 0.7
    report = pairs(50, 2, first)
    turned = report.assign(text=[" ".join(reversed(text.split())) for text in report["text"]])
    train = pairs(100, 0, first)
    assert bag_of_words_baseline(train, report, TASKS["paraphrase"]).equals(
        bag_of_words_baseline(train, turned, TASKS["paraphrase"])
    )


def test_features_of_a_pair_by_hand():
    sides = pd.DataFrame({"text": ["a a b"], "text_pair": ["a c"]})
    counter = CountVectorizer(analyzer=str.split).fit(["a b c"])
    features = _features(counter, sides)
    assert sparse.issparse(features)
    assert features.toarray().tolist() == [[2, 1, 0, 1, 0, 1, 1, 1, 1, 1, 0, 0]]


def test_token_tasks_see_the_word_and_its_language_alone():
    columns = ["tokens", "labels"]
    own = table([(["ani", "beku"], [7, 15]), (["ani"], [7]), (["ani"], [0]), (["cadi"], [7])], columns)
    train = pd.concat([own, table([(["ani"], [0])], columns, "qba")])
    report = [
        table([(["beku", "ani"], [15, 0])], columns),
        table([(["ani", "beku"], [0, 7])], columns, "qba"),
    ]
    scores = bag_of_words_baseline(train, pd.concat(report), TASKS["upos"])
    # "ani" is mostly 7 in qaa, always 0 in qba; "beku", never seen in qba, gets the commonest tag of all, 7.
    assert scores.to_dict() == {"qaa": 0.5, "qba": 1.0}


def test_spans_are_scored_for_named_entities():
    rows = [(["ani", "beku", "cadi"], [1, 2, 0])]
    report = [(["ani", "beku"], [1, 2]), (["cadi", "beku"], [0, 1])]
    columns = ["tokens", "labels"]
    scores = bag_of_words_baseline(table(rows, columns), table(report, columns), TASKS["ner"])
    assert scores["qaa"] == pytest.approx(1.0)  # a lone I-PER starts a person too


def test_words_can_be_cut_otherwise():
    columns = ["text", "label"]
    train, report = table([("aab", 0), ("abb", 1)] * 5, columns), table([("aba", 0), ("bab", 1)], columns)
    assert bag_of_words_baseline(train, report, TASKS["reviews"])["qaa"] == 0.5
    assert bag_of_words_baseline(train, report, TASKS["reviews"], split_words=list)["qaa"] == 1.0


def test_errors():
    rows = reviews(4, 0)
    with pytest.raises(ValueError, match=r"spec: expected .* got 'mlm' of kind 'mlm'"):
        bag_of_words_baseline(rows, rows, TASKS["mlm"])
    with pytest.raises(ValueError, match="test: expected at least one row, got none"):
        bag_of_words_baseline(rows, rows.iloc[:0], TASKS["reviews"])
    with pytest.raises(ValueError, match="train: expected columns text_pair, got only text, label, language, id"):
        bag_of_words_baseline(rows, rows, TASKS["paraphrase"])


def test_own_tasks_have_any_number_of_labels_and_plain_tags():
    topics = TaskSpec("topic", kind="sequence", labels=[1, 2, 3, 4])  # names may be numbers
    rows = table([(word, label) for label, word in enumerate(WORDS[:4])] * 5, ["text", "label"])
    assert bag_of_words_baseline(rows, rows, topics)["qaa"] == 1.0
    tags = TaskSpec("tags", kind="token", labels=["NOUN", "VERB"])
    rows = table([(["ani", "beku"], [0, 1])] * 2, ["tokens", "labels"])
    assert tags.metric == "token_accuracy" and bag_of_words_baseline(rows, rows, tags)["qaa"] == 1.0


def test_a_single_label_to_learn_from_is_the_answer():
    rows = reviews(8, 0)
    scores = bag_of_words_baseline(rows.assign(label=1), rows, TASKS["reviews"])
    assert scores["qaa"] == rows["label"].mean()
