"""At which bandwidth a split network becomes faster, or slower, than uploading the image."""

import statistics

from ..codecs import FeatureBitstream
from ..codecs.structures import OWN_LIMITS
from ..engine import setup_config, time_call

__all__ = ["find_crossover", "make_image_config", "measure_latencies"]


def make_image_config(config_file, overrides, codec, quality):
    """Makes the config of the network before it was split, which gets a coded image.

    Args:
        config_file, overrides: of the split network, see :func:`setup_config`.
        codec (str): of colour images, e.g. "jpeg420".
        quality (float): its QUALITY.

    Returns:
        CfgNode: frozen.
    """
    changed = (
        *("MODEL.FEATCOMP.SPLIT", "ImageSplit", "MODEL.FEATCOMP.SPLIT_POINT", ""),
        *("MODEL.FEATCOMP.CODEC.NAME", codec, "MODEL.FEATCOMP.CODEC.TARGET_KB", 0.0),
        *("MODEL.FEATCOMP.CODEC.QUALITY", quality, "MODEL.FEATCOMP.CODEC.BITS", 8),
        *("MODEL.FEATCOMP.CODEC.EFFORT", None, "MODEL.FEATCOMP.CODEC.QUANTIZER", ""),
        *("MODEL.FEATCOMP.COMPRESSIBILITY.WEIGHT", 0.0),
    )
    return setup_config(config_file, [*overrides, *changed])


def measure_latencies(networks, records):
    """Measures networks on images, one after the other.

    Args:
        networks (dict[str, SplitNetwork]): in evaluation mode.
        records (iterable[dict]): Detectron2's inputs.

    Returns:
        dict[str, (float, float, float)]: medians of the seconds on the edge, the bytes of a bitstream,
        and the seconds in the cloud.

    Raises:
        ValueError: there are no images.
    """
    found = {name: [] for name in networks}
    warm = set()  # sizes: some are compiled for
    for record in records:
        for name, network in networks.items():
            if record["image"].shape not in warm:
                _measure(network, record)
            found[name].append(_measure(network, record))
        warm.add(record["image"].shape)
    if not warm:
        raise ValueError("--input holds no image")
    return {
        name: tuple(statistics.median(column) for column in zip(*rows, strict=True))
        for name, rows in found.items()
    }


def _measure(network, record):
    (features,), edge = time_call(network.edge_features, [record])
    data, coding = time_call(lambda: network.encode(features).to_bytes())
    stream = FeatureBitstream.from_bytes(data, OWN_LIMITS)
    _, cloud = time_call(lambda: network.cloud_inference([stream]))
    return edge + coding, len(data), cloud


def find_crossover(split, image):
    """Computes the bandwidth at which both take equally long.

    Args:
        split, image ((float, float)): seconds of computing, and bytes.

    Returns:
        float or None: kbit/s; None if one is faster at every bandwidth.
    """
    seconds, size = split[0] - image[0], image[1] - split[1]
    return 8 * size / seconds / 1000 if seconds * size > 0 else None
