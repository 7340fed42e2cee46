"""One thread, no network: what every test may rely on."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from tiny import encoder, reviews, tokenizer  # noqa: F401 (fixtures)

torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    """Skip the tests that need the hub unless `-m network` asks for them; begin with the files that take longest."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # at the end, one process would wait for the other
    if "network" in config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("network"):
            item.add_marker(pytest.mark.skip(reason="needs the hub: pytest -m network"))


@pytest.fixture(scope="module")
def module_home(tmp_path_factory):
    """A store for all tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XSUB_HOME", str(tmp_path_factory.mktemp("home")))
        yield
