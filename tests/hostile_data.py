"""Hostile files, frames, descriptions of tasks, and examples for batches."""

import json
import warnings

import numpy as np
import pandas as pd
from hostile import Error, Row

import xsub_utils as xs
from xsub_utils.data.columns import RawRows, common_columns
from xsub_utils.data.hub import hub_rows
from xsub_utils.data.local import local_files, local_rows
from xsub_utils.data.schema import TASKS
from xsub_utils.models.tokenizers import train_tokenizer
from xsub_utils.study.csv_tables import read_table

NAN = float("nan")
TOPIC = xs.TaskSpec("topic", "sequence", ["travel", "sports"])
TAGS = xs.TaskSpec("tags", "token", ["N", "V"])
WITHHELD = "# sent_id = a\n1\t_\t_\tNOUN" + "\t_" * 6 + "\n2\t_\t_\tVERB" + "\t_" * 6 + "\n"


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(path, files):
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text, encoding="utf-8")
    return path


def read(files, task="topic", languages=("de",), **options):
    """A call that reads files: the rows as lists."""

    def call(path):
        spec = {"topic": TOPIC, "tags": TAGS}.get(task) or TASKS[task]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = local_rows(write(path, files), list(languages), options.get("columns"))
            rows = common_columns(raw, spec, **options)
        return rows[["id", "language", *spec.columns]].to_numpy().tolist()

    return call


def warning_of(call):
    """A call that gives the first words of the only warning of another."""

    def caught(path):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            call(path)
        return [str(warning.message).split(" ")[0] for warning in found]

    return caught


def ids(files, task="topic", languages=("de", "sw"), **options):
    call = read(files, task, languages, **options)
    return lambda path: [row[0] for row in call(path)]


def labels(files, task="reviews", languages=("de",), **options):
    call = read(files, task, languages, **options)
    return lambda path: [row[-1] for row in call(path)]


def names_read(files, *languages, link=None):
    """A call that lists the files to read and their languages."""

    def call(path):
        write(path, files)
        if link:
            (path / link[0]).symlink_to(path / link[1])
        root = path / "data" if (path / "data").exists() else path
        return [(file.name, file.language) for file in local_files(root, list(languages))]

    return call


def stars(*numbers):
    return "text,label\n" + "".join(f"t{i},{number}\n" for i, number in enumerate(numbers))


def topic(*names, label="travel", **more):
    return lines(*({"id": name, "text": f"{label} {name} {more}", "label": label} for name in names))


def frame(**columns):
    return pd.DataFrame({"language": "de", "text": ["a", "b"], "label": ["travel", "sports"]} | columns)


def framed(spec=TOPIC, table=None, **options):
    columns = {key: options.pop(key) for key in ("language", "text", "label", "id") if key in options}
    return lambda path: (
        xs.Task.from_frames(spec, {"train": frame(**columns) if table is None else table}, **options)
        .examples("train")["id"]
        .tolist()
    )


def spec(**change):
    return lambda path: xs.TaskSpec(**{"name": "mine", "kind": "sequence", "labels": ["a", "b"]} | change)


def load(**change):
    def call(path):
        arguments = {"spec": "nli", "languages": ["qaa"], "sizes": {"train": 2}} | change
        return xs.load_task(arguments.pop("spec"), arguments.pop("languages"), **arguments)

    return call


class Lazy:
    """A tokenizer that is trained when it is first used."""

    tokenizer = None


def tokenizer():
    Lazy.tokenizer = Lazy.tokenizer or train_tokenizer(["ani beku cadi dofe gilu"] * 9, vocab_size=60)
    return Lazy.tokenizer


def batches(kind="sequence", examples=None, **options):
    """A call of make_batches: the shapes of its inputs."""

    def call(path):
        columns = {key: options[key] for key in ("text", "label", "tokens", "labels", "text_pair") if key in options}
        plain = {"id": ["x", "y"], "text": ["ani", "beku"], "label": [0, 1]}
        words = {"tokens": [["ani"], ["beku"]], "labels": [[0], [1]]}
        rows = pd.DataFrame(plain | words | columns) if examples is None else examples
        others = {key: value for key, value in options.items() if key not in columns}
        made = xs.make_batches(rows, others.pop("tokenizer", None) or tokenizer(), kind, **others)
        return [tuple(batch["input_ids"].shape) for batch in made]

    return call


