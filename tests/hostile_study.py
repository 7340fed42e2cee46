"""Hostile studies: files that are no YAML, names that are unknown, values that do not fit, labels that vanish."""

import os
import re
import sys
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import yaml
from hostile import Error, Row

from xsub_utils._internal import notebook_setup
from xsub_utils._internal.notebook_parameters import checked
from xsub_utils._internal.notebooks import _read_parameters
from xsub_utils.study import drawing, study
from xsub_utils.study.config import check_notebooks, read_config
from xsub_utils.study.csv_tables import as_csv, parse_table, read_table
from xsub_utils.study.fonts import add_fallbacks

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "workflow"))
from source import parameter_defaults  # noqa: E402

NUMBERS = ["01_finetune", "02_prune", "03_similarity", "04_stitching", "05_tracin", "06_sft", "07_tickets"]
OVER = {
    "00_minibabel": [],
    **{name: ["tasks"] for name in NUMBERS},
    "04_stitching": ["end_tasks"],
    "07_tickets": ["target_tasks"],
}
PLAIN = {"source": "minibabel", "tasks": ["nli"], "languages": ["qaa", "qba"], "seeds": [0]}
SMALL = "notebooks: [01_finetune]\nparameters:\n  source: minibabel\n  tasks: [nli]\n  seeds: [0]\n  languages: "


def written(text):
    """A study of this text is read; gives its parameters."""

    def call(folder):
        file = folder / "tiny.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_config(str(file))["parameters"]

    return call


def planned(notebook, *, data=(), **parameters):
    """A study of one notebook is planned, with empty files of data of these names, if any."""

    def call(folder):
        values = PLAIN | {"end_tasks": ["nli"], "target_tasks": ["nli"]} | parameters
        defaults = parameter_defaults(ROOT / "notebooks" / f"{notebook}.ipynb")
        content = {"notebooks": [notebook], "parameters": {k: v for k, v in values.items() if k in defaults}}
        file = folder / "tiny.yaml"
        file.write_text(yaml.safe_dump(content))
        for name in data:
            (folder / "data").mkdir(exist_ok=True)
            (folder / "data" / name).touch()
        config = read_config(str(file), {"data": str(folder / "data")} if data else {})
        check_notebooks(config, OVER, {notebook: defaults})

    return call


def told(name, value, declared):
    """A notebook is told the value of a parameter."""
    return lambda _: checked(name, value, declared)


def assigned(*assignments):
    """What `--set` makes of assignments."""
    return lambda _: _read_parameters(None, assignments)


def names_after_a_csv(names):
    """A column of languages, written and read, beside numbers of which one is missing."""

    def call(folder):
        file = folder / "table.csv"
        file.write_text(as_csv(pd.DataFrame({"language": names, "score": [0.5, None]})))
        table = read_table(file)
        return table["language"].tolist(), table["score"].isna().tolist()

    return call


def legend_of(*languages):
    """Names in the legend of a figure of these languages."""

    def call(_):
        import matplotlib.pyplot as plt

        rows = [("nli", 0, language, epoch, 0.5) for language in languages for epoch in (1, 2)]
        table = pd.DataFrame(rows, columns=["task", "seed", "language", "epoch", "score"])
        figure = drawing.draw("01_learning", table)
        plt.close(figure)
        return [text.get_text().strip(drawing.ZERO_WIDTH).replace("\\$", "$") for text in figure.legends[0].texts]

    return call


def with_environment(name, value, call):
    def changed(_):
        with patch.dict(os.environ, {name: value}):
            return call()

    return changed


def local(*languages, data, **values):
    return planned("01_finetune", data=data, source="local", languages=list(languages), **values)


def line(number, *rest):
    return Error(rf"tiny\.yaml, line {number}: expected {'.*'.join(map(re.escape, rest))}")


