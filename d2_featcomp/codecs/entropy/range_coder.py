"""Range coding of symbols by integer frequencies: the library constriction, and whole bytes."""

import numpy as np

from ...errors import describe_import_error
from ..images import BitstreamError

__all__ = ["RangeDecoder", "RangeEncoder", "require_constriction"]

_WORD = np.dtype(">u4")
_STATE_BITS = 64  # of the coder's interval, of which the whole words before are settled
_STATE_WORDS = 2
# The decoder looks two words ahead; what lies behind the end of a payload counts as zeros.
_LOOKAHEAD = 2


def require_constriction():
    """Imports the library.

    Returns:
        (module, module): its range coder, and its models.

    Raises:
        ImportError: it is not installed.
    """
    try:
        from constriction import stream
    except ImportError as error:
        need, how = "codec 'learned' needs the package constriction", "pip install constriction"
        raise ImportError(describe_import_error(error, need, how, "constriction")) from error
    return stream.queue, stream.model


class RangeEncoder:
    """Codes symbols to bytes; its `code` mirrors that of :class:`RangeDecoder`."""

    def __init__(self):
        queue, model = require_constriction()
        self._coder = queue.RangeEncoder()
        self._family = model.Categorical(perfect=False)

    def code(self, frequencies, symbols):
        """
        Args:
            frequencies (ndarray): (S, K) integers, at least 1.
            symbols (ndarray): (S,) integers below K.

        Returns:
            ndarray: `symbols`, (S,) int32.
        """
        symbols = np.ascontiguousarray(symbols, np.int32)
        self._coder.encode(symbols, self._family, _as_probabilities(frequencies))
        return symbols

    def finish(self):
        """Returns the payload, bytes: the fewest that tell the symbols; zeros at its end are cut."""
        words, (low, span) = self._coder.pos()
        written = self._coder.get_compressed().astype(_WORD).tobytes()
        # The library wrote one point of the interval that is left; its start is at most that far below.
        size = max(len(written), (words + _STATE_WORDS) * _WORD.itemsize)
        point = int.from_bytes(written.ljust(size, b"\0"), "big")
        unit = 8 * (size - (words + _STATE_WORDS) * _WORD.itemsize)
        start = point - (((point >> unit) - low) % 2**_STATE_BITS << unit)
        for zeros in range(unit + _STATE_BITS, -1, -8):
            shortest = -(-start >> zeros) << zeros
            if shortest < start + (span << unit):
                return shortest.to_bytes(size, "big").rstrip(b"\0")
        return written.rstrip(b"\0")


class RangeDecoder:
    """Decodes what :class:`RangeEncoder` wrote.

    Args:
        payload (bytes): from anywhere.
    """

    def __init__(self, payload):
        queue, model = require_constriction()
        words = len(payload) // _WORD.itemsize + 1 + _LOOKAHEAD
        padded = payload.ljust(words * _WORD.itemsize, b"\0")
        self._payload = payload
        self._coder = queue.RangeDecoder(np.frombuffer(padded, _WORD).astype(np.uint32))
        self._family = model.Categorical(perfect=False)
        self._check = RangeEncoder()

    def code(self, frequencies, symbols=None):
        """
        Args:
            frequencies (ndarray): as they were when the symbols were coded.
            symbols: not used.

        Returns:
            ndarray: (S,) int32.

        Raises:
            BitstreamError: no symbols have this payload.
        """
        try:
            found = self._coder.decode(self._family, _as_probabilities(frequencies))
        except (AssertionError, ValueError, RuntimeError) as error:
            raise BitstreamError("payload is damaged: the range decoder cannot read it") from error
        return self._check.code(frequencies, found)

    def finish(self):
        """To be called after the last symbol.

        Raises:
            BitstreamError: the payload is not the one that these symbols are coded to.
        """
        if self._check.finish() != self._payload:
            raise BitstreamError("payload is damaged, cut short or followed by other bytes")


def _as_probabilities(frequencies):
    """Up to 2^53 exact; the library makes 24 bits of them by operations that IEEE 754 fixes."""
    return np.ascontiguousarray(frequencies, np.float64)