def printed(tokens, tags="0 1"):
    return read({"de.csv": f'id,tokens,labels\nx,"{tokens}",{tags}\n'}, "tags")


def no_tokenizer(path):
    return xs.make_batches(frame(label=[0, 1]), None, "sequence")


def hub_contraction(path):
    """The layout of Universal Dependencies on the hub, saved as Parquet."""
    import datasets

    tag = datasets.List(datasets.ClassLabel(names=["ADP", "_", "DET", "NOUN"]))
    word = datasets.List(datasets.Value("string"))
    features = datasets.Features({"tokens": word, "upos": tag, "head": word})
    columns = {"tokens": [["du", "de", "le", "pont"]], "upos": [[1, 0, 2, 3]], "head": [["None", "4", "4", "0"]]}
    datasets.Dataset.from_dict(columns, features).to_parquet(path / "fr.parquet")
    rows = common_columns(local_rows(path, ["fr"]), TASKS["upos"])
    return [(row["tokens"], [TASKS["upos"].labels[i] for i in row["labels"]]) for row in rows.to_dict("records")]


def table_of(text):
    def call(path):
        (path / "01_x.csv").write_text(text, encoding="utf-8")
        return read_table(path / "01_x.csv").map(str).to_numpy().tolist()

    return call


ONE = topic("1")
TWO = {"de.jsonl": topic("1", "2"), "sw.jsonl": topic("2", "3")}
OTHER = '{"id": 1, "text": "b", "label": "sports"}\n'
LABEL = "the number of a class, from 0"


def loading_script(path):
    (path / "script").mkdir()
    (path / "script" / "script.py").write_text("import datasets\n")
    spec = xs.TaskSpec("mood", kind="sequence", labels=["a", "b"])
    return xs.load_task(spec, ["de"], source="hub", dataset=str(path / "script"), sizes={"train": 1})


