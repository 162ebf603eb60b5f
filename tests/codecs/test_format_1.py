"""Format 1 of the bitstream, which is read as ever and written back byte for byte."""

import dataclasses

import pytest
import torch
from format_1 import SIZES, STORED, stream_of

from d2_featcomp.codecs import (
    CodedTensor,
    FeatureBitstream,
    StreamDescription,
    decompress_stream,
    read_step_sizes,
)


def test_stored_streams_stay_readable():
    """Whatever the format becomes, version 1 must be read as it was written."""
    stream = FeatureBitstream.from_bytes(STORED)
    assert (stream.split, stream.codec, stream.lossless) == ("MSFC", "raw", True)
    assert (stream.bits, stream.quantizer) == (4, "channel")
    assert stream.fingerprint == b"\x01\xfe\x80\x7f"
    assert stream.sizes == SIZES
    assert stream.feature_elements == 86016
    assert stream.shapes == ((2, 1, 3), (1, 2, 2))
    assert stream.tensors[0].ranges.tolist() == [[-1.0, 1.0], [0.0, 7.0]]
    assert stream.tensors[1].ranges.tolist() == [[-2.0, -0.5]]
    assert [tensor.payload.hex() for tensor in stream.tensors] == ["07f0af", "05af"]
    first, second = decompress_stream(stream)
    expected = [[[-1, -1 + 7 * 2 / 15, 1]], [[0, 10 * 7 / 15, 7]]]
    torch.testing.assert_close(first, torch.tensor(expected))
    torch.testing.assert_close(second, torch.tensor([[[-2, -1.5], [-1, -0.5]]]))
    assert stream.to_bytes() == STORED


def test_step_sizes_are_those_of_the_ranges():
    first, second = read_step_sizes(FeatureBitstream.from_bytes(STORED))
    torch.testing.assert_close(first, torch.tensor([2 / 15, 7 / 15]).reshape(2, 1, 1))
    torch.testing.assert_close(second, torch.tensor([1.5 / 15]).reshape(1, 1, 1))


def test_the_layout_is_the_documented_one():
    """Steps of 2/15 from -1: the six values are symbols 0, 3, 6, 9, 12 and 15."""
    stream = FeatureBitstream(
        fingerprint=b"\x01\xfe\x80\x7f",
        sizes=SIZES,
        tensors=[CodedTensor({"y": bytes.fromhex("0369cf")}, [[-1, 1]])],
        version=1,
        description=StreamDescription("MSFC", "raw", True, 4, "fixed", [(2, 1, 3)], 86016),
    )
    assert stream.to_bytes() == stream_of()
    assert stream.header_bits == 8 * (len(stream_of()) - 4 - 3)
    assert (stream.side_info_bits, stream.payload_bits) == (32, 24)
    assert stream.total_bits == 8 * len(stream_of())
    assert stream.bpfe == stream.total_bits / 86016
    torch.testing.assert_close(decompress_stream(stream)[0], torch.linspace(-1, 1, 6).reshape(2, 1, 3))


def test_what_format_1_cannot_hold_is_said():
    stream = FeatureBitstream.from_bytes(STORED)
    two = CodedTensor({"y": b"", "z": b""})
    with pytest.raises(ValueError, match="format 1 holds one string a tensor"):
        dataclasses.replace(stream, tensors=[two, two]).to_bytes()
    with pytest.raises(ValueError, match="does not say what it holds"):
        dataclasses.replace(stream, description=None).to_bytes()
