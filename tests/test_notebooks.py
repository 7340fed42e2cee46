"""The contract that every committed notebook keeps. Nothing is executed: it takes milliseconds."""

import ast
import re
from pathlib import Path

import nbformat
import papermill
import pytest

from xsub_utils._internal.notebook_files import SETUP, badge, committed, normalise, repository, source_sha

NOTEBOOKS = committed()


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def section(notebook, heading):
    """Cells under a second-level heading, its own cell included."""
    headings = [i for i, cell in enumerate(notebook.cells) if re.match("##? ", cell.source)]
    starts = [i for i in headings if re.match(rf"## .*{heading}", notebook.cells[i].source)]
    assert len(starts) == 1, f"one heading '## {heading}' is needed"
    end = next((i for i in headings if i > starts[0]), None)
    return notebook.cells[starts[0] : end]


def test_outputs_belong_to_this_source(notebook):
    assert notebook.metadata.get("xsub", {}).get("source") == source_sha(notebook), "make notebooks"


def test_ran_top_to_bottom_without_errors(notebook):
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    assert not [o for cell in code(notebook) for o in cell.outputs if o.output_type == "error"]


def test_is_normalised(path, notebook):
    assert path.read_text("utf-8") == nbformat.writes(normalise(notebook)) + "\n"


def test_starts_with_question_badge_and_runtime(path, notebook):
    title, _, rest = notebook.cells[0].source.partition("\n")
    assert re.fullmatch(r"# .*\?", title)
    assert badge(path.name) in rest and f"/blob/main/notebooks/{path.name})" in rest
    assert re.search(r"(second|minute)s?\b", rest), "say how long it runs"


def test_setup_cell_is_the_same_everywhere(notebook):
    assert code(notebook)[0].source == SETUP.format(address=repository())


def test_parameters_are_annotated_and_explained(notebook):
    parameters = code(notebook)[1]
    assert [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])] == [parameters]
    for line in parameters.source.splitlines():
        assert re.fullmatch(r"[a-z_]+: \S.* = .+  # .+", line), f"annotate and explain: {line}"


def test_papermill_understands_every_parameter(path, notebook):
    names = re.findall(r"^([a-z_]+):", code(notebook)[1].source, re.MULTILINE)
    assert list(papermill.inspect_notebook(str(path))) == names


def test_is_short(path, notebook):
    assert len(code(notebook)) <= 25
    _, _, *computing = code(notebook)  # the parameters have a line each
    assert max(len(cell.source.splitlines()) for cell in computing) <= 15
    assert path.stat().st_size <= 300_000


def test_checks_assert_the_claims(notebook):
    checks = "\n".join(cell.source for cell in section(notebook, "Checks") if cell.cell_type == "code")
    assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(checks)))


def test_ends_with_takeaways_and_the_next_notebook(path, notebook):
    takeaways = section(notebook, "Takeaways")
    assert takeaways[-1] == notebook.cells[-1]
    text = "\n".join(cell.source for cell in takeaways)
    assert len(re.findall(r"^(?:[-*]|\d\.) ", text, re.MULTILINE)) >= 3
    for following in NOTEBOOKS[NOTEBOOKS.index(path) + 1 :][:1]:
        assert f"]({following.name})" in text


def test_outputs_suit_every_reader(notebook):
    outputs = str([cell.outputs for cell in code(notebook)])
    assert not re.search(r"/(home|Users|root|content|tmp|work)/", outputs), "a path of this machine"
    assert "widget-view" not in outputs, "a widget is blank to readers"
