"""What stands in a notebook file; read as JSON, since to import nbformat takes longer than the rest."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace


def read_notebook(path: Path) -> SimpleNamespace:
    """The notebook's `cells`, each with `cell_type`, `source` and `tags`."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return SimpleNamespace(
        cells=[
            SimpleNamespace(
                cell_type=cell["cell_type"],
                source="".join(cell["source"]),
                tags=cell["metadata"].get("tags", []),
            )
            for cell in cells
        ]
    )


def parameter_names(path: Path) -> list[str]:
    """Names assigned in the notebook's `parameters` cell, the only ones that it may be given."""
    return list(parameter_defaults(path))


def parameter_defaults(path: Path) -> dict[str, object]:
    """Those names, each with the value that it has unless the notebook is given another."""
    code = "\n".join(cell.source for cell in read_notebook(path).cells if "parameters" in cell.tags)
    defaults = {}
    for line in ast.parse(code).body:
        targets = line.targets if isinstance(line, ast.Assign) else [line.target]
        defaults |= {name.id: ast.literal_eval(line.value) for name in targets}
    return defaults
