"""Tasks of one's own: their description, data in memory, own columns, official splits, real files."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest

import xsub_utils as xs
from xsub_utils.data.columns import RawRows, common_columns
from xsub_utils.data.frames import check_frames, frames_of
from xsub_utils.data.schema import KINDS, TASKS, is_builtin
from xsub_utils.data.sources import named_spec

REAL = Path(os.environ.get("XSUB_REAL", Path(__file__).parents[1] / "../shared/data/real"))
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real data: set XSUB_REAL to their folder")

TOPIC = xs.TaskSpec("topic", kind="sequence", labels=["travel", "sports"])
TAGS = xs.TaskSpec("drugs", kind="token", labels=["O", "B-DRUG", "I-DRUG"])
SIZES = {"train": 6, "importance": 2, "validation": 2, "test": 4}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A store of its own for every test."""
    monkeypatch.setenv("XSUB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def frame(texts, language="de", labels=None, **more):
    labels = labels or ["travel", "sports"] * len(texts)
    return pd.DataFrame({"language": language, "text": texts, "label": labels[: len(texts)], **more})


def numbered(start, count, language="de", **more):
    return frame([f"{language} {start} {i}" for i in range(count)], language, **more)


# The description


@pytest.mark.parametrize(
    ("kind", "labels", "metric", "columns"),
    [
        ("sequence", ["a", "b"], "accuracy", ("text", "label")),
        ("token", ["O", "B-X", "I-X"], "f1", ("tokens", "labels")),
        ("token", ["I-X", "O", "I-Y"], "f1", ("tokens", "labels")),
        ("token", ["N", "V", "O"], "token_accuracy", ("tokens", "labels")),
        ("token", ["B-X", "I-X"], "token_accuracy", ("tokens", "labels")),
        ("mlm", [], "perplexity", ("text",)),
        ("clm", [], "perplexity", ("text",)),
        ("text2text", [], "exact_match", ("text", "target")),
        ("text", [], None, ("text",)),
    ],
)
def test_the_metric_follows_from_the_kind(kind, labels, metric, columns):
    spec = xs.TaskSpec("mine", kind, labels)
    assert (spec.metric, spec.columns, spec.labels) == (metric, columns, tuple(labels))
    assert metric is None or metric in KINDS[kind].metrics


def test_labels_are_texts_and_specs_are_compared_by_value():
    assert xs.TaskSpec("stars", "sequence", [1, np.int64(2), 3.0]).labels == ("1", "2", "3")
    assert hash(TOPIC) == hash(xs.TaskSpec("topic", "sequence", ("travel", "sports")))
    assert xs.TaskSpec("tags", "token", ["O", "B-X"], metric="token_accuracy").metric == "token_accuracy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": " "}, "name: expected a text that is not empty, got ' '"),
        ({"kind": "sequenc"}, "kind: expected one of sequence, token, .*did you mean 'sequence'"),
        ({"labels": []}, r"labels: expected the names of at least two classes for kind 'sequence', got \[\]"),
        ({"labels": ["a"]}, "labels: expected the names of at least two"),
        ({"labels": "travel"}, "labels: expected a list of names, got 'travel'"),
        ({"labels": ["a", "b", "a"]}, "labels: expected different names, got 'a' twice"),
        ({"labels": ["a", ""]}, "labels: expected names that are not empty"),
        ({"kind": "mlm"}, "labels: expected none for kind 'mlm'"),
        ({"metric": "f1"}, "metric: expected one of accuracy, got 'f1'"),
        ({"kind": "token", "metric": "f1"}, "metric: expected token_accuracy for labels other than BIO tags"),
        ({"kind": "text", "labels": (), "metric": "accuracy"}, "metric: expected None for kind 'text'"),
        ({"kind": "token", "pair": True}, "pair: expected False for kind 'token', got True"),
    ],
)
def test_descriptions_that_do_not_fit_together(change, message):
    with pytest.raises(ValueError, match=message):
        xs.TaskSpec(**{"name": "mine", "kind": "sequence", "labels": ["a", "b"]} | change)


def test_built_in_tasks_are_as_they_were():
    assert {spec.name: spec.metric for spec in TASKS.values()} == {
        "nli": "accuracy",
        "paraphrase": "accuracy",
        "reviews": "accuracy",
        "ner": "f1",
        "upos": "token_accuracy",
        "mlm": "perplexity",
        "parallel": None,
    }


# Labels in the data


