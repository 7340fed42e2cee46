"""The notebooks on other than invented data: a tiny XLM-R on files like the hub's, and the treebanks of UD PUD."""

import os
from pathlib import Path

import nbformat
import pytest
import yaml

from xsub_utils._internal.notebooks import execute
from xsub_utils.data.minibabel import examples as minibabel
from xsub_utils.models.pretraining import pretrain_encoder
from xsub_utils.study import drawing
from xsub_utils.study.study import Study

ROOT = Path(__file__).parents[1]
PUD = Path(os.environ.get("XSUB_UD", ROOT.parent / "shared" / "data" / "ud-pud"))
TRANSLATED = {"en": "qaa", "de": "qab"}  # the words are invented, the columns are those of the hub
ON_TREEBANKS = ("upos", "mlm", "parallel")
PARTS = {"train": range(100), "validation": range(100, 200), "test": range(200, 300)}
TINY = {"train_size": 16, "importance_size": 8, "validation_size": 12, "test_size": 16, "pool": 2, "epochs": 1}


def like_xnli(table):
    return table.rename(columns={"text": "premise", "text_pair": "hypothesis"})[["premise", "hypothesis", "label"]]


def like_pawsx(table):
    names = {"text": "sentence1", "text_pair": "sentence2"}
    return table.rename(columns=names)[["sentence1", "sentence2", "label"]].reset_index(names="id")


def like_marc(table):
    stars = table["label"].map({0: 1, 1: 4})
    return table[["id", "text"]].assign(label=stars, label_text=stars.astype(str))


def like_wikiann(table):
    table = table.rename(columns={"labels": "ner_tags"})[["tokens", "ner_tags"]]
    return table.assign(langs=table["tokens"].map(lambda words: ["en"] * len(words)), spans=[[]] * len(table))


def like_xnli_premises(table):
    return table[["id", "text"]]


LAYOUTS = {"nli": like_xnli, "paraphrase": like_pawsx, "reviews": like_marc, "ner": like_wikiann}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XSUB_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path


def run(notebook, out, parameters):
    """Tables and pictures in the executed notebook."""
    execute(ROOT / "notebooks" / notebook, out, parameters)
    cells = nbformat.read(out, as_version=4).cells
    return [kind for cell in cells for output in cell.get("outputs", []) for kind in output.get("data", {})]


@pytest.mark.slow
def test_paper_scale_layout_on_a_tiny_xlmr(home):
    """What `study/configs/xlmr.yaml` runs, with other sizes: the hub's columns, all four tasks, preset A."""
    for task, layout in (LAYOUTS | {"parallel": like_xnli_premises}).items():
        for code, language in TRANSLATED.items():
            (home / "hub" / task / code).mkdir(parents=True)
            for part, ids in PARTS.items():
                layout(minibabel.examples(task, language, ids)).to_parquet(
                    home / "hub" / task / code / f"{part}.parquet"
                )
    texts = minibabel.examples("mlm", "qaa", range(50))["text"]
    encoder = pretrain_encoder(texts, home / "tiny-xlm-r", layers=2, heads=4, width=16, vocab_size=200, steps=1)
    study = yaml.safe_load((ROOT / "xsub_utils" / "study" / "configs" / "xlmr.yaml").read_text())["parameters"]
    assert set(study["tasks"]) == set(LAYOUTS)
    study |= {"source": "local", "data": str(home / "hub"), "encoder": str(encoder), "languages": list(TRANSLATED)}
    study |= TINY | {"mask_seeds": [0, 1]}
    searches = study.pop("mask_seeds")
    assert run("01_finetune.ipynb", home / "01.ipynb", study).count("image/png") == 2
    del study["transfer_seeds"]
    study |= {"mask_seeds": searches}
    assert run("02_prune.ipynb", home / "02.ipynb", study).count("image/png") == 7
    stitched = {"end_tasks": ["ner"], "ends": ["de"], "levels": [1, 2], "map_size": 8, "map_epochs": 1}
    assert run("04_stitching.ipynb", home / "04.ipynb", study | stitched).count("image/png") == 7


@pytest.mark.slow
@pytest.mark.skipif(not PUD.is_dir(), reason=f"UD PUD is not at {PUD}; set XSUB_UD to its folder")
def test_subnetworks_on_real_text(home, monkeypatch):
    """What `study/configs/ud.yaml` runs, with two languages and an encoder that has hardly been pre-trained."""
    study = {"source": "local", "data": str(PUD), "languages": ["en", "fr"], "claims": False} | TINY
    texts = [f"{a} {b}" for a, b in zip("abcdefgh", "bcdefgha", strict=True)]
    encoder = pretrain_encoder(texts, home / "tiny", layers=2, heads=4, width=16, vocab_size=200, steps=1)
    study |= {"encoder": str(encoder), "mask_seeds": [0], "tasks": ["upos", "mlm"]}
    run("02_prune.ipynb", home / "02.ipynb", study | {"tasks": ["upos"], "figures": drawing.UNDRAWN})
    assert run("03_similarity.ipynb", home / "03.ipynb", study).count("image/png") >= 12


@pytest.mark.skipif(not PUD.is_dir(), reason=f"UD PUD is not at {PUD}; set XSUB_UD to its folder")
def test_tasks_on_one_treebank_are_split_alike(home):
    """The encoder of study `ud` learns from the training texts of mlm; no held-out sentence may be among them."""
    values = yaml.safe_load((ROOT / "xsub_utils" / "study" / "configs" / "ud.yaml").read_text())["parameters"]
    sizes = {name: values[name] for name in ("train_size", "importance_size", "validation_size", "test_size", "pool")}
    study = Study(values["languages"][1::3], source="local", data=str(PUD), **sizes)
    splits = [{name: set(rows["id"]) for name, rows in study.task(task).splits.items()} for task in ON_TREEBANKS]
    assert splits[0] == splits[1] == splits[2]
