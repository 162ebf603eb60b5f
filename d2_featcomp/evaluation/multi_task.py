"""Accuracy of disparity and of reconstruction.

Definitions of Alvar and Bajic, "Multi-Task Learning with Compressible Features for Collaborative
Intelligence", ICIP 2019.
"""

import abc
import math
from collections import OrderedDict

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator

from ..data.disparity import read_disparity
from .gathering import gather_rows

__all__ = ["DisparityEvaluator", "ReconstructionEvaluator"]

_MAX_PSNR = 100.0  # dB, of a perfect reconstruction


class _MeanOverImages(DatasetEvaluator, abc.ABC):
    """Averages one number an image, over the images of all processes.

    Args:
        distributed (bool): gather the images of all processes.
    """

    output = ""  # of the network, that is measured
    collects = ("_values",)  # see experiments/collecting.py

    def __init__(self, distributed=True):
        self._distributed = distributed
        self._values = []

    def reset(self):
        self._values = []

    def process(self, inputs, outputs):
        for record, output in zip(inputs, outputs, strict=True):
            if self.output not in output:
                raise ValueError(
                    f"{type(self).__name__} needs outputs with {self.output!r}: check "
                    "MODEL.MULTI_TASK.HEADS"
                )
            value = self._measure(record, output[self.output].detach().cpu())
            if value is not None:
                # With the name, so that the order in which values are added is that of one process.
                self._values.append((str(record.get("file_name", "")), value))

    @abc.abstractmethod
    def _measure(self, record, prediction):
        """float, or None for an image that says nothing."""

    def _mean(self):
        """Over all images, NaN if there are none; None on all processes but the main one."""
        values = gather_rows(self._values, self._distributed)
        if values is None:
            return None
        return math.fsum(value for _, value in values) / len(values) if values else math.nan


class DisparityEvaluator(_MeanOverImages):
    """Root mean square error over the pixels of known disparity (above 0), in pixels of the original
    image.

    Its group is "disparity":

        RMSE: mean over the images.
        IRMSE: 1 / RMSE; larger is better. Infinite for a perfect prediction.

    Images without any known disparity are left out.
    """

    output = "disparity"

    def process(self, inputs, outputs):
        """Measures some images.

        Args:
            inputs (list[dict]): with "disparity_file_name", see :func:`read_disparity`.
            outputs (list[dict]): with "disparity", (height, width) float, of the size of that map.

        Raises:
            ValueError: no such output or file name, or one of another size. FileNotFoundError: no such
                map.
        """
        super().process(inputs, outputs)

    def _measure(self, record, prediction):
        path = record.get("disparity_file_name")
        if path is None:
            raise ValueError("DisparityEvaluator needs a data set with disparity_file_name")
        truth = read_disparity(path)
        if truth.shape != tuple(prediction.shape):
            raise ValueError(
                f"the disparity predicted for {path!r} is of shape {tuple(prediction.shape)}, the map "
                f"of shape {truth.shape}"
            )
        known = truth > 0
        if not known.any():
            return None
        error = prediction.numpy().astype(np.float64)[known] - truth[known]
        return float(np.sqrt(np.mean(error**2)))

    def evaluate(self):
        """Returns {"disparity": {metric: value}} on the main process, None on the others."""
        error = self._mean()
        if error is None:
            return None
        return OrderedDict(disparity=OrderedDict(RMSE=error, IRMSE=1 / error if error else math.inf))


class ReconstructionEvaluator(_MeanOverImages):
    """Peak signal to noise ratio of the input image, as the network got it (resized).

    Its group is "reconstruction":

        PSNR: dB, mean over the images, with values in [0, 1] and a peak of 1; 100 for a perfect one.
    """

    output = "reconstruction"

    def process(self, inputs, outputs):
        """Measures some images.

        Args:
            inputs (list[dict]): with "image", (3, h, w) in [0, 255].
            outputs (list[dict]): with "reconstruction", (3, h, w) float; values beyond [0, 1] are
            clamped.

        Raises:
            ValueError: no such output, or one of another size.
        """
        super().process(inputs, outputs)

    def _measure(self, record, prediction):
        image = record["image"].detach().cpu().double() / 255
        if image.shape != prediction.shape:
            raise ValueError(
                f"the reconstruction is of shape {tuple(prediction.shape)}, its image of shape "
                f"{tuple(image.shape)}"
            )
        error = float(torch.mean((prediction.double().clamp(0, 1) - image) ** 2))
        return min(-10 * math.log10(error), _MAX_PSNR) if error else _MAX_PSNR  # NaN stays NaN

    def evaluate(self):
        """Returns {"reconstruction": {metric: value}} on the main process, None on the others."""
        psnr = self._mean()
        return None if psnr is None else OrderedDict(reconstruction=OrderedDict(PSNR=psnr))