def labels_of(spec, values):
    table = pd.DataFrame({"text": [f"t{i}" for i in range(len(values))], "label": pd.Series(values, dtype=object)})
    return common_columns([RawRows(table, "de", None, "here")], spec)["label"].tolist()


def test_labels_are_names_or_indices():
    assert labels_of(TOPIC, ["sports", 0, 1.0, "1", np.int64(0)]) == [1, 0, 1, 1, 0]


def test_labels_that_are_numbers_are_names():
    stars = xs.TaskSpec("stars", "sequence", [1, 2, 3])
    assert labels_of(stars, [1, "2", 3.0]) == [0, 1, 2]
    with pytest.raises(ValueError, match="label: expected one of 1, 2, 3, got '0'"):
        labels_of(stars, [0])
    assert labels_of(xs.TaskSpec("turned", "sequence", [1, 0]), [1, 0]) == [0, 1]


def test_what_is_special_of_a_built_in_task_does_not_befall_one_of_the_same_name():
    own = xs.TaskSpec("reviews", "sequence", ["bad", "fair", "good", "better", "best"])
    assert labels_of(own, [0, 1, 4]) == [0, 1, 4]  # no stars
    with pytest.warns(
        UserWarning, match=r"label: 0 to 2 are taken for negative, 3 and 4 for positive, .*stars=\(0, 4\)"
    ):
        assert labels_of(TASKS["reviews"], [0, 1, 4]) == [0, 0, 1]
    nli = replace(TASKS["nli"], labels=("yes", "no"))
    table = pd.DataFrame({"premise": ["a"], "hypothesis": ["b"], "label": ["no"]})
    for spec, name in ((nli, "de-0"), (TASKS["nli"], "0")):
        rows = common_columns([RawRows(table.assign(label=0), "de", None, "here")], spec)
        assert rows["id"].tolist() == [name]
    with pytest.raises(ValueError, match="source: expected 'local' or 'hub' for 'nli', a task of your own"):
        xs.load_task(nli, ["qaa"], sizes={"train": 2})
    assert not is_builtin(nli) and is_builtin(replace(TASKS["ner"], metric="token_accuracy"), "ner")


# Frames


def test_frames_become_a_task():
    train = pd.concat([frame(["Zug", "Ball"], "de"), frame(["treni", "mpira", "bao"], "sw")])
    task = xs.Task.from_frames(TOPIC, {"test": frame(["Tor"]), "train": train})
    assert (task.spec, task.languages, list(task.splits), task.source) == (
        TOPIC,
        ("de", "sw"),
        ["train", "test"],
        "memory",
    )
    assert task.examples("train").columns.tolist() == ["id", "language", "text", "label"]
    assert task.examples("train", "sw")["label"].tolist() == [0, 1, 0]
    assert task.examples("train")["id"].tolist() == [
        "train-de-0",
        "train-de-1",
        "train-sw-0",
        "train-sw-1",
        "train-sw-2",
    ]
    assert xs.Task.from_frames(TOPIC, {"train": train}, languages=["sw"]).languages == ("sw",)


def test_frames_are_not_changed_and_columns_may_have_other_names():
    rows = (
        frame(["Zug", "Ball"]).rename(columns={"language": "lg", "text": "body", "label": "category"}).assign(nr=[7, 8])
    )
    before = rows.copy()
    task = xs.Task.from_frames(TOPIC, {"train": rows}, columns={"language": "lg", "text": "body", "id": "nr"})
    pd.testing.assert_frame_equal(rows, before)
    assert task.examples("train").to_numpy().tolist() == [["7", "de", "Zug", 0], ["8", "de", "Ball", 1]]


def test_parallel_rows_stand_in_one_order():
    de, sw = frame(["a", "b", "c"], "de", id=[3, 1, 2]), frame(["x", "y", "z", "u"], "sw", id=[1, 9, 2, 3])
    task = xs.Task.from_frames(TOPIC, {"train": pd.concat([de, sw], ignore_index=True)}, parallel=True)
    assert task.examples("train", "de")["id"].tolist() == ["3", "1", "2"]
    assert task.examples("train", "sw")["id"].tolist() == ["3", "1", "2", "9"]
    assert task.examples("train", "sw")["text"].tolist() == ["u", "x", "z", "y"]


