"""One list of dependencies: its floors suit hosted notebooks, the tested versions stand above them."""

import ast
import json
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NAME = PROJECT["name"]
SOURCES = [
    *ROOT.glob("xsub_utils/**/*.py"),
    *ROOT.glob("workflow/*.py"),
    *ROOT.glob("benchmarks/*.py"),
    *ROOT.glob("notebooks/*.ipynb"),
]
# What may be imported besides the core; notebooks may not, since hosted ones install the core alone.
EXTRAS = {
    "xsub_utils/_internal/notebook": "notebooks",
    "xsub_utils/data/typology.py": "typology",
    "workflow": "workflow",
    "xsub_utils/study/config.py": "workflow",
    "benchmarks": "bench",
}


def requirements(*groups):
    """Requirements of the core and of the named extras, by canonical name."""
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][group] for group in groups)]
    parsed = (Requirement(line) for lines in lists for line in lines)
    return {canonicalize_name(r.name): r for r in parsed if r.name != NAME}


def pins(file):
    """Versions of a file of `name==version` lines."""
    lines = (line for line in (ROOT / file).read_text("utf-8").splitlines() if not line.startswith("#"))
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


EVERY = requirements(*PROJECT["optional-dependencies"])
COLAB = pins("tests/data/colab-2026.08.txt")
TESTED = pins("constraints.txt")
DISTRIBUTIONS = packages_distributions()


@pytest.mark.parametrize("requirement", EVERY.values(), ids=str)
def test_requirements_have_floors_and_no_caps(requirement):
    assert [clause.operator for clause in requirement.specifier] == [">="]


@pytest.mark.parametrize("name", sorted(requirements().keys() & COLAB.keys()))
def test_a_hosted_notebook_keeps_what_it_has_installed(name):
    assert requirements()[name].specifier.contains(COLAB[name])


def test_python_of_a_hosted_notebook_is_supported():
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(COLAB["python"])


@pytest.mark.parametrize("name", EVERY)
def test_tested_versions_satisfy_the_floors(name):
    assert EVERY[name].specifier.contains(TESTED[name])


def test_tested_versions_suit_every_machine():
    assert not [version for version in TESTED.values() if "+" in version]  # torch 2.13.0+cpu is one of many builds
    assert "://" not in (ROOT / "constraints.txt").read_text("utf-8")


def test_conda_environment_adds_only_python_and_pip():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    python, pip, packages = environment["dependencies"]
    version = python.removeprefix("python=")
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(version)
    assert (pip, packages) == ("pip", {"pip": ["-c constraints.txt", "-e .[dev]"]})


@pytest.mark.parametrize("path", sorted(SOURCES), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_are_declared(path):
    place = path.relative_to(ROOT).as_posix()
    extras = [extra for prefix, extra in EXTRAS.items() if place.startswith(prefix)]
    declared = requirements(*extras).keys() | {NAME}
    for name in imported(path) - sys.stdlib_module_names - {other.stem for other in path.parent.glob("*.py")}:
        distributions = {canonicalize_name(d) for d in DISTRIBUTIONS.get(name, [name])}
        assert distributions & declared, f"{place} imports {name}, which pyproject.toml does not declare"


def imported(path):
    """Top-level names of everything that a module or notebook imports, also inside functions."""
    nodes = list(ast.walk(ast.parse(code_of(path))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names}


def code_of(path):
    """Python of a module, or of a notebook without its magics."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        return text
    cells = (cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
    lines = "\n".join("".join(cell["source"]) for cell in cells).splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("%"))


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_address_stands_once():
    address = PROJECT["urls"]["repository"]
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    texts = [path for path in map(ROOT.joinpath, files) if path.is_file() and path.suffix != ".ipynb"]
    holders = [path for path in texts if address.encode() in path.read_bytes()]
    assert [path.name for path in holders] == ["pyproject.toml"]
    assert holders[0].read_text("utf-8").count(address) == 1


def test_citation_names_version_and_licence_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert all({"type", "title", "authors"} <= reference.keys() for reference in citation["references"])
