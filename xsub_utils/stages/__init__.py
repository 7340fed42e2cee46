"""The tables of the notebooks: one module a notebook, each function a tidy table out of a `Study`."""