def test_every_kind_takes_frames():
    words = pd.DataFrame({"language": "de", "words": [["Ibu", "400"]], "tags": [["B-DRUG", "I-DRUG"]]})
    assert xs.Task.from_frames(TAGS, {"train": words}).examples("train")["labels"].tolist() == [[1, 2]]
    text = pd.DataFrame({"language": "de", "text": ["Wort " * 500]})
    task = xs.Task.from_frames(xs.TaskSpec("lm", "clm"), {"train": text})
    assert task.examples("train")["text"].tolist() == [("Wort " * 500).strip()]
    pairs = pd.DataFrame({"language": "de", "text": ["a"], "target": ["b"]})
    assert xs.Task.from_frames(xs.TaskSpec("say", "text2text"), {"train": pairs}).examples("train")["target"][0] == "b"
    nli = pd.DataFrame({"language": "de", "premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, "neutral"]})
    rows = xs.Task.from_frames("nli", {"train": nli}).examples("train")
    assert rows["id"].tolist() == ["train-de-0", "train-de-1"]  # rows of a frame are parallel only by their ids
    assert rows["label"].tolist() == [0, 1]


def test_equal_examples_have_an_equal_identity_wherever_they_come_from(tmp_path):
    loaded = xs.load_task("ner", ["qaa", "qba"], sizes={"train": 5, "test": 3})
    again = xs.Task.from_frames("ner", loaded.splits)
    assert again.identity == loaded.identity
    for split, rows in loaded.splits.items():
        pd.testing.assert_frame_equal(again.splits[split], rows)
    by_hand = xs.Task(loaded.spec, loaded.languages, loaded.splits)
    assert by_hand.identity == loaded.identity
    fewer = {"train": loaded.examples("train", "qaa")}
    assert replace(loaded, splits=fewer, identity="").identity != loaded.identity
    named = {"train": frame(["Zug"])}
    turned = replace(TOPIC, labels=("sports", "travel"))
    assert xs.Task.from_frames(TOPIC, named).identity != xs.Task.from_frames(turned, {"train": frame(["Zug"])}).identity


def test_splits_can_be_drawn_from_frames():
    parts = {"train": numbered("train", 20), "dev": numbered("dev", 6), "test": numbered("test", 5)}
    task = xs.Task.from_frames(TOPIC, parts, sizes=SIZES)
    origin = {split: set(rows["text"].str.split().str[1]) for split, rows in task.splits.items()}
    assert origin == {"train": {"train"}, "importance": {"dev"}, "validation": {"dev"}, "test": {"test"}}
    assert {split: len(rows) for split, rows in task.splits.items()} == SIZES
    assert task.identity != xs.Task.from_frames(TOPIC, parts, sizes=SIZES, seed=1).identity
    alone = xs.Task.from_frames(TOPIC, {"train": numbered("all", 20)}, sizes=SIZES)
    assert {split: len(rows) for split, rows in alone.splits.items()} == SIZES


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        ({}, {}, "frames: expected a frame for each split, got none"),
        ({"train": frame([])}, {}, r"\['train'\]: expected rows, got none"),
        ({"dev": frame(["a"])}, {}, "expected one of train, importance, validation, test, got 'dev'"),
        ({"train": frame(["a"])[["text"]]}, {}, r"\['train'\]: expected a column 'language', got columns text"),
        (
            {"train": frame(["a"])[["language", "text"]]},
            {},
            "'label' or 'category' or 'target', got columns l",
        ),
        (
            {"train": frame(["a"])},
            {"columns": {"text": "body"}},
            "expected a column 'body', got columns language",
        ),
        ({"train": frame(["a"])}, {"columns": {"txt": "body"}}, "columns: expected one of .*did you mean 'text'"),
        ({"train": frame(["a"], labels=["art"])}, {}, r"\['train'\], row 0, label: .* travel, sports, got 'art'"),
        ({"train": frame(["a", " "])}, {}, "row 1, text: expected a text that is not empty, got ' '"),
        ({"train": frame(["a"], language=None)}, {}, "row 0, language: expected a code such as 'de', got None"),
        ({"train": frame(["a"])}, {"languages": ["sw"]}, "languages: expected one of de, got 'sw'"),
        ({"train": frame(["a", "b"], id=[1, 1])}, {}, "row 1, id: expected different ids .*got '1' twice"),
        (
            {"train": frame(["a"], id=[1]), "test": frame(["b"], id=[1])},
            {},
            "1 in several, such as '1' of",
        ),
        (
            {"train": frame(["a", "b"]), "test": frame(["b", "a"])},
            {},
            r"2 in several, .* \['a'\] of .*allow_overlap=True",
        ),
        ({"train": frame(["a"])}, {"sizes": {"train": 2}}, "sizes: expected no more rows than .*: de 1, got train 2"),
    ],
)
def test_frames_that_are_not_what_they_should_be(frames, options, message):
    with pytest.raises(ValueError, match=message):
        xs.Task.from_frames(TOPIC, frames, **options)


