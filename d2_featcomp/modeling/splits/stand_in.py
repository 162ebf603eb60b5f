"""What stands in for quantization in training."""

from ...ops import add_quantization_noise, quantize_ste

__all__ = ["find_stand_in"]


def _nothing(x, bits, low, high):
    return x


STAND_INS = {"none": _nothing, "noise": add_quantization_noise, "ste": quantize_ste}


def find_stand_in(name):
    """
    Args:
        name (str): "none", "noise" (uniform, one step wide) or "ste" (rounding, the gradient passes).

    Returns:
        callable: (x, bits, low, high) -> Tensor like x.

    Raises:
        ValueError: none of these.
    """
    if name not in STAND_INS:
        raise ValueError(
            f"MODEL.FEATCOMP.TRAIN_QUANTIZATION is {name!r}: choose one of "
            f"{', '.join(map(repr, STAND_INS))}"
        )
    return STAND_INS[name]