ROWS = [
    Row(
        "a data set that is a loading script",
        loading_script,
        Error(r"dataset: expected one of plain files, got .*script.*refs/convert/parquet"),
    ),
    # Files
    Row(
        "a copy of Jupyter's",
        names_read({"de.jsonl": ONE, ".ipynb_checkpoints/de-checkpoint.jsonl": ONE}, "de"),
        [("de.jsonl", "de")],
    ),
    Row(
        "a copy of an archive's", names_read({"de.jsonl": ONE, "__MACOSX/._de.jsonl": "x"}, "de"), [("de.jsonl", "de")]
    ),
    Row("a hidden file of an editor", names_read({"de.jsonl": ONE, ".de.jsonl": ONE}, "de"), [("de.jsonl", "de")]),
    Row(
        "nothing but a copy", names_read({".de.jsonl": ONE}, "de"), Error("path: expected files that end in .*got none")
    ),
    Row(
        "a folder that is a link",
        names_read({"far/a.jsonl": ONE, "data/sw.jsonl": ONE}, "de", "sw", link=("data/de", "far")),
        [("de/a.jsonl", "de"), ("sw.jsonl", "sw")],
    ),
    Row(
        "a link in a circle",
        names_read({"data/de/a.jsonl": ONE}, "de", link=("data/de/up", "data")),
        [("de/a.jsonl", "de")],
    ),
    Row(
        "a link to a file beside it",
        names_read({"data/de.jsonl": ONE}, "de", link=("data/x.de.jsonl", "data/de.jsonl")),
        [("de.jsonl", "de")],
    ),
    Row("a code with a script", names_read({"zho_Hans.jsonl": ONE}, "zh"), [("zho_Hans.jsonl", "zh")]),
    Row("a code with a region", names_read({"zh-CN/train.jsonl": ONE}, "zh_CN"), [("zh-CN/train.jsonl", "zh_CN")]),
    Row(
        "three letters for two",
        names_read({"deu.jsonl": ONE, "swh_Latn.jsonl": ONE}, "de", "sw"),
        [("deu.jsonl", "de"), ("swh_Latn.jsonl", "sw")],
    ),
    Row("two letters for three", names_read({"de.jsonl": ONE}, "deu"), [("de.jsonl", "deu")]),
    Row(
        "the longest code of a name",
        names_read({"zh-TW.jsonl": ONE, "zh.jsonl": ONE}, "zh", "zh-TW"),
        [("zh-TW.jsonl", "zh-TW"), ("zh.jsonl", "zh")],
    ),
    Row(
        "two scripts for one code",
        names_read({"zho_Hans.jsonl": ONE, "zho_Hant.jsonl": ONE}, "zh"),
        Error("languages: expected a code that tells zh_hans, zh_hant apart, got 'zh'"),
    ),
    Row(
        "a code within a word",
        read({"model.jsonl": ONE}),
        Error(r"languages: expected languages of .*, got 'de'; name a file"),
    ),
    Row(
        "a header with a column twice",
        read({"de.csv": "text,text,label\na,b,travel\n"}),
        Error(r"de.csv, line 1: expected different columns, got 'text' twice"),
    ),
    Row(
        "a key twice in JSON",
        read({"de.jsonl": '{"text": "a", "text": "b", "label": 0}\n'}),
        Error(r"line 1: expected different keys, got 'text' twice"),
    ),
    Row(
        "NaN in JSON",
        read({"de.jsonl": '{"text": NaN, "label": 0}\n'}),
        Error(r"line 1, text: expected a text that is not empty, got nan"),
    ),
    Row(
        "a language column without a language",
        read({"x.csv": "language,text,label\n,a,travel\n"}),
        Error("languages: expected languages of"),
    ),
    Row(
        "a table that is named nan",
        read({"nan.csv": "text,label\nNA,travel\n"}, languages=["nan"]),
        [["nan-0", "nan", "NA", 0]],
    ),
    # Ids
    Row("ids that two languages share", ids(TWO), ["de-1", "de-2", "sw-2", "sw-3"]),
    Row(
        "a warning of these",
        warning_of(lambda path: common_columns(local_rows(write(path, TWO), ["de", "sw"]), TOPIC)),
        ["id:"],
    ),
    Row("ids that are declared parallel", ids(TWO, parallel=True), ["1", "2", "2", "3"]),
    Row("ids that are declared different", ids({"de.jsonl": ONE}, languages=["de"], parallel=False), ["de-1"]),
    Row(
        "parallel ids declared as text",
        ids(TWO, parallel="yes"),
        Error("parallel: expected True, False or None, got 'yes'"),
    ),
    Row(
        "a column of parallel ids",
        ids({name: text.replace('"id"', '"parallel_id"') for name, text in TWO.items()}),
        ["1", "2", "2", "3"],
    ),
    Row(
        "row numbers that are declared parallel",
        ids({"de.csv": "text,label\na,0\n", "sw.csv": "text,label\nb,0\n"}, parallel=True),
        ["0", "0"],
    ),
    Row("frames that share ids", framed(language=["de", "sw"], id=[1, 1], parallel=False), ["de-1", "sw-1"]),
    Row("frames of parallel ids", framed(language=["de", "sw"], id=[1, 1], parallel=True), ["1", "1"]),
    Row(
        "an id twice",
        read({"de.jsonl": topic("1") + OTHER}),
        Error("line 2, id: expected different ids in language 'de', got '1' twice"),
    ),
    Row(
        "an id twice does not take it from others",
        ids({"de.jsonl": topic("1") + OTHER, "sw.jsonl": topic("1")}, drop_invalid=True, parallel=True),
        ["1", "1"],
    ),
    # Stars
    Row("stars from 0", labels({"de.csv": stars(0, 1, 2, 3, 4)}), [0, 0, 0, 1, 1]),
    Row("stars from 1", labels({"de.csv": stars(1, 2, 3, 4, 5)}, drop_invalid=True), [0, 0, 0, 1, 1]),
    Row(
        "stars of neither end",
        labels({"de.csv": stars(1, 2, 3, 4)}),
        Error(r"label: expected stars on one scale .*, got 1 2 3 4 in 'de'; say .*stars=\(0, 4\)"),
    ),
    Row("stars of neither end, declared", labels({"de.csv": stars(1, 2, 3, 4)}, stars=(1, 5)), [0, 0, 0, 1]),
    Row(
        "stars beside classes",
        labels({"de.csv": stars(0, 1, 2, 3, 4), "sw.csv": stars(0, 1)}, languages=("de", "sw")),
        Error("label: expected stars on one scale in all languages.*0 1 in 'sw'"),
    ),
    Row("stars of both scales", labels({"de.csv": stars(0, 5)}), Error("label: expected stars on one scale")),
    Row(
        "stars beside names",
        labels({"de.csv": stars(1, 5), "sw.csv": stars("negative", "positive")}, languages=("de", "sw")),
        [0, 1, 0, 1],
    ),
    Row(
        "stars of a task without",
        labels({"de.csv": stars(0, 1)}, "topic", stars=(0, 4)),
        Error("stars: expected None for task 'topic'"),
    ),
    Row(
        "stars on no scale",
        labels({"de.csv": stars(0, 1)}, stars=(0, 10)),
        Error(r"stars: expected \(0, 4\) or \(1, 5\).*got \(0, 10\)"),
    ),
    Row(
        "stars as a warning",
        warning_of(
            lambda path: common_columns(local_rows(write(path, {"de.csv": stars(1, 5)}), ["de"]), TASKS["reviews"])
        ),
        ["label:"],
    ),
    # Words and labels
    Row("a printed list", printed("['ani', 'beku']"), [["x", "de", ["ani", "beku"], [0, 1]]]),
    Row("a list as NumPy prints it", printed("['ani' 'beku']", "[0 1]"), [["x", "de", ["ani", "beku"], [0, 1]]]),
    Row("a list as JSON prints it", printed('[""ani"", ""beku""]', '"[0, 1]"'), [["x", "de", ["ani", "beku"], [0, 1]]]),
    Row("brackets that are words", printed("[ ]"), [["x", "de", ["[", "]"], [0, 1]]]),
    Row(
        "withheld words",
        read({"de.conllu": WITHHELD}, "upos"),
        Error("line 1, tokens: expected words, got nothing but '_'; where a licence"),
    ),
    Row(
        "withheld text",
        read({"de.csv": "text,label\n__ ___,0\n"}),
        Error("line 2, text: expected words, got nothing but '__ ___'"),
    ),
    Row("contractions of the hub", hub_contraction, [(["de", "le", "pont"], ["ADP", "DET", "NOUN"])]),
    Row(
        "a label called nan",
        read({"de.csv": "text,label\na,nan\n"}, "topic"),
        Error("line 2, label: expected one of travel, sports, got 'nan'"),
    ),
    Row(
        "a missing label where one is called nan",
        lambda path: common_columns(
            [RawRows(pd.DataFrame({"text": ["a"], "label": [NAN]}), "de", None, "here")],
            xs.TaskSpec("x", "sequence", ["nan", "b"]),
        ),
        Error("label: expected one of nan, b, got 'nan'"),
    ),
    Row(
        "a label between two", framed(label=[0.5, 1]), Error(r"row 0, label: expected one of travel, sports, got '0.5'")
    ),
    Row(
        "tables of a language called nan", table_of("language,score\nnan,.5\nNA,nan\n"), [["nan", "0.5"], ["NA", "nan"]]
    ),
    # Options
    Row(
        "a column that the task does not have",
        read({"de.jsonl": ONE}, columns={"labels": "gold"}),
        Error("columns: expected one of .*, got 'labels'; did you mean 'label'"),
    ),
    Row(
        "columns as a list", read({"de.jsonl": ONE}, columns=["text"]), Error("columns: expected a mapping of .*, got")
    ),
    Row(
        "a column named by a number",
        read({"de.jsonl": ONE}, columns={"text": 3}),
        Error(r"columns\['text'\]: expected the name of a column, got 3"),
    ),
    Row("a negative budget", read({"de.jsonl": ONE}, budget=-1), Error("budget: expected at least 1, got -1")),
    Row(
        "half a character",
        read({"de.jsonl": ONE}, max_characters=2.5),
        Error("max_characters: expected a whole number, got 2.5"),
    ),
    Row(
        "a configuration of other languages",
        lambda path: list(hub_rows(TASKS["upos"], ["fr"], config={"fra": "x"})),
        Error("config: expected a configuration for language 'fr'"),
    ),
    # Frames
    Row(
        "nan as text",
        framed(text=["a", NAN]),
        Error(r"frames\['train'\], row 1, text: expected a text that is not empty, got nan"),
    ),
    Row(
        "None as text",
        framed(text=["a", None]),
        Error(r"row 1, text: expected a text that is not empty, got (None|nan)"),
    ),
    Row(
        "nan as label", framed(label=["travel", NAN]), Error(r"row 1, label: expected one of travel, sports, got 'nan'")
    ),
    Row(
        "nan as language",
        framed(language=["de", NAN]),
        Error(r"row 1, language: expected a code such as 'de', got nan"),
    ),
    Row(
        "two columns of one name",
        framed(table=pd.DataFrame([["de", "a", "b", 0]], columns=["language", "text", "text", "label"])),
        Error(r"frames\['train'\]: expected one column 'text', got 2 of them"),
    ),
    Row(
        "sizes of frames as text",
        framed(sizes={"train": "1"}),
        Error(r"sizes\['train'\]: expected a whole number, got '1'"),
    ),
    Row(
        "a seed of frames that is no number",
        framed(sizes={"train": 1}, seed="0"),
        Error("seed: expected a whole number, got '0'"),
    ),
    # Descriptions of tasks
    Row("labels as one text", spec(labels="ab"), Error("labels: expected a list of names, got 'ab'")),
    Row("labels twice", spec(labels=["a", "a"]), Error("labels: expected different names, got 'a' twice")),
    Row(
        "a label that is None", spec(labels=["a", None]), Error("labels: expected texts or whole numbers, got None in")
    ),
    Row("a label that is nan", spec(labels=["a", NAN]), Error("labels: expected texts or whole numbers, got nan in")),
    Row(
        "a label that is a fraction",
        spec(labels=["a", 0.7]),
        Error("labels: expected texts or whole numbers, got 0.7 in"),
    ),
    Row(
        "a label that is True",
        spec(labels=[True, False]),
        Error("labels: expected texts or whole numbers, got True in"),
    ),
    Row("a pair as text", spec(pair="yes"), Error("pair: expected True or False, got 'yes'")),
    Row("a kind in a list", spec(kind=["a"]), Error(r"kind: expected one of sequence, .*, got \['a'\]")),
    # Arguments of load_task
    Row("negative sizes", load(sizes={"train": -1}), Error(r"sizes\['train'\]: expected at least 1, got -1")),
    Row("sizes between two", load(sizes={"train": 1.5}), Error(r"sizes\['train'\]: expected a whole number, got 1.5")),
    Row("sizes as text", load(sizes={"train": "10"}), Error(r"sizes\['train'\]: expected a whole number, got '10'")),
    Row("sizes as a number", load(sizes=10), Error("sizes: expected a mapping of splits to rows per language, got 10")),
    Row("a seed between two", load(seed=1.5), Error("seed: expected a whole number, got 1.5")),
    Row("a seed as text", load(seed="0"), Error("seed: expected a whole number, got '0'")),
    Row("too hard a text", load(difficulty=24), Error("difficulty: expected 0 to 21, got 24")),
    Row("too hard a task of opinions", load(spec="reviews", difficulty=10**9), Error("difficulty: expected 0 to 21")),
    Row("languages as a number", load(languages=5), Error("languages: expected a list of different codes")),
    Row(
        "a language that is None", load(languages=["qaa", None]), Error("languages: expected a list of different codes")
    ),
    Row("languages that are not Languages", load(known=["qaa"]), Error("known: expected a sequence of Language")),
    Row(
        "an empty path",
        load(source="local", path=""),
        Error("path: expected a file or folder for source 'local', got ''"),
    ),
    Row("a path that is a number", load(source="local", path=3), Error("path: expected a file or folder, got 3")),
    # Examples for batches
    Row(
        "text that is nan",
        batches(text=["ani", NAN]),
        Error("examples, row 1, text: expected a text that is not empty, got nan"),
    ),
    Row(
        "text that is a number",
        batches("text", text=["ani", 3]),
        Error("examples, row 1, text: expected a text that is not empty, got 3"),
    ),
    Row(
        "text that is blank",
        batches("mlm", text=["ani", " "]),
        Error("examples, row 1, text: expected a text that is not empty, got ' '"),
    ),
    Row(
        "text_pair that is None",
        batches(text_pair=["ani", None]),
        Error("examples, row 1, text_pair: expected a text that is not empty, got (None|nan)"),
    ),
    Row(
        "a label as text",
        batches(label=["0", "1"]),
        Error(f"examples, row 0, label: expected {LABEL}, got '0'; name classes by"),
    ),
    Row(
        "a label that is nan in a batch",
        batches(label=[0, NAN]),
        Error(f"examples, row 1, label: expected {LABEL}, got nan"),
    ),
    Row(
        "a label between two in a batch",
        batches(label=[0, 0.5]),
        Error(f"examples, row 1, label: expected {LABEL}, got 0.5"),
    ),
    Row("a negative label", batches(label=[0, -1]), Error(f"examples, row 1, label: expected {LABEL}, got -1")),
    Row(
        "a label that is True in a batch",
        batches(label=[True, False]),
        Error(f"examples, row 0, label: expected {LABEL}, got True"),
    ),
    Row("labels that a table made floats of", batches(label=[0.0, 1.0]), [(2, 3)]),
    Row(
        "words as text",
        batches("token", tokens=["ani", ["beku"]]),
        Error("examples, row 0, tokens: expected a list of words that is not empty, got 'ani'"),
    ),
    Row(
        "no words",
        batches("token", tokens=[["ani"], []]),
        Error("examples, row 1, tokens: expected a list of words that is not empty"),
    ),
    Row(
        "a word that is None",
        batches("token", tokens=[["ani"], [None]]),
        Error("examples, row 1, tokens: expected a text that is not empty, got (None|nan)"),
    ),
    Row(
        "tags as text",
        batches("token", labels=["0", [1]]),
        Error("examples, row 0, labels: expected a list of numbers of classes"),
    ),
    Row(
        "a tag of -100",
        batches("token", labels=[[0], [-100]]),
        Error(f"examples, row 1, labels: expected {LABEL}, got -100"),
    ),
    Row(
        "more tags than words",
        batches("token", labels=[[0], [1, 1]]),
        Error("examples: expected a label for each of 1 tokens in row 1, got 2 labels"),
    ),
    Row(
        "a dict instead of a frame",
        batches(examples={"text": ["ani"], "label": [0]}),
        Error("examples: expected a pandas.DataFrame, got a dict; wrap it"),
    ),
    Row(
        "a column twice in a batch",
        batches(examples=pd.DataFrame([["a", "b", 0]], columns=["text", "text", "label"])),
        Error("examples: expected a column 'text', .*got 2 of them"),
    ),
    Row("no tokenizer", no_tokenizer, Error("tokenizer: expected a tokenizer of transformers, got None")),
    Row(
        "a pair of model and tokenizer",
        batches(tokenizer=("model", "tokenizer")),
        Error("tokenizer: expected a tokenizer of transformers, got "),
    ),
    Row("batch_size as text", batches(batch_size="4"), Error("batch_size: expected a whole number, got '4'")),
    Row("batch_size between two", batches(batch_size=2.5), Error("batch_size: expected a whole number, got 2.5")),
    Row("batch_size 0", batches(batch_size=0), Error("batch_size: expected at least 1, got 0")),
    Row("batch_size of NumPy", batches(batch_size=np.int64(1)), [(1, 3), (1, 3)]),
    Row("max_length 1", batches(max_length=1), Error("max_length: expected at least 3, got 1; 2 are special tokens")),
    Row("max_length of a single sub-word", batches("text", text=["ani beku", "ani"], max_length=3), [(2, 3)]),
    Row(
        "max_length for half a pair",
        batches(text_pair=["ani", "ani"], max_length=5),
        Error("max_length: expected at least 6, got 5; 4 are special"),
    ),
    Row("max_length as text", batches(max_length="8"), Error("max_length: expected a whole number, got '8'")),
    Row(
        "nothing to mask",
        batches("mlm", text=["ani", "</s>"]),
        Error("examples: expected a token to mask in each, got '</s>' with id 'y'"),
    ),
    Row(
        "labels that are cut off",
        warning_of(batches("token", tokens=[["ani"] * 9, ["ani"]], labels=[[0] * 9, [0]], max_length=5)),
        ["max_length:"],
    ),
]
