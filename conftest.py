"""Let nbval compare what is deterministic: text and tables always, pictures only with the tested versions.

Examples in docstrings run in a folder of their own, with an artifact store of their own, and without a network.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from nbval.plugin import IPyNbFile


def pytest_collectstart(collector):
    """Ignore stderr (progress bars, warnings); compare PNG bytes if `XSUB_COMPARE_PNG=1`."""
    if not isinstance(collector, IPyNbFile):
        return
    ignored = {*collector.skip_compare, "stderr"}
    if os.environ.get("XSUB_COMPARE_PNG") == "1":
        ignored.discard("image/png")
    collector.skip_compare = tuple(sorted(ignored))


@pytest.fixture(autouse=True)
def examples_leave_no_files(request, tmp_path_factory, monkeypatch):
    """A new working folder and store for each example of a docstring."""
    if isinstance(request.node, pytest.DoctestItem):
        folder = tmp_path_factory.mktemp("example")
        monkeypatch.chdir(folder)
        monkeypatch.setenv("XSUB_HOME", str(folder / "home"))
