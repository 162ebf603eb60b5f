"""From features to bytes and back."""

import os
import shutil
import subprocess
import tempfile

import numpy as np
import torch

from ..codecs import (
    FeatureBitstream,
    ImageSizes,
    LearnedFeatureCodec,
    QuantizedFeatureCodec,
    build_image_codec,
    compress_stream,
    decompress_stream,
)
from ..codecs.structures import OWN_LIMITS
from ..ops import quantize_minmax, quantize_uniform, tile_channels
from .common import median_times, share, times_faster
from .networks import BAF, BAF_SIZE, MSFC, random_network, random_record

CORRELATION = 0.9  # of neighbours: then PNG and JPEG XL need what they need for features of MSFC
CPU = torch.device("cpu")
_X265 = "qp=24:ipratio=1:keyint=1:info=0:log-level=none:pools=none:frame-threads=1"  # as the codec's


def random_features(channels, height, width):
    """Gaussian features whose neighbours are correlated, (C, H, W) float."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(channels, height, width, generator=generator)
    fresh = (1 - CORRELATION**2) ** 0.5
    for row in range(1, height):
        x[:, row] = CORRELATION * x[:, row - 1] + fresh * x[:, row]
    for column in range(1, width):
        x[:, :, column] = CORRELATION * x[:, :, column - 1] + fresh * x[:, :, column]
    return x


def _codec(name, bits, quantizer, **more):
    image_codec = build_image_codec(name, bits=bits, **more)
    return QuantizedFeatureCodec(image_codec=image_codec, quantizer=quantizer)


def _compress(codec, x):
    size = (8 * x.shape[1], 8 * x.shape[2])
    return compress_stream(
        [x],
        codec,
        split="MSFC",
        fingerprint=b"\0\0\0\0",
        sizes=ImageSizes(padded=size, resized=size, original=size),
        feature_elements=x.numel(),
    )


def quantize_by_channel(x, bits):
    """The same symbols in the same tiles, one channel after the other, in NumPy."""
    channels, height, width = x.shape
    columns = round(channels**0.5)
    image = np.empty((channels // columns * height, columns * width), np.uint8)
    for index, channel in enumerate(x):
        if not np.isfinite(channel).all():
            raise ValueError("not finite")
        low, high = np.float16(channel.min()), np.float16(channel.max())
        if low > channel.min():
            low = np.nextafter(low, np.float16(-np.inf))
        if high < channel.max():
            high = np.nextafter(high, np.float16(np.inf))
        step = (np.float32(high) - np.float32(low)) / np.float32(2**bits - 1)
        symbols = np.rint((channel - np.float32(low)) / step).clip(0, 2**bits - 1)
        row, column = divmod(index, columns)
        tile = slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width)
        image[tile] = symbols.astype(np.uint8)
    return image


def tile_by_value(symbols):
    """Tiling with nested loops."""
    channels, height, width = symbols.shape
    columns = round(channels**0.5)
    image = np.empty((channels // columns * height, columns * width), np.uint8)
    for index in range(channels):
        row, column = divmod(index, columns)
        for y in range(height):
            for x in range(width):
                image[row * height + y, column * width + x] = symbols[index, y, x]
    return image


@torch.inference_mode()
def benchmark_quantizer(settings):
    """Quantizing and tiling 64 channels of 64 x 64 against loops."""
    x, bits = random_features(64, 64, 64), 6

    def ours():
        return tile_channels(quantize_minmax(x, bits, per_channel=True)[0])

    symbols, _, _ = quantize_minmax(x, bits, per_channel=True)
    if not (ours().numpy() == quantize_by_channel(x.numpy(), bits)).all():
        raise RuntimeError("the loop gives other symbols")
    repeats = 10 * settings.repeats
    seconds = median_times(
        {"ours": ours, "by channel": lambda: quantize_by_channel(x.numpy(), bits)}, repeats, CPU
    )
    seconds |= median_times(
        {"tile": lambda: tile_channels(symbols), "by value": lambda: tile_by_value(symbols.numpy())},
        {"tile": repeats, "by value": settings.few},
        CPU,
    )
    what = "quantize and tile, C=64, 64x64, n=6"
    yield times_faster(what, "NumPy, a loop over channels", seconds["ours"], seconds["by channel"], 5)
    yield times_faster("tile alone", "nested loops", seconds["tile"], seconds["by value"], 500)


@torch.inference_mode()
def benchmark_codec(settings):
    """The default codec as a part of the edge sub-model; and reading a container as a part of
    decoding."""
    for config, bits, quantizer, size, goal in (
        (MSFC, 4, "fixed", settings.size, 0.01),
        (BAF, 6, "channel", BAF_SIZE, 0.04),
    ):
        network = random_network(config, settings.device)
        record = random_record(size)
        (features,) = network.edge_features([record])
        # Features of a network that learned nothing are noise: code such as it would give.
        channels, height, width = features.tensors[0].shape
        x = random_features(channels, height, width)
        x = (torch.tanh(x) if quantizer == "fixed" else x).to(settings.device)
        codec = _codec("jpegxl", bits, quantizer)
        stream = _compress(codec, x)
        data = stream.to_bytes()
        seconds = median_times(
            {
                "edge": lambda n=network, r=record: n.edge_features([r]),
                "codec": lambda c=codec, x=x: _compress(c, x).to_bytes(),
                "read": lambda d=data: FeatureBitstream.from_bytes(d, OWN_LIMITS),
                "decode": lambda c=codec, s=stream: decompress_stream(s, c),
            },
            {"edge": settings.few, "codec": settings.repeats, "read": 50, "decode": settings.repeats},
            settings.device,
        )
        name = network.split_name
        what = f"{name}: quantize, tile, code, container ({channels}x{height}x{width}, n={bits})"
        goal = goal if settings.device.type == "cpu" else None  # a GPU is quicker, and the codec is not
        yield share(what, "edge sub-model, default", seconds["codec"], seconds["edge"], goal)
        yield share(
            f"{name}: read and check a container",
            "decoding it",
            seconds["read"],
            seconds["decode"],
            0.05,
        )


def benchmark_learned(settings):
    """The learned codec as a part of the edge sub-model, for maps of MSFC and of the quick start."""
    quick = "quick/msfc_R18_learned"
    for config, size, bits in ((MSFC, settings.size, 4), (quick, settings.at_most(192, 256), 2)):
        network = random_network(config, settings.device)
        network.accelerate("fused")
        record = random_record(size)
        (features,) = network.edge_features([record])
        x = torch.tanh(random_features(*features.tensors[0].shape)).to(settings.device)
        codec = LearnedFeatureCodec(channels=[len(x)], bits=bits)
        _give_opinions(codec.eval())
        # Not by `compress`: of random opinions it would send fixed-length symbols.
        (model,), payload = codec.integer_models(), codec.encode_symbols(codec.find_symbols(x), 0)
        seconds = median_times(
            {
                "edge": lambda n=network, r=record: n.edge_features([r]),
                "encode": lambda c=codec, x=x: c.encode_symbols(c.find_symbols(x), 0),
                "decode": lambda m=model, p=payload, s=x.shape: m.decode(p, s),
            },
            {"edge": settings.few, "encode": settings.repeats, "decode": settings.repeats},
            settings.device,
        )
        name = "x".join(map(str, x.shape))
        goal = 0.05 if config == MSFC and settings.device.type == "cpu" else None
        for part in ("encode", "decode"):
            what = f"codec learned: {part}, {name}, n={bits}"
            yield share(what, "edge sub-model, fused", seconds[part], seconds["edge"], goal)


@torch.no_grad()
def _give_opinions(codec):
    """Outputs that differ from symbol to symbol, as those of a trained model."""
    generator = torch.Generator().manual_seed(0)
    for model in codec.context_models:
        model.head_weight.normal_(std=0.3, generator=generator)
    codec.update()


def benchmark_lossless(settings):
    """JPEG XL of effort 2 against PNG of level 6."""
    x = torch.tanh(random_features(64, 25, 42))
    image = tile_channels(quantize_uniform(x, 4, -1.0, 1.0)).numpy()
    codecs = {
        "jpegxl": build_image_codec("jpegxl", bits=4, effort=2),
        "png": build_image_codec("png", bits=4, effort=6),
    }
    data = {name: codec.encode(image) for name, codec in codecs.items()}
    variants = {(name, "encode"): lambda c=codec: c.encode(image) for name, codec in codecs.items()}
    for name, codec in codecs.items():
        variants[name, "decode"] = lambda c=codec, d=data[name]: c.decode(
            d, shape=image.shape, bits=4, lossless=True
        )
    seconds = median_times(variants, 3 * settings.repeats, CPU)
    sizes = [len(data[name]) for name in ("jpegxl", "png")]
    what, against = "jpegxl effort 2 of MSFC-like symbols, n=4", "PNG level 6"
    yield {**share(f"{what}: bytes", against, *sizes, 0.8), "unit": "bytes"}
    for part, goal in (("encode", 1.0), ("decode", 3.0)):
        times = [seconds[name, part] for name in ("jpegxl", "png")]
        yield share(f"{what}: {part}", against, *times, goal)


def benchmark_hevc(settings):
    """HEVC in process against the ffmpeg program with temporary files, where it is installed."""
    program = shutil.which("ffmpeg")
    try:
        codecs = {
            preset: build_image_codec("hevc", bits=8, quality=24, effort=effort)
            for preset, effort in (("medium", 5), ("ultrafast", 0))
        }
    except ImportError:
        program = None
    if program is None:
        return
    x = random_features(64, 25, 42)
    image = tile_channels(quantize_minmax(x, 8, per_channel=True)[0]).numpy()
    for preset, goal in (("medium", 0.75), ("ultrafast", 0.35)):
        codec = codecs[preset]

        def outside(preset=preset):
            with tempfile.TemporaryDirectory() as folder:
                raw, coded = os.path.join(folder, "in.gray"), os.path.join(folder, "out.hevc")
                image.tofile(raw)
                command = [program, "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "gray"]
                command += ["-s", f"{image.shape[1]}x{image.shape[0]}", "-i", raw, "-c:v", "libx265"]
                command += ["-preset", preset, "-x265-params"]
                command += [_X265, coded]
                subprocess.run(command, check=True)
                with open(coded, "rb") as file:
                    return file.read()

        if abs(len(outside()) - len(codec.encode(image))) > 200:  # headers
            raise RuntimeError("ffmpeg codes something else")
        seconds = median_times(
            {"inside": lambda c=codec: c.encode(image), "outside": outside}, settings.repeats, CPU
        )
        yield share(
            f"HEVC {preset} in process, {image.shape[0]}x{image.shape[1]}",
            "ffmpeg program, temporary files",
            seconds["inside"],
            seconds["outside"],
            goal,
        )
