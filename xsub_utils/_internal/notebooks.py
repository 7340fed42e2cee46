"""Notebooks: keep the committed ones fresh, run one with other parameters.

`run` writes a notebook together with its outputs, normalised: running a fresh notebook again on the same machine
changes no byte.

    python -m xsub_utils._internal.notebooks run | check | links [NOTEBOOK ...]
    python -m xsub_utils._internal.notebooks execute NOTEBOOK OUT --parameters FILE.yaml --set name=value
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from xsub_utils._internal.io import write_text_atomic
from xsub_utils._internal.notebook_files import ROOT, committed, link, normalise, stale
from xsub_utils._internal.notebook_parameters import checked_parameters
from xsub_utils._internal.validation import invalid
from xsub_utils._internal.yaml_text import parse_yaml, read_mapping

_QUIET = ["--IPKernelApp.log_level=ERROR"]


def run(path: str | Path, timeout_s: int = 1800) -> None:
    """Execute a notebook in its folder with its default parameters, and write it back normalised.

    Args:
        path: The notebook. It is left as it was if a cell fails.
        timeout_s: Longest time for a cell, in seconds.

    Raises:
        RuntimeError: If a cell fails, with its traceback.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from tqdm import tqdm

    path = Path(path)
    notebook = nbformat.read(path, as_version=4)
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    with _sockets() as config, tqdm(total=cells, desc=path.stem, unit="cell") as bar:
        client = NotebookClient(
            notebook,
            timeout=timeout_s,
            resources={"metadata": {"path": str(path.parent)}},
            extra_arguments=_QUIET,
            coalesce_streams=True,  # how stdout was cut into messages is a matter of timing
            on_cell_complete=lambda **_: bar.update(),
            config=config,
        )
        try:
            client.execute()
        except CellExecutionError as error:
            raise RuntimeError(f"{path} failed and was left as it was:\n{error}") from None
    write_text_atomic(path, nbformat.writes(normalise(notebook)) + "\n")


def execute(notebook: str | Path, out: str | Path, parameters: Mapping[str, Any]) -> None:
    """Execute a notebook with other parameters, and keep the executed notebook with its outputs.

    Args:
        notebook: A notebook with a cell tagged `parameters`; it is not changed.
        out: Where to write the executed notebook.
        parameters: New values by name; parameters that are left out keep their defaults.

    Raises:
        ValueError: If the notebook has no such parameter.
        TypeError: If a value is of another type than the notebook declares.
        RuntimeError: If a cell fails; the last line names the executed notebook, which is kept.
    """
    with _without_a_grammar():
        import papermill

    parameters = checked_parameters(notebook, parameters)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with _sockets() as config:
        try:
            papermill.execute_notebook(
                str(notebook),
                str(out),
                parameters=parameters,
                progress_bar=False,
                extra_arguments=_QUIET,
                config=config,
            )
        except Exception as error:
            raise RuntimeError(f"{notebook}: {error}\nexecuted notebook kept: {out}") from error


@contextmanager
def _without_a_grammar() -> Iterator[None]:
    """For an import of jsonschema, which else spends three seconds on addresses, a format that notebooks lack."""
    name = "rfc3987_syntax"
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]


@contextmanager
def _sockets() -> Iterator[Any]:
    """Configuration of a kernel that talks through Unix sockets of its own.

    Kernels that start at once can be given the same TCP port. Sockets without a folder would lie in the
    working folder, where a kernel that runs in another one does not find them.
    """
    from traitlets.config import Config

    with TemporaryDirectory(prefix="xsub-") as folder:
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"}
        yield Config({"KernelManager": sockets, "AsyncKernelManager": sockets})


def _read_parameters(file: Path | None, assignments: Sequence[str]) -> dict[str, Any]:
    """Parameters of a YAML file, overridden by `name=value` assignments."""
    parameters = read_mapping(file, "parameters") if file else {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise invalid("--set", "name=value", repr(assignment))
        parameters[name] = parse_yaml(value, f"--set {name}") if value.strip() else ""
    return parameters


def _run(options: argparse.Namespace) -> None:
    for path in options.paths or committed():
        run(path)


def _check(options: argparse.Namespace) -> str:
    paths = stale(options.paths or committed())
    return "\n".join(f"{path} was edited after it was run: make notebooks" for path in paths)


def _links(options: argparse.Namespace) -> None:
    for path in link(options.paths or [*committed(), ROOT / "README.md"]):
        print(path)


def _execute(options: argparse.Namespace) -> None:
    execute(options.notebook, options.out, _read_parameters(options.parameters, options.set))


def _parser() -> argparse.ArgumentParser:
    summary = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m xsub_utils._internal.notebooks", description=summary)
    verbs = parser.add_subparsers(required=True)
    for name, do, does in (
        ("run", _run, "execute committed notebooks and normalise them"),
        ("check", _check, "name those that were edited after they were run"),
        ("links", _links, "point badges and setup cells at the address in pyproject.toml"),
    ):
        verb = verbs.add_parser(name, help=does)
        verb.add_argument("paths", nargs="*", type=Path, metavar="NOTEBOOK")
        verb.set_defaults(do=do)
    verb = verbs.add_parser("execute", help="execute one notebook with other parameters")
    verb.add_argument("notebook", type=Path)
    verb.add_argument("out", type=Path)
    verb.add_argument("--parameters", type=Path, metavar="FILE.yaml")
    verb.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    verb.set_defaults(do=_execute)
    return parser


def main(arguments: Sequence[str] | None = None) -> str | None:
    """What went wrong, in words for the terminal; nothing if all went well."""
    options = _parser().parse_args(arguments)
    try:
        return options.do(options)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main() or 0)
