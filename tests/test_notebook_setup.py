"""The process of a notebook."""

import os

import pytest
import torch

from xsub_utils._internal.notebook_setup import setup


@pytest.fixture
def process(monkeypatch):
    """An environment and a thread count that are put back afterwards."""
    monkeypatch.setattr(os, "environ", {})
    threads = torch.get_num_threads()
    yield os.environ
    torch.set_num_threads(threads)


def test_one_thread_unless_told_otherwise(process):
    setup()
    assert torch.get_num_threads() == 1
    process["XSUB_THREADS"] = "2"
    setup()
    assert torch.get_num_threads() == 2


def test_libraries_are_quiet_unless_told_otherwise(process):
    process["TRANSFORMERS_VERBOSITY"] = "info"
    setup()
    assert process["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    assert process["TRANSFORMERS_VERBOSITY"] == "info"
