import errno
import json
import os
import shutil

import pytest

from xsub_utils._internal import io as files
from xsub_utils._internal.io import StoreError, explained, sha256, write_json, write_text_atomic


def test_text_is_written_as_utf8_with_unix_newlines_and_folders(tmp_path):
    path = tmp_path / "new" / "table.csv"
    write_text_atomic(path, "ξ\nb\n")
    assert path.read_bytes() == "ξ\nb\n".encode()
    assert os.listdir(path.parent) == ["table.csv"]


def test_json_comes_back_and_is_readable(tmp_path):
    value = {"z": [1, 2.5, None], "a": {"ä": True}}
    write_json(tmp_path / "value.json", value)
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "ä" in text
    assert text.endswith("}\n")


def test_json_refuses_nan_and_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "value.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "value.json", float("nan"))
    assert (tmp_path / "value.json").read_text() == "1\n"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    write_text_atomic(tmp_path / "note.txt", "old")
    with monkeypatch.context() as patch:
        patch.setattr(files.os, step, _refuse(errno.ENOSPC))
        with pytest.raises(StoreError, match=r"note\.txt: the disk is full .* XSUB_HOME"):
            write_text_atomic(tmp_path / "note.txt", "new")
    assert os.listdir(tmp_path) == ["note.txt"]
    assert (tmp_path / "note.txt").read_text() == "old"


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "folder").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot write .*note\.txt: .*exists.*folder.*XSUB_HOME"):
        write_text_atomic(tmp_path / "folder" / "note.txt", "new")


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "abc").write_text("abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_full_disk_is_seen_through_errors_of_compiled_libraries(tmp_path, monkeypatch):
    with pytest.raises(StoreError, match="disk is full"), explained(tmp_path / "a", full_only=True):
        raise Exception("I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="unexpected pos"), explained(tmp_path / "a", full_only=True):
        raise RuntimeError("unexpected pos 576 vs 534")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(StoreError, match="disk is full"), explained(tmp_path / "a", full_only=True):
        raise RuntimeError("unexpected pos 576 vs 534")


def test_full_only_lets_a_callers_own_errors_pass(tmp_path):
    with pytest.raises(FileNotFoundError), explained(tmp_path / "a", full_only=True):
        (tmp_path / "absent").read_text()
    with pytest.raises(StoreError, match="absent"), explained(tmp_path / "a"):
        (tmp_path / "absent").read_text()


def test_an_explained_error_is_not_explained_twice(tmp_path):
    with pytest.raises(StoreError) as caught, explained(tmp_path / "outer"), explained(tmp_path / "inner"):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert str(caught.value).count("cannot write") == 1
    assert str(tmp_path / "inner") in str(caught.value)


def _refuse(number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    return refuse
