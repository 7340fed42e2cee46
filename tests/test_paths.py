import os
import subprocess
import sys
from pathlib import Path

import pytest

from xsub_utils._internal import paths

SCRIPT = """
import torch

import xsub_utils as xs
from xsub_utils._internal.store import get_or_build

task = xs.load_task("nli", ["qaa"], sizes={"train": 4, "importance": 4, "validation": 4, "test": 4})
model, tokenizer = xs.load_encoder("minibabel-base", "sequence", labels=task.labels)
splits = (task.examples(split, "qaa") for split in ("importance", "validation"))
importance, validation = (xs.make_batches(examples, tokenizer, task.kind) for examples in splits)
print(xs.find_subnetwork(model, importance, validation, metric=task.metric, sparsity=0.5).mask.shape)
get_or_build("number", {}, lambda folder: (folder / "one.txt").write_text("1"))
"""
OURS = f'[project]\nname = "{paths.PROJECT}"\n'


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, without XSUB_HOME."""
    monkeypatch.delenv("XSUB_HOME", raising=False)
    folder = tmp_path / "some" / "notebooks"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_home_is_the_users_cache_outside_a_checkout(here, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    assert paths.home() == here / "cache" / "xsub-utils"
    assert not list(here.iterdir()), "asking leaves no file"


def test_home_is_the_nearest_folder_of_the_project(here):
    (here.parents[1] / "pyproject.toml").write_text(OURS)
    assert paths.home() == here.parents[1]
    (here.parent / "pyproject.toml").write_text(OURS)
    assert paths.home() == here.parent


@pytest.mark.parametrize(
    "other", ['[project]\nname = "another"\n', "[tool.ruff]\n", "not = [toml", b"\xff\xfe".decode("latin-1")]
)
def test_home_passes_over_other_projects(here, other):
    (here / "pyproject.toml").write_text(other, encoding="latin-1")
    (here.parent / "pyproject.toml").write_text(OURS)
    assert paths.home() == here.parent


def test_this_repository_is_recognised(monkeypatch):
    root = Path(__file__).resolve().parents[1]
    monkeypatch.delenv("XSUB_HOME", raising=False)
    monkeypatch.chdir(root / "tests")
    assert paths.home() == root


def test_xsub_home_moves_everything(here, tmp_path, monkeypatch):
    (here / "pyproject.toml").write_text(OURS)
    monkeypatch.setenv("XSUB_HOME", str(tmp_path / "elsewhere"))
    assert paths.home() == tmp_path / "elsewhere"
    assert paths.artifacts() == tmp_path / "elsewhere" / "artifacts"
    assert paths.figures() == tmp_path / "elsewhere" / "figures" / "minibabel"


def test_xsub_home_is_absolute_and_counts_only_if_set(here, monkeypatch):
    monkeypatch.setenv("XSUB_HOME", "below")
    assert paths.home() == here / "below"
    monkeypatch.setenv("XSUB_HOME", "")
    (here / "pyproject.toml").write_text(OURS)
    assert paths.home() == here


def test_figures_are_created_per_study(here):
    (here / "pyproject.toml").write_text(OURS)
    assert paths.figures() == paths.figures(paths.DEFAULT_STUDY) == here / "figures" / "minibabel"
    assert paths.figures("ud") == here / "figures" / "ud"
    assert paths.figures("ud").is_dir()


@pytest.mark.parametrize("study", ["", ".", "..", "../ud", "a/b", "/ud"])
def test_figures_refuses_what_is_no_name(here, study):
    with pytest.raises(ValueError, match="study: expected a plain name"):
        paths.figures(study)


def test_a_script_outside_a_checkout_leaves_its_folder_empty(tmp_path):
    work, cache, script = tmp_path / "work", tmp_path / "cache", tmp_path / "script.py"
    work.mkdir()
    script.write_text(SCRIPT)
    kept = {name: value for name, value in os.environ.items() if name != "XSUB_HOME"}
    environment = kept | {"XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], cwd=work, env=environment, capture_output=True, text=True)
    assert done.stdout == "torch.Size([4, 12])\n", done.stderr
    assert not list(work.iterdir())
    assert len(list((cache / "xsub-utils").glob("artifacts/number/*/one.txt"))) == 1
