import platform

import numpy as np
import torch

from xsub_utils._internal import provenance


def test_versions_are_those_of_the_package_and_its_direct_dependencies():
    found = provenance.versions()
    assert list(found)[:2] == ["python", "xsub-utils"] and list(found)[2:] == sorted(list(found)[2:])
    assert found["python"] == platform.python_version()
    assert "pytest" not in found
    assert found["numpy"] == np.__version__
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert "transformers" in found


def test_commit_is_a_hash_or_none():
    commit = provenance.commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 40


def test_commit_is_none_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() is None


def test_hardware_names_processor_threads_and_card():
    found = provenance.hardware()
    assert found["cpu"]
    assert found["threads"] == torch.get_num_threads()
    assert (found["gpu"] is None) == (not torch.cuda.is_available())
