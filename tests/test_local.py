"""Files and hub data sets as rows in the columns of a task."""

import json
import os
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest

from xsub_utils.data.columns import RawRows, common_columns
from xsub_utils.data.hub import HUB, hub_rows
from xsub_utils.data.local import local_files, local_rows
from xsub_utils.data.schema import TASKS
from xsub_utils.data.tasks import load_task

PUD = Path(os.environ.get("XSUB_UD", Path(__file__).parents[1] / "../shared/data/ud-pud"))
PUD_LANGUAGES = ["ar", "de", "en", "es", "fr", "hi", "ru", "zh"]
needs_pud = pytest.mark.skipif(not PUD.is_dir(), reason="no PUD treebanks: set XSUB_UD to their folder")

FRENCH = """# newdoc id = n01001
# sent_id = n01001011
# parallel_id = pud/n01001011
# text = Vue du pont.
1\tVue\tvue\tNOUN\t_\t_\t0\troot\t_\t_
2-3\tdu\t_\t_\t_\t_\t_\t_\t_\t_
2\tde\tde\tADP\t_\t_\t4\tcase\t_\t_
3\tle\tle\tDET\t_\t_\t4\tdet\t_\t_
4\tpont\tpont\tNOUN\t_\t_\t1\tnmod\t_\tSpaceAfter=No
4.1\tvide\tvide\tNOUN\t_\t_\t_\t_\t1:nmod\t_
5\t.\t.\tPUNCT\t_\t_\t1\tpunct\t_\t_

# sent_id = n01001013
# text = Oui
1\tOui\toui\tINTJ\t_\t_\t0\troot\t_\t_
"""
PAIRS = [{"premise": f"p {i}", "hypothesis": f"h {i}", "label": i % 3} for i in range(4)]


def write(folder, **files):
    """Files in a folder; `__` in a name stands for `/`, the last `_` for `.`."""
    for name, text in files.items():
        path = folder / ".".join(name.replace("__", "/").rsplit("_", 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def load(path, task="nli", languages=("de",), **options):
    return common_columns(local_rows(path, list(languages)), TASKS[task], **options)


# Formats


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_every_table_format_gives_the_same_rows(tmp_path, suffix):
    table = pd.DataFrame(PAIRS)
    {
        "jsonl": lambda path: path.write_text(lines(PAIRS)),
        "csv": lambda path: table.to_csv(path, index=False),
        "tsv": lambda path: table.to_csv(path, index=False, sep="\t"),
        "parquet": lambda path: table.to_parquet(path),
    }[suffix](tmp_path / f"de.{suffix}")
    rows = load(tmp_path)
    assert rows.columns.tolist() == ["id", "language", "part", "text", "text_pair", "label"]
    assert rows["id"].tolist() == ["0", "1", "2", "3"]
    assert rows["text"].tolist() == ["p 0", "p 1", "p 2", "p 3"]
    assert rows["label"].tolist() == [0, 1, 2, 0]
    assert rows["label"].dtype == np.int64


def test_words_of_a_csv_are_separated_by_spaces(tmp_path):
    rows = load(write(tmp_path, de_csv="id,tokens,labels\nx,Ada in Rom,B-PER O B-LOC\n"), "ner")
    assert rows.iloc[0].to_dict() == {
        "id": "x",
        "language": "de",
        "part": None,
        "tokens": ["Ada", "in", "Rom"],
        "labels": [1, 0, 5],
    }


def test_quoted_fields_may_hold_commas_and_line_breaks(tmp_path):
    rows = load(write(tmp_path, de_csv='text,label\n"gut,\nsehr",positive\nschlecht,negative\n'), "reviews")
    assert rows["text"].tolist() == ["gut,\nsehr", "schlecht"]
    assert rows["label"].tolist() == [1, 0]


def test_quotation_marks_of_a_tsv_mean_themselves(tmp_path):
    rows = load(write(tmp_path, de_tsv='text\tlabel\n"gut\t1\nnein" so\t0\n'), "reviews")
    assert rows["text"].tolist() == ['"gut', 'nein" so']


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    (tmp_path / "de.csv").write_bytes("﻿text,label\ngut,1\n".encode())
    assert load(tmp_path, "reviews")["text"].tolist() == ["gut"]


def test_conllu_gives_words_tags_text_and_the_id_of_translations(tmp_path):
    path = write(tmp_path, fr_conllu=FRENCH)
    rows = load(path, "upos", ["fr"])
    assert rows["id"].tolist() == ["n01001011", "n01001013"]
    assert rows["tokens"].tolist() == [["Vue", "de", "le", "pont", "."], ["Oui"]]
    labels = TASKS["upos"].labels
    assert [labels[i] for i in rows["labels"][0]] == ["NOUN", "ADP", "DET", "NOUN", "PUNCT"]
    assert load(path, "mlm", ["fr"])["text"].tolist() == ["Vue du pont.", "Oui"]
    assert load(path, "parallel", ["fr"])["id"].tolist() == ["n01001011", "n01001013"]


def test_conllu_without_ids_numbers_its_sentences(tmp_path):
    silent = "\n".join(line for line in FRENCH.split("\n") if "_id" not in line)
    assert load(write(tmp_path, fr_conllu=silent), "upos", ["fr"])["id"].tolist() == ["fr-0", "fr-1"]


@needs_pud
def test_pud_sentences_join_over_all_languages():
    rows = load(PUD, "parallel", PUD_LANGUAGES)
    ids = rows.groupby("language")["id"].agg(list)
    assert list(ids.index) == PUD_LANGUAGES
    assert all(sorted(ids[language]) == sorted(ids["en"]) for language in PUD_LANGUAGES)
    assert len(set(ids["en"])) == 1000


@needs_pud
def test_pud_has_all_universal_tags():
    rows = load(PUD, "upos", ["en"])
    assert (rows["tokens"].map(len) == rows["labels"].map(len)).all()
    assert set(rows["labels"].explode()) == set(range(17))


# Layouts


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("de__train_jsonl", "train"),
        ("de__train-00000-of-00001_jsonl", "train"),
        ("de_pud-ud-test_jsonl", "test"),
        ("xnli.dev.de_jsonl", "validation"),
        ("20231101.de__rows_jsonl", None),
    ],
)
def test_names_tell_language_and_part(tmp_path, name, part):
    write(tmp_path, **{name: lines(PAIRS), "README_md": "x"})
    (file,) = local_files(tmp_path, ["de"])
    assert (file.language, file.part) == ("de", part)


