"""First weights for MSFC: principal components of the pyramid, and what restores it best from them."""

import torch

from ...ops import ChannelMoments, ConvolutionFit
from .msfr import SubpixelConv2d
from .resampling import align_size, space_to_depth

__all__ = ["require_fit", "start_from_components"]

# Weight of the squared coefficients of the convolutions between levels: thousands of inputs, few images.
_RIDGE = 0.03
# Positions of an image that such a convolution is fitted to, at most.
_POSITIONS = 2000


def require_fit(split):
    """Requires parts of MSFC that :func:`start_from_components` can fit.

    Raises:
        ValueError: there are no lateral convolutions, the latent is wider than the features, or a norm
        does not keep statistics.
    """
    if not split.msfr.laterals:
        raise ValueError(
            "MODEL.FEATCOMP.MSFC.FIT_IMAGES needs MODEL.FEATCOMP.MSFR.LATERAL True: without it levels "
            "have no weights of their own"
        )
    width = split.msff.fuse.out_channels
    if split.channels > width:
        raise ValueError(
            f"MODEL.FEATCOMP.MSFC.FIT_IMAGES finds at most {width} components, the features' "
            f"channels: set MODEL.FEATCOMP.SSFC.CHANNELS, now {split.channels}, to {width} or less"
        )
    norms = {"SSFC.NORM": split.encoder.conv.norm, "SSFC.DECODER_NORM": split.decoder.conv.norm}
    for level, _ in split.msfr.steps:
        norms["MSFR.NORM"] = getattr(split.msfr, split.msfr.names[level]).norm
    for key, norm in norms.items():
        if norm is not None and not hasattr(norm, "running_var"):
            raise ValueError(
                f"MODEL.FEATCOMP.MSFC.FIT_IMAGES can fit no {type(norm).__name__}: set "
                f'MODEL.FEATCOMP.{key} to "", BN or SyncBN, or FIT_IMAGES to 0'
            )


@torch.no_grad()
def start_from_components(split, pyramids, quantize, channel_weights=None):
    """Gives MSFC weights with which it restores the features of a network as it is.

    On the edge, MSFF and SSFC compute the first C' principal components of the fused levels, each of
    variance 1 before its activation. In the cloud the decoder computes, from the quantized latent,
    half as many features as it has channels, each with both signs, so that PReLU loses nothing; lateral
    convolutions, and then the convolutions between levels, add what predicts each level best. It is
    least squares throughout: the same images give the same weights. Training goes on from there.

    Args:
        split (MSFC): changed in place.
        pyramids (list[dict[str, Tensor]]): features of one or more images each, (N, C, H, W) float.
        quantize (callable): latent (N, C', H', W') -> what the cloud gets for it, of the same shape.
        channel_weights (dict[str, Tensor] or None): of each fused level, (C,) float, how much an error
            of a channel counts, e.g. by `measure_channel_weights`; None lets all channels of the fused
            map count alike.

    Raises:
        ValueError: see :func:`require_fit`; or there are no images.
    """
    require_fit(split)
    scales = _find_scales(split, pyramids, channel_weights)
    components, deviations, mean = _find_components(split, pyramids, scales)
    _start_edge(split, components, deviations, mean)
    y_hats = [quantize(split.reduce(pyramid)[0]) for pyramid in pyramids]
    half = split.msff.fuse.out_channels // 2
    _start_decoder(split, zip(y_hats, pyramids, strict=True), components[:half], mean)
    _start_msfr(split, y_hats, pyramids)


def _fuse(split, pyramid):
    """What MSFF's convolution gets if all channels have a weight of one half: (N, levels * C, H, W)."""
    return split.msff.align([pyramid[name] for name in split.fused]) / 2


def _find_components(split, pyramids, scales):
    """Principal components of the fused levels times `scales`, as rows that take what is not scaled,
    their deviations, and the mean of what is fused."""
    moments = ChannelMoments()
    for pyramid in pyramids:
        moments.update(_fuse(split, pyramid))
    mean, _ = moments.find_moments()
    variances, vectors = moments.find_components(scales)
    deviations = variances.clamp(min=1e-12).sqrt()
    return vectors.T.float() * scales, deviations.float(), mean.float()


def _find_scales(split, pyramids, channel_weights):
    """What each fused channel is multiplied with, so that squares count as `channel_weights` say."""
    if channel_weights is None:
        return split.msff.fuse.weight.new_ones(split.msff.fuse.in_channels)
    pyramid, rows = next(iter(pyramids)), []
    positions = pyramid[split.fused[split.msff.level]].shape[-2:].numel()
    for name, scale in zip(split.fused, split.msff.scales, strict=True):
        share = pyramid[name].shape[-2:].numel() / positions / scale**2
        rows.append((channel_weights[name] * share).sqrt().repeat_interleave(scale**2))
    return torch.cat(rows)


