"""A codec of your own: lossless JPEG 2000 for features, in twelve lines.

An image codec turns a gray image of n-bit symbols (all channels side by side) into bytes and back. The
package does the rest: quantizing, tiling, checks, header. It refuses settings that a codec lacks, and
raises BitstreamError for damaged bytes, whatever the library raises.

Measure it on any trained network, here the quick start's:

    featcomp eval --import examples/own_codec.py --config quick/msfc_R18_learned \\
        OUTPUT_DIR output/own_codec MODEL.WEIGHTS output/quickstart/trainings/msfc/model_final.pth \\
        MODEL.FEATCOMP.CODEC.NAME jpeg2000 MODEL.FEATCOMP.CODEC.BITS 2

`featcomp sweep` with the same --import and `--codecs jpeg2000,jpegxl --bits 2,4` compares it with
another codec. Edge and cloud need the same --import. For QUALITY, EFFORT and more, see the attributes of
d2_featcomp.codecs.ImageCodec. A codec with parameters is a d2_featcomp.codecs.FeatureCodec.
"""

import imagecodecs
import numpy as np

from d2_featcomp.codecs import IMAGE_CODEC_REGISTRY, ImageCodec


@IMAGE_CODEC_REGISTRY.register()
class Jpeg2000(ImageCodec):
    name = "jpeg2000"  # for MODEL.FEATCOMP.CODEC.NAME
    bit_depths = range(2, 17)

    def _encode(self, samples):
        return imagecodecs.jpeg2k_encode(samples, codecformat="j2k", reversible=True)

    @staticmethod
    def _decode(data, *, shape, depth):
        frame = np.empty(shape, np.uint8 if depth <= 8 else np.uint16)
        return imagecodecs.jpeg2k_decode(data, out=frame)  # a payload of another size is refused
