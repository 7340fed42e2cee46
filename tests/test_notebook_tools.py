"""Running, normalising, relinking and parametrising notebooks, on a small one made here."""

import re

import nbformat
import pytest
from nbformat import v4

from xsub_utils._internal import notebook_files
from xsub_utils._internal.notebook_files import SETUP, badge, link, normalise, relink, source_sha, stale
from xsub_utils._internal.notebooks import execute, main, run

ADDRESS = "https://github.com/someone/a-fork"


@pytest.fixture
def path(tmp_path):
    """A notebook that writes to stdout in pieces, to stderr, and shows a table."""
    cells = [
        v4.new_markdown_cell(f"# Is it small?\n\n{badge('00_small.ipynb')}"),
        v4.new_code_cell("seed: int = 0  # of everything", metadata={"tags": ["parameters"], "scrolled": True}),
        v4.new_code_cell("import os, sys, time\nprint(1, flush=True)\ntime.sleep(0.3)\nprint(2)"),
        v4.new_code_cell("print(time.time(), file=sys.stderr)\n{'seed': seed, 'here': os.listdir()}"),
    ]
    kernel = {"name": "python3", "display_name": "Some environment", "language": "python"}
    return write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "00_small.ipynb")


def write(notebook, path):
    nbformat.write(notebook, path)
    return path


def read(path):
    return nbformat.read(path, as_version=4)


def edit(path, index, source):
    notebook = read(path)
    notebook.cells[index].source = source
    return write(notebook, path)


def test_two_runs_write_the_same_bytes(path):
    run(path)
    first = path.read_bytes()
    run(path)
    assert path.read_bytes() == first
    *_, streams, shown = (cell.outputs for cell in read(path).cells if cell.cell_type == "code")
    assert [output.text for output in streams] == ["1\n2\n"]
    assert [output.data["text/plain"] for output in shown] == ["{'seed': 0, 'here': ['00_small.ipynb']}"]


def test_a_failing_run_leaves_the_notebook_as_it_was(path):
    before = edit(path, 2, "1 / 0").read_bytes()
    with pytest.raises(RuntimeError, match=r"00_small.ipynb failed and was left as it was:[^$]*ZeroDivisionError"):
        run(path)
    assert path.read_bytes() == before


def test_normalising_twice_changes_nothing(path):
    once = nbformat.writes(normalise(read(path)))
    assert nbformat.writes(normalise(nbformat.reads(once, as_version=4))) == once
    assert "scrolled" not in once and '"parameters"' in once


def test_fingerprint_is_of_the_code_alone(path):
    before = source_sha(read(path))
    assert source_sha(read(edit(path, 0, "# Another title?"))) == before
    assert source_sha(read(edit(path, 2, "print(3)"))) != before


def test_edited_notebooks_are_stale_until_they_are_run(path):
    assert stale([path]) == [path]
    write(normalise(read(path)), path)
    assert not stale([path]) and not main(["check", str(path)])
    edit(path, 2, "print(3)")
    assert main(["check", str(path)]) == f"{path} was edited after it was run: make notebooks"


def test_links_follow_the_address_and_leave_notebooks_fresh(path, monkeypatch):
    edit(path, 2, SETUP.format(address=notebook_files.repository()))
    write(normalise(read(path)), path)
    monkeypatch.setattr(notebook_files, "repository", lambda: ADDRESS)
    assert link([path]) == [path] and link([path]) == [] and not stale([path])
    title, _, setup, _ = read(path).cells
    assert title.source.endswith(f"/github/someone/a-fork/blob/main/notebooks/{path.name})")
    assert setup.source == SETUP.format(address=ADDRESS)


@pytest.mark.parametrize("address", ["https://example.org/someone/a-fork", "https://github.com/someone", "someone/a"])
def test_only_github_addresses_can_be_linked(address):
    with pytest.raises(ValueError, match=f"address: expected https://github.com/OWNER/NAME, got '{address}'"):
        relink("", address)


def test_executed_with_parameters_of_a_file_and_the_command_line(path, tmp_path):
    before, out, file = path.read_bytes(), tmp_path / "runs" / "out.ipynb", tmp_path / "parameters.yaml"
    file.write_text("seed: 1")
    edit(path, 1, "seed: int = 0  # of everything\nrates: list = []  # of learning")
    edit(path, 3, "print(seed, rates)")
    before = path.read_bytes()
    assert not main(["execute", str(path), str(out), "--parameters", str(file), "--set", "rates=[2e-5]"])
    assert read(out).cells[-1].outputs[0].text == "1 [2e-05]\n"
    assert path.read_bytes() == before


def test_parameters_must_be_known(path, tmp_path):
    with pytest.raises(ValueError, match=r"parameter of .*: expected one of seed, got 'sed'; did you mean 'seed'\?"):
        execute(path, tmp_path / "out.ipynb", {"sed": 1})
    assert not (tmp_path / "out.ipynb").exists()


def test_assignments_need_an_equals_sign(path, tmp_path):
    assert main(["execute", str(path), str(tmp_path / "out.ipynb"), "--set", "seed"]) == (
        "--set: expected name=value, got 'seed'"
    )


@pytest.mark.parametrize("failure, cause", [("1 / 0", "ZeroDivisionError"), ("os._exit(1)", "Kernel died")])
def test_a_failed_execution_is_kept_and_named_last(path, tmp_path, failure, cause):
    edit(path, 3, failure)
    out = tmp_path / "out.ipynb"
    with pytest.raises(RuntimeError) as failed:
        execute(path, out, {"seed": 1})
    assert re.search(cause, str(failed.value))
    assert str(failed.value).splitlines()[-1] == f"executed notebook kept: {out}"
    before = next(cell for cell in read(out).cells if "print(2)" in cell.source)
    assert "".join(output.text for output in before.outputs) == "1\n2\n"
