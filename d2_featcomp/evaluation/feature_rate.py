"""Rates of feature bitstreams, counted in whole bytes of real bitstreams."""

import csv
import os
from collections import OrderedDict

from detectron2.evaluation import DatasetEvaluator

from .gathering import gather_rows

__all__ = ["RATE_FILE", "FeatureRateEvaluator", "find_rate_file"]

RATE_FILE = "feature_rates.csv"
_FIELDS = (
    "image",
    "bytes",
    "header_bits",
    "side_info_bits",
    "payload_bits",
    "packed_bits",
    "feature_elements",
    "pixels",
)


def find_rate_file(cfg):
    """Path of the file in which the evaluator of a config writes the rate of each image."""
    return os.path.join(cfg.OUTPUT_DIR, "inference", RATE_FILE)


class FeatureRateEvaluator(DatasetEvaluator):
    """Averages the rates of the bitstreams that outputs were computed from.

    Its group is "feature_rate":

        BPFE: bits per element of the features at the split point, before any reduction (the whole
            bitstream), and BPFE_header, BPFE_side_info, BPFE_payload, its parts. All images' bits over
            all images' elements.
        BPFE_packed: what BPFE_payload would be with fixed-length symbols of n bits, without entropy
            coding: the rate that the MSFC paper reports.
        bpp: bits per pixel of the original image.
        kB: kilobytes (1000 bytes) per image.
        times_smaller: the compression ratio, 32 / BPFE, against the features as 32-bit floats.

    Args:
        output_dir (str or None): where to write `feature_rates.csv`, a line an image.
        distributed (bool): gather the images of all processes.
    """

    collects = ("_rows",)  # see experiments/collecting.py

    def __init__(self, output_dir=None, distributed=True):
        self._output_dir = output_dir
        self._distributed = distributed
        self._rows = []

    def reset(self):
        self._rows = []

    def process(self, inputs, outputs):
        """Notes the rates of some images.

        Args:
            inputs (list[dict]): with "file_name" or "image_id".
            outputs (list[dict]): with "bitstream", as :meth:`SplitInference.cloud_inference` gives.

        Raises:
            ValueError: an output was not computed from a bitstream.
        """
        for record, output in zip(inputs, outputs, strict=True):
            stream = output.get("bitstream")
            if stream is None:
                raise ValueError(
                    "FeatureRateEvaluator needs outputs with a 'bitstream': the model must be a "
                    "SplitNetwork with MODEL.FEATCOMP.ENABLED"
                )
            height, width = stream.sizes.original
            self._rows.append(
                (
                    str(record.get("file_name", record.get("image_id", len(self._rows)))),
                    stream.total_bits // 8,
                    stream.header_bits,
                    stream.side_info_bits,
                    stream.payload_bits,
                    stream.fixed_length_bits,
                    stream.feature_elements,
                    height * width,
                )
            )

    def evaluate(self):
        """Returns {"feature_rate": {metric: value}} on the main process, None on the others."""
        rows = gather_rows(self._rows, self._distributed)
        if rows is None:
            return None
        if not rows:
            return OrderedDict(feature_rate=OrderedDict())
        rows.sort()
        if self._output_dir:
            self._write(rows)
        images, size, header, side_info, payload, fixed_length, elements, pixels = zip(
            *rows, strict=True
        )
        bits, elements = 8 * sum(size), sum(elements)
        return OrderedDict(
            feature_rate=OrderedDict(
                BPFE=bits / elements,
                BPFE_header=sum(header) / elements,
                BPFE_side_info=sum(side_info) / elements,
                BPFE_payload=sum(payload) / elements,
                BPFE_packed=sum(fixed_length) / elements,
                bpp=bits / sum(pixels),
                kB=sum(size) / len(images) / 1000,
                times_smaller=32 * elements / bits,
            )
        )

    def _write(self, rows):
        os.makedirs(self._output_dir, exist_ok=True)
        path = os.path.join(self._output_dir, RATE_FILE)
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(_FIELDS)
            writer.writerows(rows)
