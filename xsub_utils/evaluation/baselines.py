"""What can be had without word order: a classifier that knows which words an example has, and no more."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from scipy import sparse

from xsub_utils._internal.validation import invalid
from xsub_utils.data.schema import TaskSpec
from xsub_utils.evaluation.scores import score


def bag_of_words_baseline(
    train: pd.DataFrame,
    test: pd.DataFrame,
    spec: TaskSpec,
    *,
    split_words: Callable[[str], Sequence[str]] = str.split,
    strength: float = 1.0,
) -> pd.Series:
    """Score per language of a classifier that ignores word order, trained on all languages jointly.

    Examples are classified by a logistic regression over the counts of their words; for pairs over the counts
    a and b of the two sides, |a - b| and min(a, b), so that difference and overlap need not be inferred. In
    token tasks every word gets the tag that it has most often in its language.

    Args:
        train: Examples to learn from, in the columns of the task; labels are the numbers of the classes.
        test: Examples to score.
        spec: The kind, labels and metric of the task.
        split_words: Text → words; for scripts without blanks give a tokenizer's `tokenize`.
        strength: Inverse of the L2 penalty, `C` of scikit-learn.

    Returns:
        One score per language of `test`, in the metric of the task.

    Raises:
        ValueError: If the task has no labels, a column is missing, or there is nothing to learn from or to score.
    """
    if spec.kind not in ("sequence", "token"):
        raise invalid("spec", "a task of kind 'sequence' or 'token'", f"{spec.name!r} of kind {spec.kind!r}")
    for name, examples in (("train", train), ("test", test)):
        _check(name, examples, spec)
    test = test.reset_index(drop=True)
    guesses = (
        _frequent_tags(train, test) if spec.kind == "token" else _classify(train, test, spec, split_words, strength)
    )
    languages = test.groupby("language")
    scores = {language: _score(guesses[rows.index], rows, spec) for language, rows in languages}
    return pd.Series(scores, name="bag of words").rename_axis("language")


def _check(argument: str, examples: pd.DataFrame, spec: TaskSpec) -> None:
    """Raises unless there are examples, in the columns of the task."""
    if examples.empty:
        raise invalid(argument, "at least one row", "none")
    if missing := [column for column in ("language", *spec.columns) if column not in examples]:
        raise invalid(argument, f"columns {', '.join(missing)}", f"only {', '.join(map(str, examples))}")


def _classify(
    train: pd.DataFrame, test: pd.DataFrame, spec: TaskSpec, split_words: Callable, strength: float
) -> pd.Series:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    if train["label"].nunique() == 1:  # nothing to tell apart
        return pd.Series([train["label"].iloc[0]] * len(test))
    sides = list(spec.inputs)
    counter = CountVectorizer(analyzer=split_words).fit(pd.concat([train[side] for side in sides]))
    model = LogisticRegression(C=strength, max_iter=1000)
    model.fit(_features(counter, train[sides]), train["label"])
    return pd.Series(model.predict(_features(counter, test[sides])))


def _features(counter: Any, sides: pd.DataFrame) -> sparse.csr_array:
    """Counts of words; of pairs those of both sides, their difference and their overlap."""
    counts = [sparse.csr_array(counter.transform(sides[side])) for side in sides]
    if len(counts) == 1:
        return counts[0]
    return sparse.hstack([*counts, abs(counts[0] - counts[1]), counts[0].minimum(counts[1])], format="csr")


def _frequent_tags(train: pd.DataFrame, test: pd.DataFrame) -> pd.Series:
    """The tag that each word mostly has in its language; words never seen get the commonest tag of all."""
    seen: defaultdict[tuple[str, str], Counter] = defaultdict(Counter)
    for language, words, tags in zip(train["language"], train["tokens"], train["labels"], strict=True):
        for word, tag in zip(words, tags, strict=True):
            seen[language, word][tag] += 1
    fallback = sum(seen.values(), Counter()).most_common(1)[0][0]
    tag_of = {word: tags.most_common(1)[0][0] for word, tags in seen.items()}
    return pd.Series(
        [
            [tag_of.get((language, word), fallback) for word in words]
            for language, words in zip(test["language"], test["tokens"], strict=True)
        ]
    )


def _score(guesses: pd.Series, rows: pd.DataFrame, spec: TaskSpec) -> float:
    if spec.kind == "sequence":
        outputs, labels = ([torch.tensor(column.tolist())] for column in (guesses, rows["label"]))
    else:
        outputs, labels = (
            [torch.tensor([[*tags]]) for tags in column if len(tags)] for column in (guesses, rows["labels"])
        )
    return score(outputs, labels, str(spec.metric), spec.labels)
