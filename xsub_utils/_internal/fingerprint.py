"""What decides the content of an artifact, as short digests: plain values, and the code of a stage."""

import ast
import functools
import hashlib
import inspect
import json
import math
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from xsub_utils._internal.validation import wrong_type

PACKAGE = __name__.partition(".")[0]
ROOT = Path(__file__).parents[2]


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that identify a plain value; the order of dict entries does not count.

    Raises:
        TypeError: If anything in `value` is not plain.
    """
    canonical = json.dumps(plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def plain(value: Any, name: str = "value") -> Any:
    """The value as JSON gives it back, with lists for tuples, so that equal values have equal digests.

    Args:
        value: None, str, bool, int, finite float, or a list, tuple or dict of these.
        name: Name of the value in an error.

    Raises:
        TypeError: If `value` holds anything else; the message names the entry.
    """
    if isinstance(value, dict):
        for entry in value:
            if not isinstance(entry, str):
                raise wrong_type(name, "entries named by strings", f"one named {entry!r}")
        return {entry: plain(item, f"{name}[{entry!r}]") for entry, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    expected = "None, a str, bool, int or finite float, or a list, tuple or dict of these"
    raise wrong_type(name, expected, f"{value!r} ({type(value).__name__})")


def code_digests(build: Callable, modules: Sequence[ModuleType] = ()) -> dict[str, str]:
    """Digest of the code of every module that takes part in a build, by the module's name.

    The module of `build` takes part, so do further modules, and all modules of this package that these import, at the
    top or inside functions, directly or not. Comments, docstrings and layout do not count.

    Args:
        build: Function (or partial of a function) whose module takes part. A function from a notebook or a script
            stands for itself, as `__main__`; other cells do not count.
        modules: Further modules that take part.

    Raises:
        TypeError: If a source cannot be read.
    """
    function = inspect.unwrap(build.func if isinstance(build, functools.partial) else build)
    owner = inspect.getmodule(function)
    if owner is None or (owner.__name__ == "__main__" and owner.__spec__ is None):
        return {"__main__": _without_prose(_function_source(function)), **_with_imports(modules)}
    return _with_imports([owner, *modules])


def _with_imports(modules: Sequence[ModuleType]) -> dict[str, str]:
    queue = [(_name(module), _module_source(module)) for module in modules]
    digests: dict[str, str] = {}
    while queue:
        name, path = queue.pop()
        if name not in digests:
            digests[name], imported = _as_loaded(name, path)
            queue += imported
    return digests


_LOADED: dict[str, tuple[ModuleSpec | None, str, list[tuple[str, Path]]]] = {}


def _as_loaded(name: str, path: Path) -> tuple[str, list[tuple[str, Path]]]:
    """Digest of a module as it was loaded, and the modules of this package that it imports.

    A file that is edited while a notebook runs does not change the code in memory; so the file is read once,
    and again only after a reload, which gives a module another `__spec__`.
    """
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if name not in _LOADED or _LOADED[name][0] is not spec:
        source = path.read_text(encoding="utf-8")
        _LOADED[name] = (spec, _without_prose(source), _imports(source) if name.startswith(PACKAGE) else [])
    return _LOADED[name][1:]


def _imports(source: str) -> list[tuple[str, Path]]:
    """Names and files of the modules of this package that a source imports; they need not be loaded yet."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    inside = (name for name in sorted(names) if name.startswith(f"{PACKAGE}."))
    return [(name, path) for name in inside for path in _files(name) if path.is_file()]


def _files(name: str) -> tuple[Path, Path]:
    """Where a module may lie: a file, or a folder of them."""
    place = ROOT.joinpath(*name.split("."))
    return place.with_suffix(".py"), place / "__init__.py"


def _name(module: ModuleType) -> str:
    return module.__spec__.name if module.__spec__ else module.__name__  # only the spec knows it under `python -m`


def _module_source(module: ModuleType) -> Path:
    path = getattr(module, "__file__", None)
    if path is None or not path.endswith(".py"):
        raise wrong_type("code", "imported modules that have a Python file", repr(module))
    return Path(path)


def _function_source(function: Callable) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        expected = "a function whose source can be read"
        raise wrong_type("build", expected, repr(function), "define it in a file or a notebook") from None


def _without_prose(source: str) -> str:
    """Digest of Python source without its comments, docstrings and layout."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a lambda comes with all of its lines, loose ends included
        return digest(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:  # type: ignore[arg-type]
            node.body = node.body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
    return digest(ast.unparse(tree))
