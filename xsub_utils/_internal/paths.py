"""Where the project keeps things.

Notebooks run in many working folders (JupyterLab and nbval take the notebook's own, papermill the caller's,
Colab `/content`), so that a relative path means something else in each. Every path starts from `home()`.
"""

import os
import tomllib
from pathlib import Path

import platformdirs

from xsub_utils._internal.validation import invalid

PROJECT = "xsub-utils"
DEFAULT_STUDY = "minibabel"


def home() -> Path:
    """Folder that holds `artifacts/` and `figures/`.

    Returns:
        The environment variable `XSUB_HOME` if it is set; otherwise the nearest folder, from the working
        folder upwards, whose `pyproject.toml` is this project's; otherwise the user's cache folder for
        xsub-utils, so that a script leaves no file where it runs. Absolute.
    """
    if chosen := os.environ.get("XSUB_HOME"):
        return Path(chosen).expanduser().resolve()
    here = Path.cwd()
    checkout = next((folder for folder in (here, *here.parents) if _is_project(folder)), None)
    return checkout or platformdirs.user_cache_path("xsub-utils")


def artifacts() -> Path:
    """Folder of the artifact store: models, masks and scores that can be built again (see `store`)."""
    return home() / "artifacts"


def figures(study: str = DEFAULT_STUDY) -> Path:
    """Folder of a study's figures and of the tables that they are drawn from; created if absent.

    Args:
        study: Name of the study. Its folder is `figures/<study>/`.

    Raises:
        ValueError: If `study` cannot name a folder.
    """
    if study in ("", ".", "..") or Path(study).name != study:
        raise invalid("study", f"a plain name such as {DEFAULT_STUDY!r}", repr(study))
    folder = home() / "figures" / study
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _is_project(folder: Path) -> bool:
    try:
        settings = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, unreadable or not TOML: someone else's folder
        return False
    return settings.get("project", {}).get("name") == PROJECT
