"""MODEL.WEIGHTS timm://NAME: weights that timm downloads."""

import os

from detectron2.utils.file_io import PathHandler, PathManager
from iopath.common.file_io import get_cache_dir

__all__ = ["TimmHandler"]


class TimmHandler(PathHandler):
    """Finds `timm://NAME`: a file of the weights of `timm.create_model(NAME, pretrained=True)`, which is
    kept where Detectron2 keeps its downloads."""

    PREFIX = "timm://"

    def _get_supported_prefixes(self):
        return [self.PREFIX]

    def _get_local_path(self, path, force=False, **kwargs):
        from .checkpoint import save_weights

        name = path.removeprefix(self.PREFIX)
        local = os.path.join(get_cache_dir(), "timm", f"{name}.pth")
        if os.path.isfile(local) and not force:
            return local
        try:
            import timm
        except ImportError as error:
            raise ImportError(f"{path!r} needs timm: pip install 'd2_featcomp[timm]'") from error
        try:
            weights = timm.create_model(name, pretrained=True).state_dict()
        except RuntimeError as error:  # an unknown name, or one without weights
            raise ValueError(f"timm has no weights {path!r}: {error}") from error
        os.makedirs(os.path.dirname(local), exist_ok=True)
        save_weights(weights, local)
        return local

    def _open(self, path, mode="r", **kwargs):
        return PathManager.open(self._get_local_path(path), mode, **kwargs)


PathManager.register_handler(TimmHandler())