def _start_edge(split, components, deviations, mean):
    attention, fuse, conv = split.msff.attention, split.msff.fuse, split.encoder.conv
    attention.excite.weight.zero_()
    attention.excite.bias.zero_()
    width, centre = fuse.out_channels, fuse.kernel_size[0] // 2
    fuse.weight.zero_()
    fuse.weight[:, :, centre, centre] = components[:width]
    fuse.bias.copy_(-components[:width] @ mean)
    channels, centre = conv.out_channels, conv.kernel_size[0] // 2
    weight, index = torch.zeros_like(conv.weight), torch.arange(channels)
    weight[index, index, centre, centre] = 1 / deviations[:channels]
    zeros = weight.new_zeros(channels)
    _set_convolution(conv, weight, zeros, zeros, zeros + 1)


def _start_decoder(split, images, components, mean):
    conv = split.decoder.conv
    fit = ConvolutionFit(conv.kernel_size[0])
    for y_hat, pyramid in images:
        centred = _fuse(split, pyramid) - mean.view(1, -1, 1, 1)
        fit.update(y_hat, torch.einsum("nchw,kc->nkhw", centred, components))
    weight, bias = fit.solve()
    _, variance = fit.output_moments(weight)
    deviation = variance.clamp(min=1e-6).sqrt()
    weight, bias = weight / deviation.view(-1, 1, 1, 1), bias / deviation
    odd = conv.out_channels - 2 * len(weight)  # 0 or 1
    weight = torch.cat([weight, -weight, torch.zeros_like(weight[:odd])])
    bias = torch.cat([bias, -bias, torch.zeros_like(bias[:odd])])
    _set_convolution(conv, weight, bias, *fit.output_moments(weight))


def _start_msfr(split, y_hats, pyramids):
    msfr = split.msfr
    for name, lateral in msfr.laterals.items():
        fit = ConvolutionFit(1)
        for y_hat, pyramid in zip(y_hats, pyramids, strict=True):
            fit.update(_align(msfr, split.decoder(y_hat), pyramid[name]), pyramid[name])
        weight, bias = fit.solve(ridge=1e-3)
        lateral.weight.copy_(weight)
        lateral.bias.copy_(bias)
    convolutions = {level: getattr(msfr, msfr.names[level]) for level, _ in msfr.steps}
    for conv in convolutions.values():  # so that rebuilt levels are what lateral convolutions give
        inner = _inner(conv)
        zeros = inner.weight.new_zeros(inner.out_channels)
        _set_convolution(conv, torch.zeros_like(inner.weight), zeros, zeros, zeros)
    for level, source in msfr.steps:
        name, conv, fit = msfr.names[level], convolutions[level], ConvolutionFit()
        for y_hat, pyramid in zip(y_hats, pyramids, strict=True):
            rebuilt = msfr(split.decoder(y_hat), msfr.find_image_size(pyramid))
            x, missing = rebuilt[msfr.names[source]], pyramid[name] - rebuilt[name]
            if isinstance(conv, SubpixelConv2d):
                fit.update(x, space_to_depth(missing, x.shape[-2:], conv.scale), _POSITIONS)
            else:
                fit.update(_align(msfr, x, missing), missing, _POSITIONS)
        weight, bias = fit.solve(_RIDGE)
        _set_convolution(conv, weight, bias, *fit.output_moments(weight))


def _align(msfr, x, level):
    return align_size(x, level.shape[-2:], down=msfr.downsample, up=msfr.upsample)


def _inner(conv):
    return conv.conv if isinstance(conv, SubpixelConv2d) else conv


def _set_convolution(conv, weight, bias, mean, variance):
    """Sets weights so that a convolution with its norm gives `weight` * x + `bias`, where `weight` * x
    has this mean and variance."""
    inner = _inner(conv)
    inner.weight.copy_(weight)
    if conv.norm is None:
        inner.bias.copy_(bias)
        return
    if inner is not conv:  # its norm comes after the blocks are laid out
        bias, mean, square = (
            x.view(-1, conv.scale**2).mean(dim=1) for x in (bias, mean, variance + mean.square())
        )
        variance = square - mean.square()
    conv.norm.running_mean.copy_(mean)
    conv.norm.running_var.copy_(variance)
    # Where nothing varies there is nothing to scale.
    conv.norm.weight.copy_(torch.where(variance > 0, (variance + conv.norm.eps).sqrt(), 0.0))
    conv.norm.bias.copy_(mean + bias)
