import errno
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from xsub_utils._internal import io as files
from xsub_utils._internal import store, whole
from xsub_utils._internal.store import StoreError, describe, get_or_build, verify

SCRIPTS = Path(__file__).parent / "scripts"
KEY = {"task": "nli", "seed": 0, "sizes": [1, 2]}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home for the store."""
    monkeypatch.setenv("XSUB_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def built():
    """Every folder that `fill` was given."""
    return []


@pytest.fixture
def ask(home, built):
    """`ask(**changes)` asks for an artifact of two files."""

    def fill(folder):
        built.append(folder)
        (folder / "sub").mkdir()
        (folder / "text.txt").write_text("alpha")
        (folder / "sub" / "numbers.bin").write_bytes(bytes(1000))

    def ask(kind="model", **changes):
        return get_or_build(kind, KEY | changes, fill)

    return ask


def content(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.name in ("text.txt", "numbers.bin")}


WHOLE = {"text.txt": b"alpha", "numbers.bin": bytes(1000)}


def stored(home):
    """Everything in the store but its locks."""
    return sorted(path.name for path in home.glob("artifacts/*/*") if path.suffix != ".lock")


# Looking up and building


def test_builds_once_and_then_finds_it(ask, built, home, capsys):
    folder = ask()
    assert folder == ask() == ask(sizes=(1, 2))
    assert folder.parent == home / "artifacts" / "model"
    assert len(built) == 1
    assert content(folder) == WHOLE
    assert stored(home) == [folder.name]
    assert capsys.readouterr() == ("", "")


def test_every_parameter_and_the_kind_make_another_artifact(ask, built):
    folders = [ask(), ask(seed=1), ask(sizes=[1]), ask(extra=None), ask(kind="mask")]
    assert len(set(folders)) == len(built) == 5


def test_builds_into_another_folder_than_the_final_one(ask, built):
    assert built != [ask()]
    assert not built[0].exists()


def test_artifacts_may_need_artifacts(ask, built, home):
    def fill(folder):
        (folder / "copy").write_bytes((ask() / "text.txt").read_bytes())

    folder = get_or_build("model", {"upstream": "text"}, fill)
    assert (folder / "copy").read_text() == "alpha"
    assert stored(home) == sorted([folder.name, ask().name])


def test_manifest_tells_where_it_comes_from(ask, home):
    manifest = describe(ask())
    assert manifest["kind"] == "model"
    assert manifest["key"] == KEY
    assert manifest["digest"] == ask().name
    assert list(manifest["code"]) == [__name__]
    assert manifest["files"]["sub/numbers.bin"] == {
        "size": 1000,
        "sha256": "541b3e9daa09b20bf85fa273e5cbd3e80185aa4ec298e765db87742b70138a53",
    }
    assert manifest["versions"].keys() >= {"python", "torch", "transformers", "numpy"}
    assert manifest["hardware"].keys() == {"cpu", "threads", "gpu"}
    assert manifest["hardware"]["threads"] == torch.get_num_threads()
    assert manifest["seconds"] >= 0
    assert "commit" in manifest


def test_xsub_home_moves_the_store(ask, built, tmp_path, monkeypatch):
    first = ask()
    monkeypatch.setenv("XSUB_HOME", str(tmp_path / "other"))
    second = ask()
    assert second == tmp_path / "other" / "artifacts" / "model" / first.name
    assert len(built) == 2


def test_a_moved_store_is_still_whole(ask, built, home, tmp_path, monkeypatch):
    ask()
    shutil.move(home, tmp_path / "moved")
    monkeypatch.setenv("XSUB_HOME", str(tmp_path / "moved"))
    ask()
    assert len(built) == 1


def test_a_hit_writes_nothing_and_hashes_once(ask, monkeypatch):
    folder = ask()
    ask()

    def refuse(*arguments):
        raise AssertionError("a hit needs no lock and no second hash")

    monkeypatch.setattr(store, "FileLock", refuse)
    monkeypatch.setattr(whole, "sha256", refuse)
    assert ask() == folder


@pytest.mark.parametrize("kind", ["", "a/b", "..", ".hidden", "a b"])
def test_kind_must_be_a_name(kind, home):
    with pytest.raises(ValueError, match="kind: expected a plain folder name"):
        get_or_build(kind, {}, print)


@pytest.mark.parametrize("value", [float("nan"), Path("x"), {1: 2}, {1}, torch.ones(1)])
def test_key_must_be_plain_and_the_entry_is_named(ask, built, value):
    with pytest.raises(TypeError, match=r"key\['odd'\]"):
        ask(odd=value)
    assert not built


# Code


STAGE = '''"""A stage."""
from xsub_utils._internal.store import get_or_build

def fill(folder):
    """Writes one file."""
    (folder / "text.txt").write_text("alpha")

def ask():
    return get_or_build("stage", {}, fill)
'''


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """`stage(source)` is a freshly loaded module of that source."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(source):
        (tmp_path / "user_stage.py").write_text(source)
        sys.modules.pop("user_stage", None)
        return importlib.import_module("user_stage")

    yield load
    sys.modules.pop("user_stage", None)


