"""Public names: all there, none loaded before it is used."""

import pkgutil
import subprocess
import sys

import pytest

import xsub_utils


@pytest.mark.parametrize("name", xsub_utils.__all__)
def test_public_names_exist(name):
    assert callable(getattr(xsub_utils, name))


def test_no_public_name_is_hidden_by_a_module():
    """Importing a submodule binds its name in the package, whatever that name meant before."""
    modules = {module.name for module in pkgutil.iter_modules(xsub_utils.__path__)}
    assert not modules & set(xsub_utils.__all__)


def test_importing_loads_nothing():
    code = "import sys, xsub_utils; assert not {'torch', 'pandas'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'head_gate'; it has .*head_gates"):
        _ = xsub_utils.head_gate
