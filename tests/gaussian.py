"""Representations drawn from normal distributions, for tests of similarity measures."""

import torch


def gaussian(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(rows=60, columns=8, others=6, noise=1.0):
    x = gaussian(rows, columns)
    return x, x @ gaussian(columns, others, 1) + noise * gaussian(rows, others, 2) + 0.5


def rotation(size, seed=3):
    return torch.linalg.qr(gaussian(size, size, seed)).Q
