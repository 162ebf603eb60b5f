"""Meeting a number of bytes: for one image, and for a stream of them."""

import math
from collections.abc import Callable
from typing import Any

from .bitstream import FeatureBitstream
from .entropy import RATE_CODES

__all__ = [
    "TOLERANCE",
    "RateController",
    "find_rate",
    "find_target_bytes",
    "meet_target",
    "require_no_target",
]

TOLERANCE = 0.03  # share of a target by which a size may differ
_ATTEMPTS = 6
_USUAL_SPAN = math.log(10)  # of bytes, between rates 0 and 1; where the search begins
_REACH = 1.3  # rather too far than too near, so that the target lies in between


def find_target_bytes(kilobytes: float) -> float | None:
    """Returns the bytes of MODEL.FEATCOMP.CODEC.TARGET_KB; None for 0, which is no target.

    Raises:
        ValueError: it is not a positive number or 0.
    """
    if not 0 <= kilobytes < math.inf:
        raise ValueError(
            f"MODEL.FEATCOMP.CODEC.TARGET_KB is {kilobytes}: it must be positive, or 0 for none"
        )
    return 1000 * kilobytes or None


def require_no_target(kilobytes: float, name: str) -> None:
    """Raises ValueError for a MODEL.FEATCOMP.CODEC.TARGET_KB of a codec, `name`, with one rate."""
    if kilobytes:
        raise ValueError(
            f"MODEL.FEATCOMP.CODEC.TARGET_KB is {kilobytes:g}, but codec {name!r} has one rate: set "
            "it to 0, or train with CODEC.NAME variable_rate"
        )


def find_rate(
    code: Callable[[float], bytes],
    target: float,
    attempts: int = _ATTEMPTS,
    tolerance: float = TOLERANCE,
) -> tuple[float, bytes]:
    """Finds the rate at which something coded has a size.

    Args:
        code (callable): of a rate, 0..1; returns bytes. More of them for a higher rate.
        target (float): bytes.
        attempts (int): calls of `code` at most.
        tolerance (float): share of `target` by which the size may differ.

    Returns:
        (float, bytes): the rate whose size came nearest, and what `code` returned for it.

    Raises:
        ValueError: the target is not positive, or infinite.
    """
    if not 0 < target < math.inf:
        raise ValueError(f"a target of {target:g} bytes cannot be met: give a positive number")
    last = RATE_CODES - 1
    # By code: bytes; logarithm of their number over the target.
    found: dict[int, bytes] = {}
    errors: dict[int, float] = {}
    low, high = _End(-1), _End(RATE_CODES)
    number = RATE_CODES // 2
    for _ in range(attempts):
        found[number] = code(number / last)
        error = errors[number] = math.log(max(1, len(found[number])) / target)
        if abs(math.expm1(error)) <= tolerance:
            break
        if error < 0:
            low.move(number, error, high)
        else:
            high.move(number, error, low)
        if high.number - low.number <= 1:  # nothing in between, or an end
            break
        number = min(max(_guess(errors, low, high), low.number + 1), high.number - 1)
    best = min(errors, key=lambda number: abs(errors[number]))
    return best / last, found[best]


def meet_target(codec: Any, code: Callable[[], FeatureBitstream]) -> FeatureBitstream:
    """Codes an image at the rate that brings its bitstream nearest to the codec's target.

    Args:
        codec (FeatureCodec or ArrayCodec): with several rates, and `target_bytes`; its rate stays as it
            is.
        code (callable): codes the image at the codec's rate.

    Returns:
        FeatureBitstream
    """
    streams: dict[float, FeatureBitstream] = {}

    def code_at(rate: float) -> bytes:
        with codec.pinned_rate(rate):
            streams[rate] = code()
        return streams[rate].to_bytes()

    return streams[find_rate(code_at, codec.target_bytes)[0]]


class _End:
    """An end of the interval in which the code lies, and how far its size is from the target; None where
    it was not tried."""

    def __init__(self, number: int) -> None:
        self.number, self._moved = number, False
        self.error: float | None = None

    def move(self, number: int, error: float, other: "_End") -> None:
        if self._moved and other.error is not None:
            other.error /= 2  # it stays for too long: where the curve is bent (Illinois method)
        self.number, self.error, self._moved, other._moved = number, error, True, False


def _guess(errors: dict[int, float], low: _End, high: _End) -> int:
    """The code of which the error would be 0, were the logarithm of the size linear."""
    if low.error is not None and high.error is not None:
        span = high.number - low.number
        return round(low.number + span * low.error / (low.error - high.error))
    number, slope = next(reversed(errors)), _USUAL_SPAN / (RATE_CODES - 1)
    if len(errors) > 1:
        before = list(errors)[-2]
        found = (errors[number] - errors[before]) / (number - before)
        slope = found if found > 0 else slope
    return round(number - _REACH * errors[number] / slope)


class RateController:
    """Chooses how large each image of a stream may be, so that a channel of constant bit rate carries
    them: a leaky bucket, into which images pour and which the channel empties.

    Args:
        kbit_s (float): what the channel carries, in 1000 bits a second.
        images_s (float): images a second.
        seconds (float): time in which what was sent too much, or too little, is made up for.

    Attributes:
        excess (float): bytes that were sent beyond the bit rate; negative for bytes that were saved.

    Raises:
        ValueError: one of them is not positive.
    """

    def __init__(self, kbit_s: float, images_s: float, seconds: float = 1.0) -> None:
        for name, value in (("bit rate", kbit_s), ("image rate", images_s), ("window", seconds)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"the {name} is {value:g}: it must be positive")
        self.mean = kbit_s * 1000 / 8 / images_s
        self._window = max(1.0, seconds * images_s)
        self.excess = 0.0

    def next_target(self) -> float:
        """Returns the bytes that the next image should have, a float."""
        wanted = self.mean - self.excess / self._window
        return min(max(wanted, self.mean / 4), 4 * self.mean)

    def add(self, size: int) -> None:
        """Tells that an image of so many bytes was sent."""
        self.excess = max(self.excess + size - self.mean, -self._window * self.mean)
