"""Unit tests run side by side, one per core: PyTorch must not use all cores in each of them."""

from __future__ import annotations

import os

import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
