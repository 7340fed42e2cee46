"""The package is a house: a module imports from its own floor and those below, never in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "xsub_utils"
FLOORS = (
    "chance data files identity kernel names paths provenance statistics store variance",
    "batches encoders gates generation masks pretraining settings spans tokens weight_masks",
    "baselines evaluate finetune importance prune trainer",
    "alignment overlap representations sft stitching tickets tracin",
    "drawings notebooks plots stages study",
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names.split()}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE or path.stem != "__init__"
}


def internal_imports(module):
    """Modules of this package that a module imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write relative imports in full"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    names = {name.removeprefix("xsub_utils.") for name in found}
    return {name if name in MODULES else f"{name}.__init__" for name in names} & MODULES.keys() - {module}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    floor = FLOOR[module.partition(".")[0]]
    above = [name for name in internal_imports(module) if FLOOR[name.partition(".")[0]] > floor]
    assert not above, f"{module} (floor {floor}) imports from above: {above}"


def test_no_circles():
    TopologicalSorter({module: internal_imports(module) for module in MODULES}).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_small(module):
    assert len(MODULES[module].read_text("utf-8").splitlines()) <= 320