def test_what_is_no_frame_is_named():
    with pytest.raises(ValueError, match="frames: expected a frame for each split, got a list"):
        check_frames([frame(["a"])], SIZES)
    with pytest.raises(ValueError, match=r"frames\['train'\]: expected a pandas.DataFrame, got a list"):
        check_frames({"train": [["a"]]}, SIZES)
    with pytest.raises(ValueError, match=r"got a Dataset; use Task\.from_datasets"):
        check_frames({"train": datasets.Dataset.from_dict({"text": ["a"]})}, SIZES)


def test_shared_texts_and_bad_rows_can_be_allowed():
    task = xs.Task.from_frames(TOPIC, {"train": frame(["a", "b"]), "test": frame(["b"])}, allow_overlap=True)
    assert len(task.examples("test")) == 1
    with pytest.warns(UserWarning, match="1 invalid rows are left out"):
        task = xs.Task.from_frames(TOPIC, {"train": frame(["a", ""])}, drop_invalid=True)
    assert len(task.examples("train")) == 1
    with pytest.raises(ValueError, match=r"drop_invalid: expected some valid rows, got none; .*'music'"):
        xs.Task.from_frames(TOPIC, {"train": frame(["a"], labels=["music"])}, drop_invalid=True)


def test_languages_may_share_ids_over_splits_and_texts():
    task = xs.Task.from_frames(TOPIC, {"train": frame(["a"], "de", id=[1]), "test": frame(["a"], "sw", id=[1])})
    assert task.languages == ("de", "sw")


# Data sets of the library `datasets`


def test_a_dataset_dict_becomes_a_task():
    features = datasets.Features(
        {"text": datasets.Value("string"), "category": datasets.ClassLabel(names=["sports", "travel"])}
    )
    rows = [datasets.Dataset.from_dict({"text": [t], "category": [i]}, features) for i, t in enumerate(["Tor", "Zug"])]
    task = xs.Task.from_datasets(TOPIC, datasets.DatasetDict(train=rows[0], test=rows[1]), language="de")
    assert task.languages == ("de",)
    assert task.examples("train")["label"].tolist() == [1]  # by name, whatever the order in the data set
    assert task.examples("test")["label"].tolist() == [0]


def test_tags_and_parts_of_a_dataset_dict():
    tag = datasets.List(datasets.ClassLabel(names=["I-DRUG", "O", "B-DRUG"]))
    word, code = datasets.List(datasets.Value("string")), datasets.Value("string")
    features = datasets.Features({"tokens": word, "ner_tags": tag, "language": code})

    def rows(part, count):
        columns = {"tokens": [[part, str(i)] for i in range(count)], "ner_tags": [[2, 1]] * count}
        return datasets.Dataset.from_dict(columns | {"language": ["de"] * count}, features)

    parts = datasets.DatasetDict(train=rows("a", 9), validation=rows("b", 5), test=rows("c", 4))
    task = xs.Task.from_datasets(TAGS, parts, sizes=SIZES)
    assert {split: len(table) for split, table in task.splits.items()} == SIZES
    assert {tokens[0] for tokens in task.examples("importance")["tokens"]} == {"b"}
    assert task.examples("train")["labels"].tolist() == [[1, 0]] * 6
    with pytest.raises(ValueError, match="language: expected None beside a column 'language', got 'de'"):
        xs.Task.from_datasets(TAGS, parts, language="de")
    with pytest.raises(ValueError, match=r"dataset_dict: expected a datasets\.DatasetDict, got a Dataset"):
        frames_of(parts["train"], None)
    with pytest.raises(ValueError, match=r"dataset_dict\['train'\]: expected a datasets\.Dataset, got a list"):
        frames_of({"train": []}, None)


# Files


def write(folder, name, table):
    folder.mkdir(exist_ok=True)
    table.to_csv(folder / name, index=False)
    return folder


