"""The compressibility loss of MTL."""

import torch
from detectron2.modeling import build_model

from ..engine import setup_config
from ..ops import compressibility_loss
from .common import median_times, share, times_faster

_OF_ENCODER_1 = 20, 512, 8, 16
_OF_ENCODER_2 = 20, 256, 16, 32


def _one_channel(channel, down, right, dct_down, dct_right):
    residual = (down.T @ channel + channel @ right) / 2
    return (dct_down @ residual @ dct_right.T).abs().sum()


def _matrices(size, device):
    difference = torch.eye(size, device=device)
    difference.diagonal(1).fill_(-1)
    positions = torch.arange(size, device=device)
    dct = torch.cos((2 * positions + 1) * positions[:, None] * (torch.pi / (2 * size)))
    dct *= (2 / size) ** 0.5
    dct[0] /= 2**0.5
    return difference, dct


def _loss_one_by_one(x, channels):
    """The compressibility loss as it is printed, one of `channels` after another."""
    total = 0.0
    for channel in channels:
        (down, dct_down), (right, dct_right) = (_matrices(n, x.device) for n in channel.shape)
        total = total + _one_channel(channel, down, right, dct_down, dct_right)
    return total / x.numel()


def loss_by_image_and_channel(x):
    """A loop over indices: each x[n, c] has a gradient as large as x."""
    images, channels = x.shape[:2]
    return _loss_one_by_one(x, (x[n, c] for n in range(images) for c in range(channels)))


def loss_by_view(x):
    """The same, but over views that autograd puts together again at once."""
    return _loss_one_by_one(x, (channel for image in x for channel in image))


def loss_by_channel(x):
    """A loop over the channels, the images at once, the matrices made once."""
    (down, dct_down), (right, dct_right) = (_matrices(n, x.device) for n in x.shape[-2:])
    matrices = down, right, dct_down, dct_right
    return sum(_one_channel(x[:, i], *matrices) for i in range(x.shape[1])) / x.numel()


def forward_and_backward(function, x):
    def run():
        x.grad = None
        function(x).backward()

    return run


def benchmark_compressibility_loss(settings):
    """The loss, forward and backward, against loops; and its share of a training iteration."""
    for shape in (_OF_ENCODER_1, _OF_ENCODER_2):
        what = f"compressibility loss, {shape}, forward and backward"
        x = torch.randn(shape, device=settings.device, requires_grad=True)
        variants = {
            "batched": forward_and_backward(compressibility_loss, x),
            "loop over channels": forward_and_backward(loss_by_channel, x),
        }
        slow_variants = {
            "loop over images and channels": forward_and_backward(loss_by_image_and_channel, x),
            "loop over images and channels, unbound first": forward_and_backward(loss_by_view, x),
        }
        values = [function(x.detach()) for function in (compressibility_loss, loss_by_channel)]
        torch.testing.assert_close(*values, rtol=1e-5, atol=0)
        repeats = {"batched": settings.repeats * 2, "loop over channels": settings.repeats}
        seconds = median_times(variants, repeats, settings.device)
        seconds |= median_times(slow_variants, 1, settings.device, warm_up=0)
        goals = {"loop over images and channels": 100, "loop over channels": 6}
        for other in list(seconds)[1:]:
            yield times_faster(what, other, seconds["batched"], seconds[other], goals.get(other))
        if shape == _OF_ENCODER_2:
            once = {"once": _train_once(settings.device)}
            whole = median_times(once, 1, settings.device, warm_up=0)["once"]
            against = "first training iteration, configs/mtl_R34_encoder2.yaml, 20 images"
            yield share(what, against, seconds["batched"], whole)


def _train_once(device):
    torch.manual_seed(0)
    cfg = setup_config("mtl_R34_encoder2", ["MODEL.DEVICE", str(device)])
    model = build_model(cfg).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batch = [
        {
            "image": torch.randint(0, 256, (3, 256, 512), dtype=torch.uint8),
            "sem_seg": torch.randint(0, 19, (256, 512)),
            "disparity": torch.rand(256, 512) * 50,
        }
        for _ in range(20)
    ]

    def run():
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()

    return run