def test_changed_code_makes_another_artifact_and_changed_prose_does_not(home, stage):
    folder = stage(STAGE).ask()
    assert stage(STAGE.replace("Writes one file.", "Leaves one file.") + "# the end\n").ask() == folder
    changed = stage(STAGE.replace('"alpha"', '"beta"')).ask()
    assert changed != folder
    assert (folder / "text.txt").read_text() == "alpha"
    assert (changed / "text.txt").read_text() == "beta"


def test_code_of_further_modules_counts(home, stage, built):
    def fill(folder):
        (folder / "text.txt").write_text("alpha")

    folder = get_or_build("model", KEY, fill, code=[stage(STAGE)])
    assert get_or_build("model", KEY, fill, code=[stage(STAGE.replace("A stage", "Prose"))]) == folder
    assert get_or_build("model", KEY, fill, code=[stage(STAGE.replace("alpha", "beta"))]) != folder
    assert get_or_build("model", KEY, fill) != folder


# Damage


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path):
    """Changes a byte and sets the old time stamp again."""
    stat = path.stat()
    path.write_bytes(b"~" + path.read_bytes()[1:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def add(path):
    path.with_name("added.txt").write_text("new")


def forge(path):
    """Changes a manifest that stays good JSON."""
    path.write_text(path.read_text().replace('"nli"', '"ner"'))


DAMAGES = [
    (truncate, "text.txt", "text.txt has 2 bytes instead of 5"),
    (truncate, "sub/numbers.bin", "sub/numbers.bin has 500 bytes instead of 1000"),
    (edit, "text.txt", "text.txt was changed"),
    (edit, "sub/numbers.bin", "sub/numbers.bin was changed"),
    (Path.unlink, "text.txt", "text.txt is missing"),
    (add, "sub/numbers.bin", "sub/added.txt does not belong to it"),
    (truncate, "manifest.json", "manifest.json was changed"),
    (edit, "manifest.json", "manifest.json was changed"),
    (forge, "manifest.json", "manifest.json was changed"),
    (Path.unlink, "manifest.json", "manifest.json is missing"),
    (lambda path: path.write_text("[]"), "manifest.json", "manifest.json was changed"),
    (lambda path: path.write_text('{"seconds": NaN}'), "manifest.json", "manifest.json was changed"),
    (lambda path: path.write_bytes(b"\xff"), "manifest.json", "manifest.json was changed"),
]


@pytest.mark.parametrize(("damage", "name", "fault"), DAMAGES)
@pytest.mark.parametrize("hits", [0, 1])
def test_damage_is_named_and_repaired(ask, built, home, capsys, damage, name, fault, hits):
    folder = ask()
    for _ in range(hits):
        ask()
    damage(folder / name)
    assert [line.startswith(fault) for line in verify(folder)] == [True]
    assert ask() == folder
    assert len(built) == 2
    assert content(folder) == WHOLE
    assert verify(folder) == []
    assert stored(home) == [folder.name]
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"model/{folder.name} is damaged" in message
    assert fault in message
    ask()
    assert capsys.readouterr().err == ""


def test_an_artifact_under_another_name_is_damaged(ask):
    folder = ask()
    shutil.copytree(folder, folder.with_name("0123456789abcdef"))
    assert verify(folder.with_name("0123456789abcdef")) == [f"manifest.json belongs to artifact {folder.name}"]


def test_hidden_files_of_the_system_are_no_damage(ask, built):
    (ask() / ".DS_Store").write_text("view")
    (ask() / ".ipynb_checkpoints").mkdir()
    (ask() / ".ipynb_checkpoints" / "text.txt").write_text("alpha")
    ask()
    assert len(built) == 1


def test_describe_refuses_what_is_no_artifact(ask, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json is missing"):
        describe(tmp_path)
    folder = ask()
    truncate(folder / "manifest.json")
    with pytest.raises(ValueError, match=r"manifest\.json was changed"):
        describe(folder)


# Builds that fail


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, FileNotFoundError])
def test_a_failed_build_leaves_nothing_and_keeps_its_error(home, error):
    def fill(folder):
        (folder / "half").write_text("half")
        raise error("my own")

    with pytest.raises(error, match="my own") as caught:
        get_or_build("model", KEY, fill)
    assert caught.type is error
    assert stored(home) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("sub/", "build: expected at least one file"), ("manifest.json", r"got manifest\.json of a model")],
)
def test_a_build_must_write_files_of_its_own(home, name, message):
    def fill(folder):
        (folder / name).mkdir() if name.endswith("/") else (folder / name).write_text("{}")

    with pytest.raises(ValueError, match=message):
        get_or_build("model", KEY, fill)
    assert stored(home) == []