def test_files_of_an_own_task_with_own_columns_and_official_parts(tmp_path):
    parts = [numbered(part, 12, "deu_Latn").assign(split=part) for part in ("training", "Dev", "test")]
    table = pd.concat(parts).rename(columns={"text": "body", "label": "category"})
    path = write(tmp_path / "data", "deu_Latn.csv", table)
    task = xs.load_task(TOPIC, ["deu_Latn"], source="local", path=path, sizes=SIZES, columns={"text": "body"})
    origin = {split: set(rows["text"].str.split().str[1]) for split, rows in task.splits.items()}
    assert origin == {"train": {"training"}, "importance": {"Dev"}, "validation": {"Dev"}, "test": {"test"}}
    assert (
        xs.load_task(TOPIC, ["deu_Latn"], source="local", path=path, sizes=SIZES, columns={"text": "body"}).identity
        == task.identity
    )


def test_language_and_split_columns_may_have_other_names(tmp_path):
    table = pd.concat(
        [numbered(part, 6, code).assign(fold=part) for code in ("de", "sw") for part in ("train", "test")]
    )
    path = write(tmp_path / "data", "all.csv", table.rename(columns={"language": "lg"}))
    names = {"language": "lg", "split": "fold"}
    task = xs.load_task(TOPIC, ["sw", "de"], source="local", path=path, sizes={"train": 6, "test": 6}, columns=names)
    assert set(task.examples("test", "sw")["text"]) == {f"sw test {i}" for i in range(6)}


def test_codes_as_in_flores_are_told_by_names(tmp_path):
    for name in ("zho_Hans", "zho_Hant", "zho"):
        write(tmp_path / "data", f"{name}.csv", numbered(name, 4, name).drop(columns="language"))
    codes = ["zho_Hant", "zho", "zho_Hans"]
    task = xs.load_task(TOPIC, codes, source="local", path=tmp_path / "data", sizes={"train": 4})
    for code in codes:
        assert set(task.examples("train", code)["text"]) == {f"{code} {code} {i}" for i in range(4)}


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (numbered("a", 4).assign(split="x"), {}, r"de\.csv, line 2, split: expected one of train, .*got 'x'; rename"),
        (numbered("a", 4), {"columns": {"split": "fold"}}, r"de\.csv: expected a column 'fold', got columns"),
        (frame(["a", "b"], labels=["travel", "art"]), {}, r"de\.csv, line 3, label: .*travel, sports, got 'art'"),
        (numbered("a", 4), {"columns": {"txt": "a"}}, "columns: expected one of"),
        (numbered("a", 4), {"source": "hub", "path": None}, "dataset: .*id of the data of task 'topic', got None"),
        (numbered("a", 4), {"source": "minibabel", "path": None}, "source: expected 'local' or 'hub' for 'topic'"),
    ],
)
def test_bad_files_of_an_own_task_leave_nothing_behind(tmp_path, home, table, options, message):
    path = write(tmp_path / "data", "de.csv", table)
    with pytest.raises(ValueError, match=message):
        xs.load_task(TOPIC, ["de"], **{"source": "local", "path": path, "sizes": {"train": 2}} | options)
    assert not list(home.rglob("*.parquet"))


def test_a_spec_is_a_spec_or_a_name():
    with pytest.raises(ValueError, match="spec: expected a TaskSpec or the name of a built-in task, got 3"):
        named_spec(3)


def test_the_hub_serves_own_tasks(monkeypatch):
    calls = []

    def load_dataset(path, **options):
        calls.append((path, options))
        rows = {part: numbered(part, 8).drop(columns="language") for part in ("train", "validation", "test")}
        return datasets.DatasetDict({part: datasets.Dataset.from_pandas(table) for part, table in rows.items()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = xs.load_task(TOPIC, ["deu_Latn"], source="hub", dataset="me/topic", sizes=SIZES)
    assert calls == [("me/topic", {"name": "deu_Latn", "revision": None, "streaming": False})]
    origin = {split: set(rows["text"].str.split().str[1]) for split, rows in task.splits.items()}
    assert origin == {"train": {"train"}, "importance": {"validation"}, "validation": {"validation"}, "test": {"test"}}


# IOB2

UNER = """# newdoc id = n01
# sent_id = n01-1
# text = Obama sprach "im Haus".
1\tObama\tB-PER\t-\tannotator
2\tsprach\tO\t-\t-
3-4\tim\t_\t-\t-
3\tin\tO\t-\t-
4\t"\tO\t-\t-

# sent_id = n01-2
1\t#\tO\t-\t-
"""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("de.iob2", UNER, [("n01-1", ["Obama", "sprach", "in", '"'], [1, 0, 0, 0]), ("n01-2", ["#"], [0])]),
        ("de.iob2", '"\tO\n#\tO\n\n1\tB-LOC\r\n', [("de-0", ['"', "#"], [0, 0]), ("de-1", ["1"], [5])]),
        ("de.tsv", 'als\tO\n"\tO\n\nRom\tB-LOC\n', [("de-0", ["als", '"'], [0, 0]), ("de-1", ["Rom"], [5])]),
    ],
)
def test_tagged_words_are_read_line_by_line(tmp_path, name, text, expected):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text(text, encoding="utf-8")
    task = xs.load_task("ner", ["de"], source="local", path=tmp_path / "data", sizes={"train": 2})
    rows = task.examples("train").sort_values("id")[["id", "tokens", "labels"]]
    assert rows.to_numpy().tolist() == [list(row) for row in expected]


