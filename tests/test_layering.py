"""The package is a house: a module imports from its own floor and those below, never in a circle.

The floors stand in pyproject.toml. An import counts wherever it is made: at the top of a module, inside a function, or
with `importlib` (a name that is only known at run time stands for every module that it could be).
"""

import ast
import re
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "xsub_utils"
FLOORS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["xsub-utils"]["floors"]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
LONGEST = 300  # lines of a module
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}


def pattern_of(argument):
    """A regular expression of the names that an argument of `import_module` can have."""
    if isinstance(argument, ast.Constant):
        return re.escape(argument.value)
    if isinstance(argument, ast.JoinedStr):
        return "".join(re.escape(part.value) if isinstance(part, ast.Constant) else r"\w+" for part in argument.values)
    return r"[\w.]*"


def imported_names(tree):
    """Full names of what a module imports anywhere, as regular expressions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (re.escape(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write relative imports in full"
            yield from (re.escape(name) for name in [node.module, *(f"{node.module}.{a.name}" for a in node.names)])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield pattern_of(node.args[0])


def internal_imports(module):
    """Modules of this package that a module imports."""
    names = "|".join(imported_names(ast.parse(MODULES[module].read_text("utf-8"))))
    return {name for name in MODULES if re.fullmatch(names, f"xsub_utils.{name}")} - {module}


def test_imports_at_run_time_are_seen():
    code = "importlib.import_module(f'xsub_utils.study.{name}.figures'); import_module('xsub_utils.data')"
    patterns = [*imported_names(ast.parse(code))]
    assert re.fullmatch(patterns[0], "xsub_utils.study.nb02_pruning.figures")
    assert not re.fullmatch(patterns[0], "xsub_utils.study.nb02_pruning.tables")
    assert re.fullmatch(patterns[1], "xsub_utils.data")
    assert "study.nb02_pruning.figures" in internal_imports("study.drawing")


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    floor = FLOOR[module.partition(".")[0]]
    above = [name for name in internal_imports(module) if FLOOR[name.partition(".")[0]] > floor]
    assert not above, f"{module} (floor {floor}) imports from above: {above}"


def test_no_circles():
    TopologicalSorter({module: internal_imports(module) for module in MODULES}).prepare()


def test_every_room_has_a_floor():
    assert {module.partition(".")[0] for module in MODULES} == set(FLOOR)


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_small(module):
    assert len(MODULES[module].read_text("utf-8").splitlines()) <= LONGEST
