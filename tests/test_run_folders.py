"""Folders of runs: locked, tied to their record, checked by size and digest, and as before where nothing came of it."""

import errno
import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
from filelock import FileLock
from test_finetune import Killed, after, content, finished, killed  # noqa: F401 (finished is a fixture)
from tiny import QUICK, make_task, text_row

from xsub_utils._internal import io as files
from xsub_utils._internal import store
from xsub_utils._internal.io import StoreError, write_text_atomic
from xsub_utils.training import claim, iterative_pruning, recorder, trainer
from xsub_utils.training.finetune import checkpoints, finetune, load_finetuned
from xsub_utils.training.iterative_pruning import find_tickets
from xsub_utils.training.rows import Rows

CHECKPOINT = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "sealed.json"]


@pytest.fixture
def interrupted(reviews, encoder, tmp_path, monkeypatch):
    """A run that was killed in its third epoch, and how to go on with it."""

    def go(**changes):
        options = {"seed": 3, "settings": QUICK, "progress": False} | changes
        return finetune(reviews, encoder, out=tmp_path / "run", **options)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Rows, "__getitems__", after(15, Rows.__getitems__, killed))
        go()
    return tmp_path / "run", go


def truncate(file):
    file.write_bytes(file.read_bytes()[:-20])


def flip(file):
    """Another content of the same size."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(bytes(data))


# Damage


@pytest.mark.parametrize("damage", [truncate, flip, os.unlink])
@pytest.mark.parametrize("name", CHECKPOINT)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(name, damage, interrupted, finished, monkeypatch):  # noqa: F811
    out, go = interrupted
    damage(out / "_resume/checkpoint-12" / name)
    starts, train = [], trainer.EpochTrainer.train
    monkeypatch.setattr(trainer.EpochTrainer, "train", lambda self, start: starts.append(start) or train(self, start))
    assert content(go()) == content(finished)
    assert starts == [str(out / "_resume/checkpoint-6")]


def test_where_all_checkpoints_are_damaged_the_run_begins_anew(interrupted, finished):  # noqa: F811
    out, go = interrupted
    for checkpoint in (6, 12):
        truncate(out / f"_resume/checkpoint-{checkpoint}/optimizer.pt")
    assert content(go()) == content(finished)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_damaged_epoch_is_trained_again(epoch, interrupted, finished):  # noqa: F811
    out, go = interrupted
    weights = out / f"epoch-{epoch}/model.safetensors"
    data = weights.read_bytes()
    weights.unlink()  # the checkpoint is the same file
    weights.write_bytes(data[:-20])
    assert content(go()) == content(finished)


def test_a_complete_run_is_damaged_or_lacks_early_epochs(finished, reviews, encoder, tmp_path):  # noqa: F811
    out = shutil.copytree(finished, tmp_path / "run")
    options = {"seed": 3, "out": out, "settings": QUICK, "progress": False}
    shutil.rmtree(out / "epoch-1")
    assert finetune(reviews, encoder, **options) == out
    truncate(out / "scores.csv")
    with pytest.raises(ValueError, match=r"out: expected a run as it was written, .* scores\.csv has"):
        finetune(reviews, encoder, **options)
    shutil.copyfile(finished / "scores.csv", out / "scores.csv")
    flip(out / "epoch-2/config.json")
    with pytest.raises(ValueError, match=r"epoch-2/config\.json was changed; put that file back, or delete"):
        finetune(reviews, encoder, **options)
    load_finetuned(out, 3)  # is whole
    with pytest.raises(ValueError, match=r"folder: .*epoch-2/config\.json was changed"):
        load_finetuned(out, 2)
    shutil.rmtree(out / "epoch-3")
    with pytest.raises(ValueError, match=r"epoch-\d/\w+\.json (is missing|was changed)"):
        finetune(reviews, encoder, **options)


# Whose folder it is


def test_what_is_left_of_another_run_is_not_gone_on_from(interrupted, reviews, encoder, finished):  # noqa: F811
    out, go = interrupted
    with pytest.raises(ValueError, match=r"holds another run, with \{'seed': 3\} instead of \{'seed': 4\}"):
        go(seed=4)
    for path in out.glob("epoch-*"):
        shutil.rmtree(path)
    for name in ("log.csv", "scores.csv", "_resume/published.json"):
        (out / name).unlink()
    go(seed=4)  # nothing of the other run is complete
    fresh = finetune(reviews, encoder, seed=4, out=out.parent / "fresh", settings=QUICK, progress=False)
    assert content(out) == content(fresh) != content(finished)


@pytest.mark.parametrize("name", ["epoch-3", "epoch-7"])
def test_an_unfinished_run_leaves_alone_what_it_has_not_written(name, interrupted):
    out, go = interrupted
    (out / name).mkdir()
    (out / name / "mine").write_text("mine")
    with pytest.raises(ValueError, match=f"out: .*which holds {name} of something else; choose a new folder"):
        go()
    assert (out / name / "mine").read_text() == "mine"


def test_a_kill_before_the_first_checkpoint_blocks_nothing(encoder, tmp_path):
    task, out = make_task("mlm", text_row), tmp_path / "run"
    options = {"out": out, "settings": replace(QUICK, epochs=1), "progress": False}
    child = os.fork()
    if child == 0:
        Rows.__getitems__ = after(2, Rows.__getitems__, lambda: os.kill(os.getpid(), signal.SIGKILL))
        finetune(task, encoder, seed=0, **options)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert json.loads((out / "finetuning.json").read_text())["seed"] == 0
    finetune(task, encoder, seed=1, **options)
    assert json.loads((out / "finetuning.json").read_text())["seed"] == 1
    assert {path.name for path in out.iterdir()} == {"epoch-1", "finetuning.json", "log.csv", "scores.csv"}


@pytest.mark.parametrize("existed", [True, False])
def test_a_call_that_fails_leaves_the_folder_as_it_was(existed, reviews, encoder, tmp_path, monkeypatch):
    out = tmp_path / "new/run"
    if existed:
        out.mkdir(parents=True)
        (out / ".hidden").touch()
    monkeypatch.setattr(Rows, "__getitems__", after(1, Rows.__getitems__, killed))
    with pytest.raises(Killed):
        finetune(reviews, encoder, seed=0, out=out, settings=QUICK, progress=False)
    assert [path.name for path in out.iterdir()] == [".hidden"] if existed else not out.exists()


# One process at a time


def test_a_folder_in_which_another_process_trains_is_refused(encoder, tmp_path, reviews):
    out, settings = tmp_path / "run", replace(QUICK, epochs=1)
    out.mkdir()
    with FileLock(out / claim.LOCK):
        with pytest.raises(ValueError, match=r"out: expected a folder in which nobody writes, .* another process"):
            finetune(reviews, encoder, seed=0, out=out, settings=settings, progress=False)
        assert [path.name for path in out.iterdir()] == [claim.LOCK]
    finetune(reviews, encoder, seed=0, out=out, settings=settings, progress=False)  # the lock of a dead process
    assert not (out / claim.LOCK).exists()


def test_what_another_process_completed_meanwhile_is_left_as_it_is(finished, reviews, encoder, tmp_path, monkeypatch):  # noqa: F811
    prepare = Rows.__init__

    def overtaken(self, *arguments):
        shutil.copytree(finished, tmp_path / "run")
        prepare(self, *arguments)

    monkeypatch.setattr(Rows, "__init__", overtaken)
    monkeypatch.setattr(trainer, "train", killed)
    finetune(reviews, encoder, seed=3, out=tmp_path / "run", settings=QUICK, progress=False)
    assert content(tmp_path / "run") == content(finished)


# The disk


@pytest.mark.parametrize("step", ["save_model", "publish"])
def test_a_full_disk_gives_the_clear_error_and_the_run_goes_on(step, reviews, encoder, finished, tmp_path, monkeypatch):  # noqa: F811
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner = trainer.EpochTrainer if step == "save_model" else recorder.Recorder
    with (
        monkeypatch.context() as patch,
        pytest.raises(StoreError, match=r"cannot write .*run: the disk is full"),
    ):
        patch.setattr(owner, step, full)
        finetune(reviews, encoder, seed=3, out=tmp_path / "run", settings=QUICK, progress=False)
    assert not list(tmp_path.iterdir())
    assert content(finetune(reviews, encoder, seed=3, out=tmp_path / "run", settings=QUICK, progress=False)) == content(
        finished
    )


def test_complete_tickets_are_read_from_a_disk_that_cannot_be_written(reviews, encoder, tmp_path, monkeypatch):
    options = {"sparsities": 0.5, "settings": replace(QUICK, epochs=1), "progress": False}
    first = find_tickets(reviews, encoder, seed=0, out=tmp_path, **options)
    before = content(tmp_path)
    for owner, name in ((iterative_pruning, "save_masks"), (files, "sync"), (claim, "FileLock")):
        monkeypatch.setattr(owner, name, killed)
    again = find_tickets(reviews, encoder, seed=0, out=tmp_path, **options)
    assert all(mask.equal(first[1].mask[name]) for name, mask in again[1].mask.items())
    assert content(tmp_path) == before


def test_a_mask_of_tickets_that_is_damaged_is_written_again(reviews, encoder, tmp_path):
    options = {"sparsities": 0.5, "settings": replace(QUICK, epochs=1), "progress": False}
    find_tickets(reviews, encoder, seed=0, out=tmp_path, **options)
    before = content(tmp_path)
    truncate(tmp_path / "sparsity-50.npz")
    find_tickets(reviews, encoder, seed=0, out=tmp_path, **options)
    assert content(tmp_path) == before


def test_a_run_that_was_killed_while_it_cleared_up_is_cleared_up(finished, reviews, encoder, tmp_path):  # noqa: F811
    out = shutil.copytree(finished, tmp_path / "run")
    (out / "_resume/checkpoint-18").mkdir(parents=True)
    finetune(reviews, encoder, seed=3, out=out, settings=QUICK, progress=False)
    assert content(out) == content(finished) and not (out / "_resume").exists()


def test_stray_temporary_files_are_swept_but_those_in_use_stay(tmp_path):
    stray, mine = tmp_path / ".table.csv.0123abcd.tmp", tmp_path / ".notes.tmp"
    stray.touch()
    mine.touch()
    with files.replacing(tmp_path / "other") as used:
        used.write_text("other")
        assert not stray.exists()
        files.sweep(tmp_path)
        assert used.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.tmp", "other"]


def test_stray_temporary_files_do_not_enter_an_artifact(tmp_path, monkeypatch):
    monkeypatch.setenv("XSUB_HOME", str(tmp_path))

    def build(folder):
        (folder / "part").mkdir()
        (folder / "part/.x.0123abcd.tmp").touch()
        write_text_atomic(folder / "part/x", "x")

    folder = store.get_or_build("kind", {}, build)
    assert [path.name for path in folder.rglob("*") if path.is_file()].count("x") == 1
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("place", ["file", "link"])
def test_an_artifact_that_is_no_folder_is_named(place, tmp_path, monkeypatch):
    monkeypatch.setenv("XSUB_HOME", str(tmp_path))

    def build(folder):
        write_text_atomic(folder / "x", "x")

    folder = store.get_or_build("kind", {}, build)
    shutil.rmtree(folder)
    folder.write_text("mine") if place == "file" else folder.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=rf"artifact: expected a folder, got the (dangling )?{place} .*; move it away"):
        store.get_or_build("kind", {}, build)
    assert os.path.lexists(folder) and not folder.is_dir()


def test_epochs_of_a_run_are_known_by_their_record(finished):  # noqa: F811
    record = json.loads((finished / "finetuning.json").read_text())
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert record["files"].keys() == names - {"finetuning.json"}
    assert len(checkpoints(finished)) == record["epochs"] == 3
