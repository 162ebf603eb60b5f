"""Bit depths of symbols."""

__all__ = ["BIT_DEPTHS", "FLOAT_BITS", "check_bits"]

BIT_DEPTHS = range(2, 17)
FLOAT_BITS = 32  # "bit depth" of a feature that is coded as float32, not quantized


def check_bits(bits: int) -> int:
    """Returns `bits` as an int.

    Raises:
        ValueError: it is neither in 2..16 nor 32.
    """
    if int(bits) != bits or (bits not in BIT_DEPTHS and bits != FLOAT_BITS):
        raise ValueError(f"bit depth {bits} is not supported: use 2..16, or 32 for float32, unquantized")
    return int(bits)