def test_files_of_other_languages_are_not_read(tmp_path):
    write(tmp_path, de_jsonl=lines(PAIRS), en_jsonl="not JSON", dev_jsonl="not JSON")
    assert len(load(tmp_path)) == 4


def test_a_language_column_tells_where_names_do_not(tmp_path):
    mixed = [row | {"language": "de" if i % 2 else "en"} for i, row in enumerate(PAIRS)]
    write(tmp_path, rows_jsonl=lines(mixed))
    for path in (tmp_path, tmp_path / "rows.jsonl"):
        rows = load(path, languages=["de", "en"])
        assert rows.groupby("language")["text"].agg(list).to_dict() == {
            "de": ["p 1", "p 3"],
            "en": ["p 0", "p 2"],
        }
        assert rows.groupby("language")["id"].agg(list).to_dict() == {"de": ["0", "1"], "en": ["0", "1"]}


def test_numbers_go_on_over_the_files_of_a_part(tmp_path):
    for shard in range(2):
        write(tmp_path, **{f"de__train-0000{shard}_jsonl": lines(PAIRS), "de__test_jsonl": lines(PAIRS)})
    ids = load(tmp_path)["id"].tolist()
    assert ids == [f"test-{i}" for i in range(4)] + [f"train-{i}" for i in range(8)]


# The hub's columns


def hub_sets():
    """Data sets as the hub has them: columns, features and quirks."""
    ner = [name for name in TASKS["ner"].labels]
    upos = ["NOUN", "PUNCT", "ADP", "NUM", "SYM", "SCONJ", "ADJ", "PART", "DET", "CCONJ", "PROPN", "PRON"]
    upos += ["X", "_", "ADV", "INTJ", "VERB", "AUX"]
    text, words = datasets.Value("string"), datasets.List(datasets.Value("string"))
    nli = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    tag = {name: datasets.List(datasets.ClassLabel(names=names)) for name, names in (("n", ner), ("u", upos))}
    return {
        "nli": ({"premise": text, "hypothesis": text, "label": nli}, [["a", "b"], ["c", "d"], [2, 0]]),
        "paraphrase": (
            {
                "id": datasets.Value("int32"),
                "sentence1": text,
                "sentence2": text,
                "label": datasets.ClassLabel(names=["0", "1"]),
            },
            [[1, 2], ["a", "b"], ["c", "d"], [1, 0]],
        ),
        "reviews": (
            {"id": text, "text": text, "label": datasets.Value("int32"), "label_text": text},
            [["de_0", "de_1"], ["a", "b"], [2, 3], ["2", "3"]],
        ),
        "ner": (
            {"tokens": words, "ner_tags": tag["n"], "langs": words, "spans": words},
            [[["a", "b"], ["c"]], [[1, 2], [0]], [["de", "de"], ["de"]], [["PER: a b"], []]],
        ),
        "upos": (
            {"idx": text, "text": text, "tokens": words, "upos": tag["u"]},
            [["s1", "s2"], ["a b", "c"], [["a", "b"], ["c"]], [[0, 17], [15]]],
        ),
        "mlm": (
            {"id": text, "url": text, "title": text, "text": text},
            [["7", "9"], ["w/a", "w/b"], ["A", "B"], ["a", "b"]],
        ),
    }


