"""The blocks of code in README.md run one after the other, as they stand but for fewer examples and epochs."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
LESS = {
    '{"train": 700, "importance": 64, "validation": 160, "test": 240}': (
        '{"train": 60, "importance": 16, "validation": 24, "test": 24}'
    ),
    'preset("minibabel", task)}': 'preset("minibabel", task).__class__(epochs=1)}',
    "retain=0.95": "sparsity=0.5",  # a model that has learned nothing retains its score without any head
}


@pytest.mark.slow
def test_code_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    code = "\n".join(blocks)
    for as_it_stands, less in LESS.items():
        assert as_it_stands in code
        code = code.replace(as_it_stands, less)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XSUB_HOME", str(tmp_path))
    names = {}
    exec(compile(code, str(README), "exec"), names)
    assert "jaccard" in capsys.readouterr().out
    assert set(names["tickets"]) == set(names["masks"]) == set(names["codes"])
