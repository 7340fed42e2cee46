"""A notebook as a hosted service opens it: an empty folder, dependencies installed, the package not.

The setup cell installs the package from its published address; git is told to find that in this working tree.
"""

import json
import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from xsub_utils._internal.fingerprint import code_digests
from xsub_utils._internal.notebook_files import committed, repository
from xsub_utils.heads.search import find_subnetwork

ROOT = Path(__file__).parents[1]
# The fastest of several processes, by its own clock: others may keep the machine busy.
SECONDS = """
import time
start = time.process_time()
import xsub_utils
print(time.process_time() - start)
"""
DIGESTS = """
import json
from xsub_utils._internal.fingerprint import code_digests
from xsub_utils.heads.search import find_subnetwork
print(json.dumps(code_digests(find_subnetwork)))
"""
NOT_PUBLISHED = shutil.ignore_patterns(".*", "artifacts", "runs", "build", "*.egg-info", "__pycache__")


@pytest.fixture
def published(tmp_path):
    """The working tree as a git repository with one commit."""
    shutil.copytree(ROOT, tmp_path / "published", ignore=NOT_PUBLISHED)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "snapshot"]):
        subprocess.run(["git", *command], cwd=tmp_path / "published", check=True)
    return tmp_path / "published"


@pytest.fixture
def python(tmp_path):
    """An interpreter that sees everything installed here except this package."""
    preinstalled = tmp_path / "preinstalled"
    preinstalled.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "xsub_utils" not in entry.name:
            (preinstalled / entry.name).symlink_to(entry)
    home = tmp_path / "environment"
    venv.create(home)
    site_packages = sysconfig.get_path("purelib", "venv", {"base": home, "platbase": home})
    Path(site_packages, "preinstalled.pth").write_text(str(preinstalled))
    return home / "bin" / "python"


@pytest.fixture
def environment(tmp_path, published):
    """Environment variables: the address leads to `published`, no package index can be reached."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("XSUB_", "PIP_", "PYTHON", "GIT_"))}
    return kept | {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{published}.insteadOf",
        "GIT_CONFIG_VALUE_0": repository(),
        "JUPYTER_DATA_DIR": str(tmp_path / "jupyter"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_BUILD_ISOLATION": "0",  # means no isolation: the value is that of `build_isolation`
        "PIP_NO_INDEX": "1",
    }


@pytest.mark.slow
@pytest.mark.skipif(not committed(), reason="there is no notebook yet")
def test_first_notebook_installs_the_package_and_runs(tmp_path, python, environment):
    content = tmp_path / "content"
    content.mkdir()

    def run(*arguments):
        command = [python, *arguments]
        return subprocess.run(command, cwd=content, env=environment, capture_output=True, text=True)

    assert "No module named 'xsub_utils'" in run("-c", "import xsub_utils").stderr
    done = run("-m", "papermill", committed()[0], "executed.ipynb", "--kernel", "python3")
    assert done.returncode == 0, done.stderr
    package = Path(run("-c", "import xsub_utils; print(xsub_utils.__file__)").stdout).parent
    assert package.is_relative_to(tmp_path / "environment")
    assert {path.name for path in package.iterdir()} >= {"py.typed", "__init__.pyi"}
    installed, here = (root / "study" / "configs" for root in (package, ROOT / "xsub_utils"))
    assert {path.name for path in installed.iterdir()} == {path.name for path in here.iterdir()}
    assert json.loads(run("-c", DIGESTS).stdout) == code_digests(find_subnetwork)
    assert min(float(run("-c", SECONDS).stdout) for _ in range(5)) < 0.2
