"""Fingerprints of what decides a run's result, so that what has changed is run again, and no more."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from source import read_notebook

from xsub_utils._internal.notebook_files import source_sha


def fingerprints(root: Path, notebook: str, data: str | None) -> dict[str, str]:
    """Fingerprints of the notebook's code cells, of the package, and of local data where there are any."""
    source = read_notebook(root / "notebooks" / f"{notebook}.ipynb")
    code = {"notebook": source_sha(source), "package": package_sha(root / "xsub_utils")}
    return code | ({"data": data_sha(Path(data))} if data else {})


def package_sha(package: Path) -> str:
    """Fingerprint of all files of the package, code and data."""
    files = [path for path in _files(package) if "__pycache__" not in path.parts]
    names = (str(path.relative_to(package)).encode() for path in files)
    return _sha(part for name, path in zip(names, files, strict=True) for part in (name, path.read_bytes()))


def data_sha(data: Path) -> str:
    """Fingerprint of a file or folder by names, sizes and times, since the files may be too large to read."""
    stats = [(path.name, path.stat()) for path in (_files(data) if data.is_dir() else [data])]
    return _sha(f"{name} {stat.st_size} {stat.st_mtime_ns}".encode() for name, stat in stats)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha(parts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]
