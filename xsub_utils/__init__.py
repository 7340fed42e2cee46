"""Language subnetworks in multilingual transformers: find, compare and remove them.

Every public name stands in `__init__.pyi` and is loaded from its module when it is first used, so that `import
xsub_utils` takes no time.
"""

from importlib.metadata import version

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("xsub-utils")


def __getattr__(name: str):
    try:
        return _load(name)
    except AttributeError:
        if name in __all__:
            raise
        raise AttributeError(f"module 'xsub_utils' has no attribute '{name}'; it has {', '.join(__all__)}") from None