EXPECTED = {  # task -> first row without language and part
    "nli": {"id": "0", "text": "a", "text_pair": "c", "label": 2},
    "paraphrase": {"id": "1", "text": "a", "text_pair": "c", "label": 1},
    "reviews": {"id": "de_0", "text": "a", "label": 0},
    "ner": {"id": "de-0", "tokens": ["a", "b"], "labels": [1, 2]},
    "upos": {"id": "de-0", "tokens": ["a", "b"], "labels": [7, 3]},
    "mlm": {"id": "w/a", "text": "a"},
}


def in_memory(task):
    features, columns = hub_sets()[task]
    return datasets.Dataset.from_dict(dict(zip(features, columns, strict=True)), features=datasets.Features(features))


@pytest.fixture
def hub(monkeypatch):
    """The calls to the hub, answered by small data sets."""
    calls = []

    def load_dataset(path, streaming=False, **options):
        calls.append((path, streaming, options))
        (task,) = [task for task in hub_sets() if HUB[task].name == path]
        rows = in_memory(task)
        if streaming:
            return datasets.IterableDatasetDict(train=rows.to_iterable_dataset())
        return datasets.DatasetDict(train=rows, validation=rows, test=rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


@pytest.mark.parametrize("task", EXPECTED)
def test_hub_columns_become_ours(hub, task):
    rows = common_columns(hub_rows(TASKS[task], ["de"]), TASKS[task])
    parts = ["train"] if task == "mlm" else ["train", "validation", "test"]
    assert rows["part"].unique().tolist() == parts
    first = rows.iloc[0].drop(["language", "part"]).to_dict()
    before = "train-" if len(parts) > 1 else ""
    assert first == EXPECTED[task] | {"id": before + EXPECTED[task]["id"]}


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("task", EXPECTED)
def test_local_parquet_of_a_hub_data_set_takes_the_same_way(tmp_path, task, metadata):
    rows = in_memory(task)
    if metadata:
        rows.to_parquet(tmp_path / "de.parquet")
    elif task == "upos":
        pytest.skip("the numbers of the hub's tags mean nothing without their names")
    else:
        rows.to_pandas().to_parquet(tmp_path / "de.parquet")
    assert load(tmp_path, task).iloc[0].drop(["language", "part"]).to_dict() == EXPECTED[task]


def test_rows_of_a_task_load_again(tmp_path):
    first = load(write(tmp_path / "a", de_jsonl=lines(PAIRS)))
    (tmp_path / "b").mkdir()
    first.drop(columns="part").to_parquet(tmp_path / "b" / "de.parquet")
    pd.testing.assert_frame_equal(first, load(tmp_path / "b"))


def test_the_hub_is_asked_for_configuration_and_revision(hub):
    list(hub_rows(TASKS["nli"], ["de", "fr"], revision="abc"))
    list(hub_rows(TASKS["upos"], ["de"]))
    list(hub_rows(TASKS["upos"], ["de"], config="{language}_gsd"))
    list(hub_rows(TASKS["upos"], ["de"], config={"de": "de_hdt"}))
    list(hub_rows(TASKS["mlm"], ["de"]))
    names = [(options.get("name"), options.get("data_dir"), options["revision"]) for _, _, options in hub]
    assert names == [
        ("de", None, "abc"),
        ("fr", None, "abc"),
        (None, "de_pud", "refs/convert/parquet"),
        (None, "de_gsd", "refs/convert/parquet"),
        (None, "de_hdt", "refs/convert/parquet"),
        ("20231101.de", None, None),
    ]
    assert [streaming for _, streaming, _ in hub] == [False] * 5 + [True]
    with pytest.raises(ValueError, match="config: expected a configuration for language 'fr', got those of de"):
        list(hub_rows(TASKS["upos"], ["fr"], config={"de": "de_hdt"}))


def test_documents_are_fetched_up_to_the_budget(hub):
    (raw,) = hub_rows(TASKS["mlm"], ["de"], budget=1)
    assert raw.table["text"].tolist() == ["a"]


def test_a_task_comes_from_the_hub_with_the_options_of_reading_and_of_checking(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("XSUB_HOME", str(tmp_path))
    sizes = {"train": 1, "test": 1}
    task = load_task("mlm", ["de"], source="hub", sizes=sizes, budget=2, revision="abc", max_characters=50)
    assert sorted([*task.examples("train")["text"], *task.examples("test")["text"]]) == ["a", "b"]
    assert hub[0][2]["revision"] == "abc"


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (
            ValueError("BuilderConfig 'xx' not found."),
            ValueError,
            "languages: expected configurations of the hub's facebook/xnli, got 'xx'",
        ),
        (ConnectionError("offline"), ConnectionError, "source='local'"),
        (FileNotFoundError("no such data set"), ConnectionError, "source='local'"),
    ],
)
def test_the_hub_s_errors_name_language_and_remedy(monkeypatch, error, raised, said):
    def load_dataset(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(raised, match=said):
        list(hub_rows(TASKS["nli"], ["xx"]))


@pytest.mark.network
@pytest.mark.parametrize("task", HUB)
def test_the_real_hub(task):
    """Run with `HF_HUB_OFFLINE=0 pytest -m network`."""
    rows = common_columns(hub_rows(TASKS[task], ["de"], budget=20), TASKS[task], budget=20, drop_invalid=True)
    assert len(rows) >= 20
    if TASKS[task].labels:
        labels = rows[TASKS[task].columns[-1]].explode()
        assert set(labels) <= set(range(len(TASKS[task].labels)))


# Values


def raw(**columns):
    return [RawRows(pd.DataFrame(columns, dtype=object), "de", None, "here")]


def test_stars_become_two_classes_and_two_classes_stay():
    text = list("abcde")
    rated = common_columns(raw(text=text, label=[0, 1, 2, 3, 4]), TASKS["reviews"])
    assert rated["label"].tolist() == [0, 0, 0, 1, 1]
    judged = common_columns(raw(text=text, label=[0, 1, "negative", "positive", 1.0]), TASKS["reviews"])
    assert judged["label"].tolist() == [0, 1, 0, 1, 1]
    shards = [*raw(text=["a"], label=[1]), *raw(text=["b"], label=[4])]
    assert common_columns(shards, TASKS["reviews"], stars=(0, 4))["label"].tolist() == [0, 1]
    assert common_columns(shards, TASKS["reviews"], stars=(1, 5))["label"].tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"label: expected stars on one scale .* got 1 4 in 'de'; .*stars=\(0, 4\)"):
        common_columns(shards, TASKS["reviews"])


