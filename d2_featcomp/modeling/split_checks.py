"""Checks of what a feature split returns, so that a mistake in one's own is told by its name."""

import torch

__all__ = ["require_latents", "require_restored", "require_tensors"]

_ROUNDED = (
    ", by the strides in the backbone's output_shape(), rounded up: give the backbone a "
    "size_divisibility of its coarsest stride, or images whose sides are multiples of it "
    "(MODEL.FEATCOMP.INPUT_SIZE)"
)


def require_tensors(feature_split, ys):
    """Raises ValueError unless `ys`, what a split's `reduce` returned, is a list of batches of maps."""
    name = f"{type(feature_split).__name__}.reduce"
    if not isinstance(ys, (list, tuple)):
        raise ValueError(f"{name} returned a {type(ys).__name__}: return a list of tensors")
    for y in ys:
        if not isinstance(y, torch.Tensor) or y.dim() != 4:
            found = tuple(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
            raise ValueError(f"{name} returned {found} in its list: return tensors (N, C', H', W')")


def require_latents(feature_split, ys, image_size):
    """Checks latents against what the cloud sub-model will expect.

    Args:
        feature_split (FeatureSplit): whose they are.
        ys (list[Tensor]): each (N, C', H', W').
        image_size ((int, int)): height and width, in pixels, of the padded images.

    Raises:
        ValueError: they are no such list, or have other shapes than `reduced_shapes` tells.
    """
    if _is_traced():
        return
    require_tensors(feature_split, ys)
    found = [tuple(y.shape[1:]) for y in ys]
    expected = [tuple(shape) for shape in feature_split.reduced_shapes(image_size)]
    if found == expected:
        return
    name = type(feature_split).__name__
    of_size = [shape[0] for shape in found] == [shape[0] for shape in expected]
    raise ValueError(
        f"an image of {image_size[0]} x {image_size[1]} pixels, with padding, gave latents of shapes "
        f"{found} ({name}.reduce); the cloud sub-model expects {expected} ({name}.reduced_shapes)"
        f"{_ROUNDED if of_size else ': make the two agree'}"
    )


def require_restored(feature_split, restored, expected):
    """Checks restored features against those at the split point.

    Args:
        feature_split (FeatureSplit): that restored them.
        restored (dict[str, Tensor]): to check.
        expected (dict[str, sequence]): C, H, W of each feature, (least, most) where a side may be
            rounded in two ways.

    Raises:
        ValueError: they are no such dict, one is missing, or has another shape.
    """
    if _is_traced():
        return
    name = f"{type(feature_split).__name__}.restore"
    if not isinstance(restored, dict):
        raise ValueError(f"{name} returned a {type(restored).__name__}: return a dict of tensors")
    for level, shape in expected.items():
        if level not in restored:
            raise ValueError(
                f"{name} returned {', '.join(map(repr, restored)) or 'nothing'}, without {level!r}: "
                f"return all features at the split point, {', '.join(map(repr, expected))}"
            )
        found = tuple(restored[level].shape[1:])
        allowed = [side if isinstance(side, tuple) else (side,) for side in shape]
        if len(found) != 3 or any(a not in b for a, b in zip(found, allowed, strict=True)):
            raise ValueError(
                f"{name} returned {level!r} of shape {found}: at the split point it has "
                f"{tuple(sides[-1] for sides in allowed)}"
            )


def _is_traced():
    """Whether shapes are no numbers now, which are then not looked at."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()
