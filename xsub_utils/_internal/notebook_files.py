"""Notebook files: what they share, what decides that a committed one is fresh, and where they lead.

A committed notebook is *fresh* when the fingerprint in its metadata is that of its code cells. `normalise` writes the
fingerprint, and drops whatever differs between two runs.
"""

import base64
import hashlib
import io
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xsub_utils._internal.io import write_text_atomic
from xsub_utils._internal.validation import invalid

ROOT = Path(__file__).parents[2]
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

Notebook = Any  # an `nbformat.NotebookNode`, of an extra that this module does without


def committed() -> list[Path]:
    """Paths of the numbered notebooks of this repository, in order."""
    return sorted(ROOT.glob("notebooks/[0-9][0-9]_*.ipynb"))


def repository() -> str:
    """Address of the published repository, as `pyproject.toml` gives it."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["repository"]


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
        raise invalid("address", "https://github.com/OWNER/NAME", repr(address))
    return slug


def source_sha(notebook: Notebook) -> str:
    """Fingerprint of what the notebook computes: 12 hex digits of its code cells.

    Outputs, prose and the address that the setup cell installs from leave it unchanged.
    """
    code = "\0".join(_ADDRESS.sub("", cell.source) for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:12]


def normalise(notebook: Notebook) -> Notebook:
    """The same notebook, changed in place: without anything that differs between runs, stamped with its fingerprint.

    Sources, tags, execution counts and outputs stay, but for the outputs to stderr.
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


def stale(paths: Sequence[Path]) -> list[Path]:
    """The notebooks whose code was edited after their outputs were made."""
    import nbformat

    notebooks = {path: nbformat.read(path, as_version=4) for path in paths}
    return [path for path, nb in notebooks.items() if _stamp(nb) != source_sha(nb)]


def _stamp(notebook: Notebook) -> str | None:
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
            write_text_atomic(path, after)
            changed.append(path)
    return changed