def test_a_budget_is_spread_over_the_table_and_keeps_numbers():
    pairs = raw(premise=list("abcdefghij"), hypothesis=list("abcdefghij"), label=[0] * 10)
    rows = common_columns(pairs, TASKS["nli"], budget=4)
    assert rows["id"].tolist() == ["0", "2", "5", "7"]
    assert rows["text"].tolist() == ["a", "c", "f", "h"]


def test_columns_of_other_names_can_be_named():
    reviews = raw(review_body=["a"], stars=[1])
    rows = common_columns(reviews, TASKS["reviews"], columns={"text": "review_body", "label": "stars"})
    assert rows.iloc[0][["text", "label"]].tolist() == ["a", 1]


def test_documents_become_paragraphs():
    sentence = "Der Turm steht seit langer Zeit am Fluss."
    article = f"{sentence}\n\nLage\n{' '.join([sentence] * 3)}\n"
    rows = common_columns(raw(id=["7", "8"], text=[article, "Kurz."]), TASKS["mlm"], max_characters=100)
    assert rows["id"].tolist() == ["7#0", "7#1", "7#2", "8"]
    assert rows["text"].map(len).max() <= 100
    assert " ".join(rows["text"][:3]) == " ".join([sentence] * 4)
    assert rows["text"][3] == "Kurz."


def test_chinese_is_cut_without_spaces():
    rows = common_columns(raw(text=["字" * 25]), TASKS["mlm"], max_characters=10)
    assert rows["text"].map(len).tolist() == [10, 10, 5]


# Bad input


