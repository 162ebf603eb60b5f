"""Format 2 of the bitstream gives back whatever it was made of."""

import numpy as np
import torch
from format_2 import CODECS, SIZES, codec_of, compress, ramp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from d2_featcomp.codecs import (
    IMAGE_CODEC_REGISTRY,
    CodedTensor,
    FeatureBitstream,
    ImageSizes,
    decompress_stream,
)
from d2_featcomp.ops import dequantize_uniform, minmax_range, quantize_uniform

SHAPES = [(1, 1, 1), (3, 1, 1), (1, 5, 3), (5, 3, 7), (8, 4, 4), (2, 1, 9)]
LARGER_SHAPES = [(2, 40, 40), (13, 16, 18)]


@st.composite
def small_latents(draw):
    """Any finite float32 values."""
    elements = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.floats(-1, 1, width=32)
    shape = draw(st.sampled_from(SHAPES))
    return torch.from_numpy(draw(arrays_of.arrays(np.float32, shape, elements=elements)))


@st.composite
def larger_latents(draw):
    """Waves of any scale, which image codecs make smaller than fixed-length symbols."""
    scale = draw(st.sampled_from([1e-30, 1e-6, 0.01, 0.9, 3.0, 1e4, 1e30]))
    x = ramp(*draw(st.sampled_from(LARGER_SHAPES)))
    return scale * torch.cos(draw(st.integers(0, 9)) * x + draw(st.floats(0, 3)))


@st.composite
def codings(draw):
    """A codec, and latents to code."""
    name = draw(st.sampled_from(CODECS))
    codec = IMAGE_CODEC_REGISTRY.get(name)
    low, high = codec.quality_range or (0, 0)
    quality = draw(st.none() | st.integers(low, high)) if codec.quality_range else None
    effort = draw(st.sampled_from([None, codec.effort_range[0]])) if codec.effort_range else None
    bits, quantizer = (
        draw(st.sampled_from(sorted(codec.bit_depths))),
        st.sampled_from(["fixed", "tensor", "channel"]),
    )
    ys = draw(st.lists(small_latents() | larger_latents(), min_size=1, max_size=2))
    return ys, codec_of(name, bits, draw(quantizer), quality=quality, effort=effort)


def expected_latent(y, bits, quantizer):
    if bits == 32:
        return y
    low, high = (-1.0, 1.0) if quantizer == "fixed" else minmax_range(y, quantizer == "channel")
    return dequantize_uniform(quantize_uniform(y, bits, low, high), bits, low, high)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(codings())
def test_every_coding_round_trips(coding):
    ys, codec = coding
    stream = compress(ys, codec)
    data = stream.to_bytes()
    assert stream.header_bits + stream.side_info_bits + stream.payload_bits == 8 * len(data)
    received = FeatureBitstream.from_bytes(data)
    assert received == stream and received.to_bytes() == data and received.sizes == SIZES
    restored = decompress_stream(received.described(stream.description), codec)
    steps = codec.step_sizes(received.tensors, stream.shapes)
    assert len(restored) == len(ys)
    codec.eval()
    seen, eval_steps, terms = codec.quantize([y[None] for y in ys])
    assert terms == {}
    for y, y_hat, step, tensor, same, eval_step in zip(
        ys, restored, steps, stream.tensors, seen, eval_steps, strict=True
    ):
        assert (y_hat.shape, y_hat.dtype) == (y.shape, torch.float32)
        assert torch.equal(step, eval_step[0])
        if codec.lossless or tensor.fixed_length:
            # `-0.0 == 0.0`: which of the two a range's end is, is not sent.
            assert torch.equal(y_hat, expected_latent(y, codec.bits, codec.quantizer))
            assert torch.equal(y_hat, same[0])
        if tensor.ranges is not None:
            # Half a step, worked out in float64 from the ranges that were sent.
            low, high = torch.from_numpy(tensor.ranges.astype(np.float64))[..., None, None].unbind(1)
            exact = (high - low) / (2**codec.bits - 1)
            assert torch.allclose(step.double(), exact, rtol=1e-6)
            rounding = 4e-7 * torch.maximum(low.abs(), high.abs())
            assert ((y_hat >= low - rounding) & (y_hat <= high + rounding)).all()
            if codec.lossless or tensor.fixed_length:
                error = (y_hat.double() - y.double().clamp(low, high)).abs()
                assert (error <= 0.51 * exact + rounding).all()


names = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=9)
halves = st.floats(-60000, 60000, width=16)


@st.composite
def coded_tensors(draw):
    strings = draw(
        st.dictionaries(names | st.just("y"), st.binary(max_size=200), min_size=1, max_size=3)
    )
    pairs = draw(st.lists(st.tuples(halves, halves).map(sorted), max_size=3))
    return CodedTensor(strings, np.array(pairs), draw(st.booleans()) and "y" in strings)


@settings(deadline=None, derandomize=True, max_examples=120)
@given(
    tensors=st.lists(coded_tensors(), min_size=1, max_size=4),
    fingerprint=st.binary(min_size=4, max_size=4),
    sides=st.tuples(*[st.integers(1, 2000)] * 2),
    more=st.tuples(*[st.integers(0, 200)] * 2) | st.just((0, 0)),
    zoom=st.sampled_from([1, 1.5, 2]),
)
def test_whatever_a_codec_writes_round_trips(tensors, fingerprint, sides, more, zoom):
    padded = tuple(side + extra for side, extra in zip(sides, more, strict=True))
    original = tuple(int(side * zoom) for side in sides)
    sizes = ImageSizes(padded, sides, original)
    stream = FeatureBitstream(fingerprint, sizes, tensors)
    received = FeatureBitstream.from_bytes(stream.to_bytes())
    assert received == stream and received.tensors == stream.tensors
    assert (received.sizes, received.fingerprint) == (sizes, fingerprint)
    assert received.total_bits == 8 * len(stream.to_bytes())
