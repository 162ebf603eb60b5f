"""Layers of integers: convolutions as matrix products, activations, and their weights in files.

All numbers are integers that are held in floating point, and every sum stays below 2^24, so that float32
holds it exactly in whatever order a processor adds.

Shape shorthand in this module:
    I, O: input and output channels; K: side of a kernel; T: positions of a kernel that are used
"""

from dataclasses import fields, is_dataclass, replace

import numpy as np

from .rates import interpolate_integers

__all__ = [
    "ACTIVATION_MAX",
    "ACTIVATION_UNIT",
    "ALL_TAPS",
    "EXACT",
    "KERNEL",
    "activate",
    "as_odd",
    "biases_at_rate",
    "by_taps",
    "convolve",
    "enlarge",
    "kernel_taps",
    "pack",
    "scale_and_clip",
    "unpack",
]

KERNEL = 5  # side of a kernel, where nothing else is said
ACTIVATION_UNIT = 5  # activations are counted in units of 2^-5
ACTIVATION_MAX = 255
EXACT = 2**24  # float32 holds all integers up to here
_PATCH_ELEMENTS = 2**21  # of the patches that one matrix product reads
_SCALE, _BIAS = "_scale", "_bias"


def kernel_taps(side):
    """Positions (y, x) of a kernel, in its order."""
    return [(y, x) for y in range(side) for x in range(side)]


ALL_TAPS = kernel_taps(KERNEL)


def by_taps(weight, taps):
    """(O, I, K, K) -> (O, T * I), of the taps alone."""
    chosen = [weight[:, :, y, x] for y, x in taps]
    return np.concatenate(chosen, axis=1) if chosen else weight.reshape(len(weight), -1)[:, :0]


def activate(total, scale):
    """Sums -> activations 0..255, in place."""
    return scale_and_clip(total, scale, 0, ACTIVATION_MAX)


def scale_and_clip(total, scale, lowest, highest):
    """Sums -> integers `lowest`..`highest`, in place."""
    total *= scale
    np.floor(total, out=total)
    # np.clip is slower on small maps.
    np.maximum(total, lowest, out=total)
    return np.minimum(total, highest, out=total)


def enlarge(values, margin):
    """(C, H, W) -> (C, H + 2 * margin, W + 2 * margin), with zeros around."""
    channels, height, width = values.shape
    padded = np.zeros((channels, height + 2 * margin, width + 2 * margin), values.dtype)
    padded[:, margin : margin + height, margin : margin + width] = values
    return padded


def convolve(padded, matrix, taps, stride, size):
    """Convolves (I, ...) with a matrix of :func:`by_taps`: (O, *size), at multiples of `stride`."""
    inputs, (height, width) = len(padded), size
    result = np.zeros((len(matrix), height * width), matrix.dtype)
    if not inputs:
        return result.reshape(-1, height, width)
    step = max(1, _PATCH_ELEMENTS // (matrix.shape[1] * width))
    patches = np.empty((len(taps), inputs, min(step, height), width), matrix.dtype)
    for row in range(0, height, step):
        rows = min(step, height - row)
        for patch, (y, x) in zip(patches, taps, strict=True):
            top = y + row * stride
            patch[:, :rows] = padded[
                :, top : top + rows * stride : stride, x : x + width * stride : stride
            ]
        columns = patches[:, :, :rows].reshape(matrix.shape[1], -1)
        np.matmul(matrix, columns, out=result[:, row * width : (row + rows) * width])
    return result.reshape(-1, height, width)


def as_odd(symbols, bits):
    """Symbols of `bits` bits -> odd numbers, symmetric to 0, which is left for what is not known."""
    return 2 * symbols - (2**bits - 1)


def biases_at_rate(model, code):
    """Copies a dataclass of weights for R rates, with its biases, whose names end in "_bias", at one.

    Args:
        model (dataclass): biases have R in their first dimension.
        code (int): 0..255, the rate in units of 1 / 255.
    """
    names = [entry.name for entry in fields(model) if entry.name.endswith(_BIAS)]
    points = {name: getattr(model, name) for name in names}
    return replace(
        model,
        **{name: interpolate_integers(bias, code).astype(bias.dtype) for name, bias in points.items()},
    )


def pack(model, prefix=""):
    """Lists the integers of a dataclass of weights.

    Args:
        model (dataclass): of numbers, arrays, None and dataclasses of such. Names of powers of 2 end in
            "_scale".
        prefix (str): of the names in the result.

    Returns:
        dict[str, ndarray]: int32; powers of 2 as their exponents.
    """
    arrays = {}
    for entry in fields(model):
        value, name = getattr(model, entry.name), prefix + entry.name
        if is_dataclass(value):
            arrays |= pack(value, name + ".")
        elif value is not None:
            value = np.asarray(value)
            value = np.frexp(value)[1] - 1 if name.endswith(_SCALE) else value
            arrays[name] = value.astype(np.int32)
    return arrays


def unpack(kind, arrays, dtype, prefix=""):
    """Inverse of :func:`pack`, but for fields that are dataclasses.

    Args:
        kind (type): the dataclass.
        arrays (dict[str, ndarray]): of :func:`pack`.
        dtype (str): of the result's arrays.
        prefix (str): as it was given there.

    Returns:
        dict: name of a field -> its value.
    """
    found = {}
    for entry in fields(kind):
        value = arrays.get(prefix + entry.name)
        if value is None:
            continue
        if value.ndim == 0:
            found[entry.name] = int(value)
        else:
            value = np.ldexp(1.0, value) if entry.name.endswith(_SCALE) else value
            found[entry.name] = value.astype(dtype)
    return found