@pytest.mark.parametrize(
    ("task", "files", "said"),
    [
        ("nli", {"de_jsonl": lines(PAIRS) + "{oops\n"}, r"de\.jsonl, line 5: expected a JSON object, got no JSON"),
        ("nli", {"de_jsonl": "[1]\n"}, r"line 1: expected a JSON object, got a list"),
        (
            "nli",
            {"de_jsonl": '{"premise": "a"}\n'},
            r"expected a column 'text_pair' or 'hypothesis'.*got columns premise; .*columns=",
        ),
        (
            "nli",
            {"de_jsonl": lines([*PAIRS, PAIRS[0] | {"label": 3}])},
            r"line 5, label: expected one of entailment, neutral, contradiction, got '3'; correct",
        ),
        (
            "nli",
            {"de_jsonl": "\n" + lines([PAIRS[0] | {"label": -1}])},
            r"line 2, label: .*got '-1', which marks a miss",
        ),
        (
            "nli",
            {"de_jsonl": lines([PAIRS[0] | {"premise": " "}])},
            r"line 1, text: expected a text that is not empty, got ' '",
        ),
        ("nli", {"de_jsonl": lines([PAIRS[0] | {"label": None}])}, r"line 1, label: .*got 'None'"),
        (
            "nli",
            {"de_jsonl": lines([{"id": 1} | PAIRS[0]] * 2)},
            r"line 2, id: expected different ids in language 'de', got '1' twice",
        ),
        ("nli", {"de_jsonl": ""}, r"de\.jsonl: expected rows, got none"),
        ("nli", {"de_parquet": "PAR1"}, r"de\.parquet: expected Parquet"),
        (
            "reviews",
            {"de_csv": "text,label\na,1\nb\n"},
            r"de\.csv, line 3: expected the 2 fields of the header, got 1 fields",
        ),
        (
            "reviews",
            {"de_csv": "text,label\na,1,2\n"},
            r"de\.csv, line 2: expected the 2 fields of the header, got 3 fields",
        ),
        ("reviews", {"de_csv": 'text,label\n"a"b,1\n'}, r"de\.csv, line 2: .*expected"),
        ("reviews", {"de_csv": 'text,label\n"a\nb",1\n\n"a,1\nb,0\n'}, r"de\.csv, line 5: .*unexpected end"),
        (
            "reviews",
            {"de_csv": 'text,label\n"a\nb",1\nc,9\n'},
            r"de\.csv, line 4, label: expected one of negative, positive, got '9'",
        ),
        (
            "ner",
            {"de_jsonl": lines([{"tokens": ["a"], "labels": ["O", "O"]}])},
            r"line 1, labels: expected a label for each of 1 tokens, got 2 labels",
        ),
        (
            "ner",
            {"de_jsonl": lines([{"tokens": ["a"], "labels": ["B-MISC"]}])},
            r"line 1, labels: expected one of O, B-PER, .*got 'B-MISC'",
        ),
        (
            "ner",
            {"de_jsonl": lines([{"tokens": ["a", ""], "labels": ["O", "O"]}])},
            r"line 1, tokens: .*got ''",
        ),
        (
            "ner",
            {"de_jsonl": lines([{"tokens": [], "labels": []}])},
            r"line 1, tokens: expected a list that is not empty",
        ),
        ("upos", {"de_conllu": FRENCH.replace("oui\tINTJ", "oui INTJ")}, r"line 15: expected CoNLL-U: ten fields"),
        ("upos", {"de_conllu": FRENCH.replace("\n5\t.", "\nx\t.")}, r"line 11: expected CoNLL-U"),
        ("upos", {"de_conllu": FRENCH.replace("INTJ", "_")}, r"line 13, labels: expected one of ADJ.*got '_'"),
        ("mlm", {"de_conllu": FRENCH.replace("# text = Oui\n", "")}, r"text: expected a text.*got None"),
        (
            "nli",
            {"fr_jsonl": lines(PAIRS)},
            r"languages: expected languages of .*fr\.jsonl, got 'de'; .*de/train\.jsonl",
        ),
        ("nli", {"x_jsonl": lines([p | {"lang": "fr"} for p in PAIRS])}, r"which has fr, got 'de'"),
        ("nli", {"README_md": "x"}, r"path: expected files that end in \.jsonl"),
    ],
)
def test_bad_input_is_named_with_file_line_and_remedy(tmp_path, task, files, said):
    with pytest.raises(ValueError, match=said):
        load(write(tmp_path, **files), task)


def test_bytes_that_are_not_utf8_are_found(tmp_path):
    (tmp_path / "de.csv").write_bytes("text,label\ngut,1\nschön,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"de\.csv, line 3: expected UTF-8, got byte 0xf6"):
        load(tmp_path, "reviews")


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        local_files(tmp_path / "nowhere", ["de"])


def test_invalid_rows_can_be_left_out(tmp_path):
    bad = [PAIRS[0] | {"label": -1}, PAIRS[1] | {"premise": ""}]
    with pytest.warns(UserWarning, match=r"2 invalid rows are left out, the first: .*line 5, label: .*-1"):
        rows = load(write(tmp_path, de_jsonl=lines(PAIRS + bad)), drop_invalid=True)
    assert len(rows) == 4