@pytest.mark.parametrize("line", ["Rom", "Rom\t", "Rom\tNN\tO", "Rom O"])
def test_lines_that_hold_no_word_and_tag_are_named(tmp_path, line):
    (tmp_path / "de.iob2").write_text(f"als\tO\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"de\.iob2, line 2: expected a word and its tag between tabs"):
        xs.load_task("ner", ["de"], source="local", path=tmp_path / "de.iob2", sizes={"train": 1})


# Rows that must stay as they were


def test_the_rows_of_a_seed_stay_the_same():
    """The digest was made before splits and options got their present names."""
    columns = ["id", "language", "text", "text_pair", "label"]
    task = xs.load_task("nli", ["qaa", "qba"], sizes={"train": 50, "importance": 10, "validation": 10, "test": 20})
    rows = [[list(row) for row in task.splits[split][columns].itertuples(index=False)] for split in task.splits]
    digest = hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()
    assert list(task.splits) == ["train", "importance", "validation", "test"]
    assert digest == "5f9becaf893c024119bd098f86b73bf8c6373e6503483b22bf1f220d650586da"


# Real data

SIB = ["science/technology", "travel", "politics", "sports", "health", "entertainment", "geography"]


@needs_real
def test_topics_of_sib_200_keep_their_official_parts():
    spec = xs.TaskSpec("topic", "sequence", SIB)
    languages = ["deu_Latn", "swh_Latn", "zho_Hans"]
    sizes = {"train": 690, "importance": 48, "validation": 48, "test": 200}
    task = xs.load_task(spec, languages, source="local", path=REAL / "topic", sizes=sizes, parallel=True)
    assert task.languages == tuple(languages) and set(task.examples("train")["label"]) == set(range(7))
    for split, part in zip(sizes, ("train", "validation", "validation", "test"), strict=True):
        ids = {language: task.examples(split, language)["id"].tolist() for language in languages}
        assert ids["deu_Latn"] == ids["swh_Latn"] == ids["zho_Hans"]  # parallel
        assert len(ids["deu_Latn"]) == sizes[split] and {name.split("-")[0] for name in ids["deu_Latn"]} == {part}
    texts = pd.read_parquet(REAL / "topic" / "deu_Latn.parquet").set_index("id")
    row = task.examples("test", "deu_Latn").iloc[0]
    original = texts.loc[row["id"].removeprefix("test-")]
    assert (row["text"], SIB[row["label"]]) == (original["text"].strip(), original["label"])


@needs_real
def test_entities_of_universal_ner_join_over_languages():
    sizes = {"train": 500, "importance": 100, "validation": 100, "test": 200}
    task = xs.load_task("ner", ["de", "en"], source="local", path=REAL / "ner-pud", sizes=sizes)
    for split in sizes:
        assert task.examples(split, "de")["id"].tolist() == task.examples(split, "en")["id"].tolist()
    quoted = xs.load_task("ner", ["zh"], source="local", path=REAL / "ner-pud", sizes={"train": 900})
    assert '"' in set(quoted.examples("train")["tokens"].explode())
    assert set(quoted.examples("train")["labels"].explode()) == set(range(7))


@needs_real
def test_wikiann_is_read_without_a_header():
    task = xs.load_task("ner", ["de", "zh"], source="local", path=REAL / "ner", sizes={"train": 4000})
    assert set(task.examples("train", "zh")["labels"].explode()) == set(range(7))