def test_a_full_disk_in_the_build_gives_one_clear_error(home):
    def fill(folder):
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreError, match=r"cannot write .*model.*disk is full.*XSUB_HOME"):
        get_or_build("model", KEY, fill)
    assert stored(home) == []


@pytest.mark.parametrize("step", ["fsync", "replace", "rename"])
def test_a_full_disk_after_the_build_gives_one_clear_error(ask, home, monkeypatch, step):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, step, refuse)
        with pytest.raises(StoreError, match=r"cannot write .*model.*disk is full.*XSUB_HOME"):
            ask()
    assert stored(home) == []
    assert content(ask()) == WHOLE


@pytest.mark.parametrize("place", ["home", "home/artifacts", "home/artifacts/model"])
def test_an_unwritable_place_gives_one_clear_error(ask, built, tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("a file where a folder should be")
    with pytest.raises(StoreError, match=r"cannot write .*model.*(exists|directory).*XSUB_HOME"):
        ask()
    assert not built


def test_a_really_full_disk_gives_one_clear_error(home):
    """On a disk of 256 KB in a mount namespace of its own, where the system permits one."""
    home.mkdir()
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*mount, f"mount -t tmpfs none {home}"]).returncode:
        pytest.skip("this system permits no mount namespaces")
    script = f"{sys.executable} {SCRIPTS / 'store_full_disk.py'}"
    subprocess.run([*mount, f"mount -t tmpfs -o size=256k none {home} && {script}"], check=True)


# Several processes


def test_processes_that_ask_at_once_build_once(home, tmp_path):
    processes = [contender(tmp_path, number) for number in range(3)]
    try:
        answers = {process.communicate(timeout=60)[0] for process in processes}
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"
    assert len(answers) == 1
    assert stored(home) == [Path(answers.pop().strip()).name]


def contender(folder, number):
    with (folder / f"stderr-{number}").open("w") as messages:
        command = [sys.executable, SCRIPTS / "store_contender.py"]
        return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=messages, text=True)


