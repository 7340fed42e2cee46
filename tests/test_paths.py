from pathlib import Path

import pytest

from xsub_utils._internal import paths

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
