"""Before d2_featcomp is imported: one thread, and a folder of our own for data sets."""

import os
import shutil
import tempfile

import torch

_DATASETS = tempfile.mkdtemp(prefix="d2_featcomp-tests-")
os.environ["DETECTRON2_DATASETS"] = _DATASETS
torch.set_num_threads(1)


def pytest_unconfigure():
    shutil.rmtree(_DATASETS, ignore_errors=True)