def test_who_waits_says_so(ask, built, home, capsys, monkeypatch):
    monkeypatch.setattr(store, "PATIENCE", 0.01)
    folder = ask()
    shutil.rmtree(folder)
    lock = store._lock(folder)
    said = threading.Event()
    monkeypatch.setattr(store, "_say", lambda message: (print(message, file=sys.stderr), said.set()))
    lock.acquire()
    other = threading.Thread(target=ask)
    other.start()
    assert said.wait(timeout=60)
    assert not folder.exists()
    lock.release()
    other.join(timeout=60)
    assert folder.exists()
    assert capsys.readouterr().err == f"waiting for another process that builds model/{folder.name}\n"


# kill -9


@pytest.mark.parametrize("state", ["absent", "damaged"])
def test_killed_before_any_single_access_to_the_disk_leaves_nothing_half_made(home, state):
    command = [sys.executable, SCRIPTS / "store_crashes.py", state]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    moments, complete = map(int, result.stdout.split())
    assert moments > 30
    assert 1 < complete < moments / 2


def test_killed_builds_are_swept_and_done_again(home):
    command = [sys.executable, SCRIPTS / "store_slow.py"]
    chance = random.Random("killed builds")
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            last = chance.randrange(20)
            assert any(int(line) == last for line in process.stdout)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert [name.endswith(".partial") for name in stored(home)] == [True]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    [folder] = (home / "artifacts" / "model").glob("[!.]*")
    assert stored(home) == [folder.name]
    assert verify(folder) == []
    assert len(describe(folder)["files"]) == 20
    assert all((folder / f"{number}.txt").read_text() == f"number {number}" for number in range(20))


def test_any_build_sweeps_what_killed_ones_left_but_not_what_runs(ask, home):
    killed = home / "artifacts" / "mask" / ".0123456789abcdef.partial"
    running = home / "artifacts" / "mask" / ".fedcba9876543210.partial"
    for partial in (killed, running):
        partial.mkdir(parents=True)
        (partial / "half").write_text("half")
    with store._lock(running.with_name("fedcba9876543210")):
        ask()
    assert stored(home) == sorted([running.name, ask().name])


# Command line


def test_an_interrupted_build_that_can_resume_goes_on_from_there(home, capsys):
    seen = []

    def half(folder):
        (folder / "first.txt").write_text("1")
        raise KeyboardInterrupt

    def rest(folder):
        seen.extend(sorted(path.name for path in folder.iterdir()))
        (folder / "second.txt").write_text("2")

    with pytest.raises(KeyboardInterrupt):
        get_or_build("model", KEY, half, resume=True)
    assert not any(home.glob("artifacts/model/[!.]*")), "what is half done has no place among the artifacts"
    folder = get_or_build("model", KEY, rest, resume=True)
    assert seen == ["first.txt"] and not verify(folder)
    assert {path.name for path in folder.iterdir()} == {"first.txt", "second.txt", "manifest.json"}
    assert "going on with model" in capsys.readouterr().err


def test_killed_between_manifest_and_rename_it_still_goes_on(home, monkeypatch):
    def build(folder):
        (folder / "first.txt").write_text("1")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            get_or_build("model", KEY, build, resume=True)
    assert next(home.glob("artifacts/model/.*.resume/manifest.json"))
    assert not verify(get_or_build("model", KEY, build, resume=True))


def test_command_line_lists_and_verifies(ask, capsys):
    assert store.main([]) == 0
    assert "no artifacts in" in capsys.readouterr().out
    folder, other = ask(), ask(kind="mask", seed=1)
    assert store.main(["--verify"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:4] == ["mask", other.name, "0.00", "MB"]
    assert second.split()[:2] == ["model", folder.name]
    assert json.loads(first[first.index("{") :]) == KEY | {"seed": 1}
    edit(folder / "text.txt")
    assert store.main([]) == 0
    assert store.main(["--verify"]) == 1
    assert "damaged: text.txt was changed" in capsys.readouterr().out
    truncate(other / "manifest.json")
    assert store.main([]) == 1
    assert "damaged: manifest.json was changed" in capsys.readouterr().out


def test_command_line_runs_as_a_module_without_warnings(ask, home):
    folder = ask()
    command = [sys.executable, "-W", "error", "-m", "xsub_utils._internal.store", "--verify"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert folder.name in result.stdout
    assert result.stderr == ""
