"""MODEL.WEIGHTS timm://NAME: weights that timm downloads."""

import os

from detectron2.utils.file_io import PathHandler, PathManager
from iopath.common.file_io import file_lock, get_cache_dir

from .checkpoint import save_weights

__all__ = ["TimmHandler"]


class TimmHandler(PathHandler):
    """Finds `timm://NAME`: a file of the weights of `timm.create_model(NAME, pretrained=True)`, which is
    kept where Detectron2 keeps its downloads."""

    PREFIX = "timm://"

    def _get_supported_prefixes(self):
        return [self.PREFIX]

    def _get_local_path(self, path, force=False, **kwargs):
        name = path.removeprefix(self.PREFIX)
        local = os.path.join(get_cache_dir(), "timm", f"{name}.pth")
        os.makedirs(os.path.dirname(local), exist_ok=True)
        with file_lock(local):  # of several processes, one downloads
            if force or not os.path.isfile(local):
                save_weights(_download(name), local)
        return local

    def _open(self, path, mode="r", **kwargs):
        return PathManager.open(self._get_local_path(path), mode, **kwargs)


def _download(name):
    """Returns dict[str, Tensor]: weights, as timm names them."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"MODEL.WEIGHTS timm://{name} needs timm: pip install 'd2_featcomp[timm]'"
        ) from error
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except RuntimeError as error:  # an unknown name, or one without weights
        raise ValueError(f"timm has no weights timm://{name}: {error}") from error


PathManager.register_handler(TimmHandler())
