import functools
import importlib
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from xsub_utils._internal.fingerprint import code_digests, digest, plain

SOURCE = '''"""Prose."""
import functools

RATE = 0.5

def build(folder):
    """More prose."""
    return RATE  # a comment

@functools.cache
def decorated(folder):
    """Only prose."""
'''


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A module of user code, with a function that writes another source and reloads it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(source, reload=True):
        (tmp_path / "user_stage.py").write_text(source)
        if not reload:
            return sys.modules["user_stage"]
        sys.modules.pop("user_stage", None)
        return importlib.import_module("user_stage")

    yield load
    sys.modules.pop("user_stage", None)


def test_digest_is_the_same_everywhere():
    # printf '{"a":"\\u03be","b":[1,2.5,null,true]}' | sha256sum
    assert digest({"b": [1, 2.5, None, True], "a": "ξ"}) == "6651bfc54c4d7c13"


def test_digest_ignores_the_order_of_entries_and_the_kind_of_sequence():
    assert digest({"a": 1, "b": (1, 2)}) == digest({"b": [1, 2], "a": 1})


def test_digest_tells_values_apart():
    values = [None, True, 1, 1.0, "1", [1], {"1": 1}, [[1]], 0, False, "", [], {}]
    assert len({digest(value) for value in values}) == len(values)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (math.nan, "key"),
        ({"lr": math.inf}, r"key\['lr'\]"),
        ({"path": Path("x")}, r"key\['path'\]"),
        ({"sizes": [1, {"n": np.int64(3)}]}, r"key\['sizes'\]\[1\]\['n'\]"),
        ({"set": {1}}, r"key\['set'\]"),
        ({"raw": b"x"}, r"key\['raw'\]"),
        ({"f": len}, r"key\['f'\]"),
        ({"by": {1: "a"}}, r"key\['by'\]: expected entries named by strings, got one named 1"),
    ],
)
def test_only_plain_values_are_taken_and_the_entry_is_named(value, name):
    with pytest.raises(TypeError, match=f"^{name}"):
        plain(value, "key")


def test_prose_changes_nothing_and_code_does(stage):
    before = code_digests(stage(SOURCE).build, [])
    prose = SOURCE.replace("rose", "oetry").replace("a comment", "another").replace("\n\n", "\n\n\n")
    assert prose != SOURCE
    assert code_digests(stage(prose).build, []) == before
    assert code_digests(stage(SOURCE.replace('"""Prose."""\n', "")).build, []) == before
    assert code_digests(stage(SOURCE.replace("0.5", "0.6")).build, []) != before
    assert before.keys() == {"user_stage"}


def test_further_modules_count(stage):
    own = code_digests(test_further_modules_count, [])
    before = code_digests(test_further_modules_count, [stage(SOURCE)])
    after = code_digests(test_further_modules_count, [stage(SOURCE.replace("0.5", "0.6"))])
    assert before.keys() == after.keys() == {__name__, "user_stage"}
    assert before[__name__] == after[__name__] == own[__name__]
    assert before["user_stage"] != after["user_stage"]


def test_an_edit_counts_when_it_is_loaded(stage):
    module = stage(SOURCE)
    before = code_digests(module.build, [])
    assert code_digests(stage(SOURCE.replace("0.5", "0.6"), reload=False).build, []) == before
    assert code_digests(importlib.reload(module).build, []) != before


def test_partials_and_decorated_functions_belong_to_their_module(stage):
    module = stage(SOURCE)
    expected = code_digests(module.build, [])
    assert code_digests(functools.partial(module.build, 1), []) == expected
    assert code_digests(module.decorated, []) == expected


@pytest.mark.parametrize("other", [math, ModuleType("made_up")])
def test_code_must_be_modules_with_a_source(other):
    with pytest.raises(TypeError, match="code: expected imported modules that have a Python file"):
        code_digests(digest, [other])


def test_a_build_without_source_is_refused():
    space = {"__name__": "nowhere"}
    exec("def build(folder): pass", space)
    with pytest.raises(
        TypeError, match=r"build: expected a function whose source can be read, got .*; define it in a file"
    ):
        code_digests(space["build"], [])


def test_in_a_script_the_function_alone_counts(tmp_path):
    before = run(tmp_path, SOURCE)
    assert "__main__" in before
    assert run(tmp_path, SOURCE.replace("0.5", "0.6")) == before
    assert run(tmp_path, SOURCE.replace("return RATE", "return 2 * RATE")) != before
    assert run(tmp_path, SOURCE.replace("More prose", "Poetry")) == before


def test_a_module_that_is_run_counts_as_when_imported(tmp_path):
    imported = run(tmp_path, SOURCE, "-c", "import script; print(script.code_digests(script.build, []))")
    assert run(tmp_path, SOURCE, "-m", "script") == imported
    assert "'script'" in imported


def test_a_lambda_in_the_middle_of_a_script_counts_by_its_lines(tmp_path):
    source = "RATE = 1\nbuild = [\n    None,\n    lambda folder: 0.5][1]\n"
    before = run(tmp_path, source)
    assert run(tmp_path, source.replace("RATE = 1", "RATE = 2")) == before
    assert run(tmp_path, source.replace("0.5", "0.6")) != before


SCRIPT = """
from xsub_utils._internal.fingerprint import code_digests
if __name__ == "__main__":
    print(code_digests(build, []))
"""


def run(tmp_path, source, *options):
    (tmp_path / "script.py").write_text(source + SCRIPT)
    command = [sys.executable, *(options or ["script.py"])]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout


def test_imported_packages_count_with_their_modules(stage):
    counted = code_digests(stage("from xsub_utils.similarity import cka\n\ndef build(folder): pass\n").build, [])
    assert counted.keys() == {"user_stage"}, "only this package is followed"
    from xsub_utils.study.nb03_similarity import representations as states

    counted = code_digests(states.states, [])
    assert {"xsub_utils.similarity", "xsub_utils.similarity.hidden_states"} <= counted.keys()
    assert {"xsub_utils.data", "xsub_utils.data.minibabel"} <= counted.keys()
