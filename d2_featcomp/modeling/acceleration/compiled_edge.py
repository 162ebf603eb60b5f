"""The edge sub-model through torch.compile."""

import logging
import time

import torch

__all__ = ["CompiledEdge"]

MOST_SIZES = 8  # torch.compile's own limit


class CompiledEdge:
    """Compiles a function of images: each image size, and number of images at once, when it first comes,
    which takes half a minute; after eight of them, others run uncompiled.

    Args:
        encode (callable): (N, C, h, w) -> list[Tensor], without gradients.
    """

    def __init__(self, encode):
        self._compiled = torch.compile(encode, dynamic=False, options={"freezing": True})
        self._plain = encode
        self._seen = set()

    def __call__(self, images):
        if images.shape in self._seen:
            return self._compiled(images)
        if len(self._seen) >= MOST_SIZES:
            return self._plain(images)
        start = time.perf_counter()
        outputs = self._compiled(images)
        self._seen.add(images.shape)
        logging.getLogger("d2_featcomp").info(
            "compiled the edge sub-model for %d image(s) of %d x %d in %.1f s",
            len(images),
            *images.shape[-2:],
            time.perf_counter() - start,
        )
        return outputs
