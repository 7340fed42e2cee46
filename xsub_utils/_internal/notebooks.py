"""Notebooks: keep the committed ones fresh, run one with other parameters.

A committed notebook is *fresh* when the fingerprint in its metadata is that of its code cells. `run` writes
it together with the outputs, and drops whatever differs between two runs: running a fresh notebook again on
the same machine changes no byte.

    python -m xsub_utils._internal.notebooks run | check | links [NOTEBOOK ...]
    python -m xsub_utils._internal.notebooks execute NOTEBOOK OUT --parameters FILE.yaml --set name=value
"""

import argparse
import base64
import hashlib
import io
import json
import logging
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from xsub_utils._internal.validation import one_of

_ROOT = Path(__file__).parents[2]
SETUP = """\
try:  # JupyterLab, papermill, pytest: already installed
    import xsub_utils
except ModuleNotFoundError:  # Colab, Kaggle: install it once
    %pip install -q "xsub-utils @ git+{address}"
    import xsub_utils
xsub_utils.setup()"""

_ADDRESS = re.compile(r'(?<="xsub-utils @ git\+)[^"\\]*')  # a notebook file has a backslash before the quote
_SLUG = re.compile(r"(?<=colab\.research\.google\.com/github/)[^/\s]+/[^/\s]+")
_KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
_QUIET = ["--IPKernelApp.log_level=ERROR"]


def repository() -> str:
    """Address of the published repository, as `pyproject.toml` gives it."""
    return tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["repository"]


def badge(name: str) -> str:
    """Markdown of the badge that opens `notebooks/name` in Colab."""
    slug = _slug(repository())
    page = f"https://colab.research.google.com/github/{slug}/blob/main/notebooks/{name}"
    return f"[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]({page})"


def relink(text: str, address: str) -> str:
    """`text` with the repository of every Colab badge and setup cell in it replaced by `address`.

    Raises:
        ValueError: If the address is not one of GitHub; Colab opens notebooks of no other host by address.
    """
    return _SLUG.sub(_slug(address), _ADDRESS.sub(address, text))


def _slug(address: str) -> str:
    slug = address.removeprefix("https://github.com/")
    if slug == address or slug.count("/") != 1:
        raise ValueError(f"address is {address!r}; it should read https://github.com/OWNER/NAME")
    return slug


def source_sha(notebook) -> str:
    """Fingerprint of what the notebook computes: 12 hex digits of its code cells.

    Outputs, prose and the address that the setup cell installs from leave it unchanged.
    """
    code = "\0".join(_ADDRESS.sub("", cell.source) for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:12]


def normalise(notebook: Mapping) -> Mapping:
    """The same notebook, changed in place: without what differs between runs, stamped with its fingerprint.

    What stays are the sources, tags, execution counts and outputs other than stderr.
    """
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = {
        "kernelspec": _KERNELSPEC,
        "language_info": {"name": "python"},
        "xsub": {"source": source_sha(notebook)},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if picture := output.get("data", {}).get("image/png"):
                    output.data["image/png"] = _light(picture)
    return notebook


def _light(picture: str) -> str:
    """A PNG in base64 with a palette of 96 colours: a third of the size; one that has a palette stays as it is."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    if image.mode == "P":
        return picture
    out = io.BytesIO()
    image.convert("RGB").quantize(96, dither=Image.Dither.NONE).save(out, "png", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def committed() -> list[Path]:
    """Paths of the numbered notebooks of this repository, in order."""
    return sorted(_ROOT.glob("notebooks/[0-9][0-9]_*.ipynb"))


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
    nbformat.write(normalise(notebook), path)


def stale(paths: Sequence[Path]) -> list[Path]:
    """Those of the notebooks whose code was edited after their outputs were made."""
    import nbformat

    notebooks = {path: nbformat.read(path, as_version=4) for path in paths}
    return [path for path, nb in notebooks.items() if _stamp(nb) != source_sha(nb)]


def _stamp(notebook: Mapping) -> str | None:
    return notebook.metadata.get("xsub", {}).get("source")


def link(paths: Sequence[Path]) -> list[Path]:
    """Point badges and setup cells of the files at the address in `pyproject.toml`.

    Returns:
        The files that this changed.
    """
    address, changed = repository(), []
    for path in paths:
        before = path.read_text("utf-8")
        after = relink(before, address)
        if after != before:
            path.write_text(after, "utf-8")
            changed.append(path)
    return changed


def execute(notebook: str | Path, out: str | Path, parameters: Mapping[str, Any]) -> None:
    """Execute a notebook with other parameters and keep what came of it, outputs and all.

    Args:
        notebook: A notebook with a cell tagged `parameters`; it is not changed.
        out: Where to write the executed notebook.
        parameters: New values by name; those left out keep their defaults.

    Raises:
        ValueError: If the notebook has no such parameter.
        RuntimeError: If a cell fails; the last line names the executed notebook, which is kept.
    """
    with _without_a_grammar():
        import papermill

    _refuse_unknown(notebook, parameters)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with _sockets() as config:
        try:
            papermill.execute_notebook(
                str(notebook),
                str(out),
                parameters=dict(parameters),
                progress_bar=False,
                extra_arguments=_QUIET,
                config=config,
            )
        except Exception as error:
            raise RuntimeError(f"{notebook}: {error}\nexecuted notebook kept: {out}") from error


@contextmanager
def _without_a_grammar():
    """For an import of jsonschema, which else spends three seconds on addresses, a format that notebooks lack."""
    name = "rfc3987_syntax"
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = None
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]


@contextmanager
def _sockets():
    """Configuration of a kernel that talks through Unix sockets of its own.

    Kernels that start at once can be given the same TCP port. Sockets without a folder would lie in the
    working folder, where a kernel that runs in another one does not find them.
    """
    from traitlets.config import Config

    with TemporaryDirectory(prefix="xsub-") as folder:
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"}
        yield Config({"KernelManager": sockets, "AsyncKernelManager": sockets})


def _refuse_unknown(notebook: str | Path, parameters: Mapping[str, Any]) -> None:
    """Raise for a parameter that the notebook lacks; papermill would run it with its defaults."""
    from papermill import inspect_notebook

    known = list(inspect_notebook(str(notebook)))
    for name in parameters:
        one_of(f"parameter of {notebook}", name, known)


def _read_parameters(file: Path | None, assignments: Sequence[str]) -> dict[str, Any]:
    """Parameters of a YAML file, overridden by `name=value` assignments."""
    import yaml

    parameters = yaml.safe_load(file.read_text("utf-8")) or {} if file else {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set: {assignment!r} should read name=value")
        try:
            parameters[name] = json.loads(value)  # YAML 1.1 takes 2e-5 for a string
        except json.JSONDecodeError:
            parameters[name] = yaml.safe_load(value)
    return parameters


def _run(options: argparse.Namespace) -> None:
    for path in options.paths or committed():
        run(path)


def _check(options: argparse.Namespace) -> str:
    paths = stale(options.paths or committed())
    return "\n".join(f"{path} was edited after it was run: make notebooks" for path in paths)


def _links(options: argparse.Namespace) -> None:
    for path in link(options.paths or [*committed(), _ROOT / "README.md"]):
        print(path)


def _execute(options: argparse.Namespace) -> None:
    execute(options.notebook, options.out, _read_parameters(options.parameters, options.set))


def _parser() -> argparse.ArgumentParser:
    summary = __doc__.partition("\n")[0]
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
    except (ValueError, OSError, RuntimeError) as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main() or 0)
