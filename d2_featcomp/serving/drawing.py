"""Draws a result onto the features that it was found in: the image itself never reaches the cloud."""

from ..deploy.classes import make_categories
from ..deploy.pictures import collect_metadata, draw_feature_map, draw_outputs
from ..deploy.pictures.colours import heat_colours
from ..deploy.pictures.layout import MIN_SIDE
from .outputs import read_map, read_outputs
from .results import DISPARITY_SCALE

__all__ = ["draw_on_features"]

_LONG_SIDE = 1024  # px, at most, of a picture; the short one as that of all that is drawn
_MOST_INSTANCES = 50


def draw_on_features(network, stream, result, class_names=(), threshold=0.5):
    """Draws boxes, masks, keypoints, segments or disparity onto the map of the features.

    Args:
        network (SplitInference): whose cloud sub-model made the result.
        stream (FeatureBitstream): the bitstream.
        result (dict): of :func:`make_result`, with its maps.
        class_names (sequence[str or dict]): as :func:`make_result` takes them.
        threshold (float): instances of a lower score are left out, and those beyond the 50 best.

    Returns:
        ndarray: (h, w, 3) uint8 RGB.

    Raises:
        BitstreamError: the bitstream is not of this network.
    """
    height, width = result["height"], result["width"]
    scale = min(1.0, MIN_SIDE / min(height, width), _LONG_SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    latents = [latent.cpu().numpy() for latent in network.decode(stream)]
    ground = draw_feature_map(latents, stream.sizes, size)
    maps = result.get("maps", {})
    if "disparity" in maps and "segmentation" not in maps:
        return _draw_disparity(maps["disparity"], size)
    categories = make_categories(class_names)
    outputs = read_outputs(result, size, categories, threshold, _MOST_INSTANCES)
    return draw_outputs(ground, outputs, collect_metadata(outputs, categories), threshold)


def _draw_disparity(data, size):
    values = (read_map(data, size) - 1) / DISPARITY_SCALE
    return heat_colours(values / max(float(values.max()), 1e-6))
