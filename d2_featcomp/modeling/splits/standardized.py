"""MSFC on standardized features, for task networks that stay as they are."""

from torch import nn

from .base import FEATURE_SPLIT_REGISTRY
from .msfc import MSFC

__all__ = ["StandardizedMSFC"]


@FEATURE_SPLIT_REGISTRY.register()
class StandardizedMSFC(MSFC):
    """MSFC between a standardization and its inverse.

    The edge subtracts the mean of each channel and divides by its deviation, the cloud undoes it. So
    what is trained in between has inputs and outputs of variance 1, whatever scale the features have:
    with features of a deviation of 0.1 and norms that begin at 1, hundreds of iterations would go into
    the scale alone. Means and deviations are averages over all training iterations, as of a batch norm
    without parameters; they suit stage 2, in which the features of an image do not change.

    Args:
        settings: of :class:`MSFC`, whose config keys this split has.
    """

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        width, names = self.msff.fuse.out_channels, self.msfr.names
        pooled = {names[level]: names[source] for level, source in self.msfr.pooled}
        self.scales = nn.ModuleDict(
            {
                name: nn.BatchNorm2d(width, affine=False, momentum=None)
                for name in names
                if name not in pooled
            }
        )
        self._scale_names = {name: pooled.get(name, name) for name in names}

    def reduce(self, features):
        return super().reduce({name: scale(features[name]) for name, scale in self.scales.items()})

    def restore(self, y_hats, image_size, step_sizes=None):
        restored = super().restore(y_hats, image_size, step_sizes)
        return {name: _undo(self.scales[self._scale_names[name]], x) for name, x in restored.items()}


def _undo(norm, x):
    """The inverse of a batch norm in evaluation mode: (N, C, H, W) -> (N, C, H, W)."""
    deviation = (norm.running_var + norm.eps).sqrt()
    return x * deviation[:, None, None] + norm.running_mean[:, None, None]
