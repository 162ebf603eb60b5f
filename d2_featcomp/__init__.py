"""Collaborative intelligence for Detectron2: split networks, with real feature bitstreams between.

Importing this package registers its meta-architecture, feature splits, image codecs and data sets.
"""

try:
    import detectron2 as _
except ImportError as error:
    raise ImportError(
        "d2_featcomp needs Detectron2, which cannot be imported: install it with "
        "python -m pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
    ) from error

from . import codecs, data, modeling  # registration
from .config import add_featcomp_config

__version__ = "0.1.0"
__all__ = ["add_featcomp_config"]
