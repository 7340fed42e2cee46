"""Let nbval compare what is deterministic: text and tables always, pictures only with the tested versions."""

import os

from nbval.plugin import IPyNbFile


def pytest_collectstart(collector):
    """Ignore stderr (progress bars, warnings); compare PNG bytes if `XSUB_COMPARE_PNG=1`."""
    if not isinstance(collector, IPyNbFile):
        return
    ignored = {*collector.skip_compare, "stderr"}
    if os.environ.get("XSUB_COMPARE_PNG") == "1":
        ignored.discard("image/png")
    collector.skip_compare = tuple(sorted(ignored))