YAML = [
    Row("a key twice", written("notebooks: [01_finetune]\nnotebooks: [02_prune]"), line(2, "each key once", "twice")),
    Row("a nested key twice", written("a:\n  b: 1\n  b: 2"), line(3, "each key once", "'b' twice")),
    Row("an empty file", written(""), line(1, "a mapping with notebooks and parameters, got nothing")),
    Row("comments alone", written("# nothing\n"), line(1, "a mapping", "got nothing")),
    Row("a list", written("- 01_finetune"), line(1, "a mapping", "got a list")),
    Row("a text", written("minibabel"), line(1, "a mapping", "got a text")),
    Row("a tab", written("notebooks:\n\t- 01_finetune"), line(2, "spaces, got a tab")),
    Row("a tag", written("a: 1\nb: !!python/object:os.system {}"), line(2, "plain values, got the tag")),
    Row("a tag of one's own", written("a: !seeds 3"), line(1, "plain values, got the tag '!seeds'")),
    Row("an open bracket", written("notebooks: [01_finetune"), line(1, "',' or ']'")),
    Row("an open quote", written("notebooks: 'x"), line(1, "YAML, got text that is none")),
    Row("two colons", written("a: 1\nb: c: d"), line(2, "YAML, got text that is none (mapping values")),
    Row("two documents", written("a: 1\n---\nb: 2"), line(2, "a single document in the stream, got another document")),
    Row("an unknown alias", written("a: *seeds"), line(1, "YAML", "seeds")),
    Row("a number as a key", written("1: 2"), line(1, "each key once, as text, got the key 1")),
    Row(
        "bytes that are no UTF-8",
        written("a: é".encode("latin-1")),
        Error("tiny.yaml: expected text in UTF-8, got byte"),
    ),
    Row("a control character", written("a: \x07"), Error("tiny.yaml: expected YAML, got text that is none")),
    Row("a byte order mark", lambda d: written("\ufeff" + SMALL + "[qaa]")(d)["languages"], ["qaa"]),
    Row("Norwegian", lambda d: written(SMALL + "[no, on, y, nan]")(d)["languages"], ["no", "on", "y", "nan"]),
    Row("a boolean of YAML 1.1", lambda d: written(SMALL + "[qaa]\n  claims: no")(d)["claims"], False),
    Row("a rate without a point", lambda d: written(SMALL + "[qaa]\n  map_lr: 2e-5")(d)["map_lr"], 2e-5),
    Row(
        "a nan among numbers",
        written(SMALL + "[qaa]\n  map_lr: .nan"),
        Error(r"map_lr: expected a finite number, got nan"),
    ),
    Row("languages that are a text", written(SMALL + "qaa"), Error(r"languages: expected a list, got 'qaa'")),
    Row("no languages", written(SMALL + "[]"), Error(r"languages: expected at least 1 items, got \[\]")),
    Row("a language twice", written(SMALL + "[qaa, qaa]"), Error(r"languages: expected .*unique")),
    Row(
        "a difficulty without end",
        written(SMALL + "[qaa]\n  difficulty: 24"),
        Error("difficulty: expected .* 21, got 24"),
    ),
    Row("a seed with a half", written(SMALL + "[qaa]\n  pool: 1.5"), Error("pool: expected a whole number, got 1.5")),
]
PLANS = [
    Row("all fits", planned("01_finetune"), None),
    Row(
        "an unknown language",
        planned("01_finetune", languages=["qaa", "qaq"]),
        Error("01_finetune, languages: .*'qaq'"),
    ),
    Row("an unknown task", planned("01_finetune", tasks=["nil"]), Error("01_finetune, tasks: .*did you mean 'nli'")),
    Row(
        "a task that MiniBabel lacks", planned("01_finetune", tasks=["upos"]), Error("tasks: expected one of .*'upos'")
    ),
    Row("an unknown preset", planned("01_finetune", preset="minibable"), Error("preset: .*did you mean 'minibabel'")),
    Row("a preset of other tasks", planned("01_finetune", preset="B"), Error("preset: expected a study with settings")),
    Row("a misspelt encoder", planned("01_finetune", encoder="minibabel-bas"), Error("encoder: .*'minibabel-base'")),
    Row("a folder without a model", planned("01_finetune", encoder="./nowhere"), Error("encoder: expected a folder")),
    Row(
        "pre-training on the hub",
        planned("01_finetune", source="hub", encoder="pretrain", languages=["en"]),
        Error("encoder: expected a hub id or a folder"),
    ),
    Row(
        "a mask seed beyond the pool",
        planned("02_prune", mask_seeds=[0, 3], pool=3),
        Error("mask_seeds: .*raise pool to 4"),
    ),
    Row(
        "ends that are elsewhere",
        planned("04_stitching", ends=["qab"]),
        Error("ends: expected some of languages.*'qab'"),
    ),
    Row(
        "the ends of the notebook",
        planned("04_stitching", languages=["qaa"]),
        Error("ends: expected some of languages"),
    ),
    Row(
        "an end of another task", planned("04_stitching", end_tasks=["ner"]), Error("end_tasks: expected some of tasks")
    ),
    Row(
        "a map of more than there is",
        planned("04_stitching", map_size=64, train_size=32),
        Error("map_size: expected at most train_size, 32, got 64"),
    ),
    Row(
        "a higher top than examples",
        planned("05_tracin", top=500),
        Error("05_tracin, top: expected at most the 80 .*500"),
    ),
    Row(
        "attribution to more than there is",
        planned("05_tracin", train_size=32),
        Error("attributed_train_size: expected at most train_size, 32, got 40"),
    ),
    Row("targets where nothing is retrained", planned("05_tracin", targets=["qab"]), None),
    Row(
        "targets that are elsewhere",
        planned("05_tracin", targets=["qab"], retrained=["nli"]),
        Error("targets: expected some of languages"),
    ),
    Row("a pair of strangers", planned("06_sft", pairs=[["qaa", "qab"]]), Error("pairs: expected some of languages")),
    Row(
        "falling sparsities", planned("07_tickets", sparsities=[0.5, 0.2]), Error("sparsities: expected rising shares")
    ),
    Row(
        "a nan among sparsities",
        planned("07_tickets", sparsities=[0.2, float("nan")]),
        Error(r"sparsities\[1\]: .* finite"),
    ),
    Row(
        "elsewhere, but not found",
        planned("07_tickets", elsewhere=[0.6]),
        Error("elsewhere: expected some of sparsities"),
    ),
    Row("an empty folder of data", local("de", data=["notes.txt"]), Error("path: expected files that end in")),
    Row(
        "a language without a file", local("de", "sw", data=["de.jsonl"]), Error("languages: .* files of de, got 'sw'")
    ),
    Row("a language that a column may tell", local("de", "sw", data=["de.jsonl", "all.jsonl"]), None),
]
TOLD = [
    Row(
        "languages as a text",
        told("languages", "qaa", "list[str]"),
        Error(r"languages: expected a list of texts.*write \[qaa\]"),
    ),
    Row(
        "no tasks",
        told("tasks", [], "list[str]"),
        Error(r"tasks: expected a list of texts with at least one value, got \[\]"),
    ),
    Row("no zero-shot models", told("transfer_seeds", [], "list[int]"), []),
    Row(
        "a list of a list that is none",
        told("pairs", ["qaa"], "list[list[str]]"),
        Error("pairs: expected a list of lists of texts"),
    ),
    Row("a seed that is true", told("seeds", [True], "list[int]"), Error("seeds: expected a list of whole numbers")),
    Row("a share that is text", told("map_lr", "fast", "float"), Error("map_lr: expected a number, got 'fast'")),
    Row("a whole number as a share", told("map_lr", 1, "float"), 1),
    Row("a folder called 2024", told("data", 2024, "str"), Error("""data: expected text, got 2024; write '"2024"'""")),
    Row(
        "a doubtful boolean", told("claims", "perhaps", "bool"), Error("claims: expected true or false, got 'perhaps'")
    ),
    Row("no as a boolean", told("claims", "no", "bool"), False),
    Row("--set languages=[no]", assigned("languages=[no, da]"), {"languages": ["no", "da"]}),
    Row("--set with a rate", assigned("map_lr=2e-5", "data="), {"map_lr": 2e-5, "data": ""}),
    Row("--set with half a list", assigned("languages=[no"), Error("--set languages, line 1: expected")),
    Row("--set without a value", assigned("seed"), Error("--set: expected name=value, got 'seed'")),
    Row(
        "a study of languages that are a text",
        lambda _: study.Study("qaa"),
        Error("languages: expected a list of different"),
    ),
    Row("a study of no language", lambda _: study.Study([]), Error("languages: expected a list of different codes")),
    Row(
        "a table of no task",
        lambda _: study.collect(lambda study, task: None, study.Study(["qaa"]), []),
        Error(r"task: expected a list with at least one value, got \[\]"),
    ),
    Row(
        "threads in words",
        with_environment("XSUB_THREADS", "two", notebook_setup.setup),
        Error("XSUB_THREADS: expected a whole number of at least 1, got 'two'"),
    ),
]
SHOWN = [
    Row("Min Nan", names_after_a_csv(["nan", "NA"]), (["nan", "NA"], [False, True])),
    Row("Min Nan alone", names_after_a_csv(["nan", "nan"]), (["nan", "nan"], [False, True])),
    Row("languages that look like numbers", names_after_a_csv(["inf", "01"]), (["inf", "01"], [False, True])),
    Row("a language called null", names_after_a_csv(["null", ""]), (["null", ""], [False, True])),
    Row("a label called NA", lambda _: parse_table("token,x\nNA,1\nnan,nan\n")["token"].tolist(), ["NA", "nan"]),
    Row("names that begin with _", legend_of("_x", "__", "nan"), ["_x", "__", "nan"]),
    Row("names that are half a formula", legend_of("a$b", "$x^$"), ["a$b", "$x^$"]),
    Row(
        "an unknown font",
        with_environment("XSUB_FONT", "DejaVu San", lambda: add_fallbacks(["中"])),
        Error("XSUB_FONT: expected one of .*did you mean 'DejaVu Sans'"),
    ),
]
ROWS = [*YAML, *PLANS, *TOLD, *SHOWN]
