"""Format 2 of the bitstream, which is written today: its layout, and what is equal to what."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from format_2 import (
    FINGERPRINT,
    RANGES,
    SIZES,
    TABLE,
    codec_of,
    compress,
    ramp,
    size,
    stream_of,
)

from d2_featcomp.codecs import (
    CodedTensor,
    FeatureBitstream,
    ImageSizes,
    decompress_stream,
    read_step_sizes,
)


def test_the_layout_is_the_documented_one():
    """Steps of 2/15 from -1: the six values are symbols 0, 3, 6, 9, 12 and 15."""
    stream = compress([ramp(2, 1, 3)])
    assert stream.to_bytes() == stream_of()
    assert (stream.header_bits, stream.side_info_bits, stream.payload_bits) == (8 * 20, 0, 24)
    assert stream.total_bits == 8 * len(stream_of()) == 8 * 23
    assert stream.bpfe == 8 * 23 / 86016
    assert stream.packed_bits == 24
    read = FeatureBitstream.from_bytes(stream_of())
    assert read == stream and read.description is None
    assert read.sizes == SIZES and read.fingerprint == FINGERPRINT and read.version == 2
    torch.testing.assert_close(
        decompress_stream(read.described(stream.description), codec_of())[0], ramp(2, 1, 3)
    )


def test_the_layout_of_the_table():
    first = CodedTensor({"z": b"Z", "y": b"yyy"}, np.array([[-1, 1], [0, 7]]), fixed_length=True)
    stream = FeatureBitstream(FINGERPRINT, SIZES, [first, CodedTensor({"hyper": b""})])
    data = stream_of(flags=b"\x1d", table=TABLE, ranges=RANGES, payload=b"yyyZ")
    assert stream.to_bytes() == data
    assert stream.side_info_bits == 4 * 16 and stream.payload_bits == 4 * 8
    read = FeatureBitstream.from_bytes(data)
    assert read.tensors == stream.tensors and list(read.tensors[0].strings) == ["y", "z"]
    assert read.tensors[0].payload == b"yyyZ" and read.tensors[1].ranges is None


def test_header_side_information_and_checksum_of_msfc_take_20_bytes():
    sizes = ImageSizes((800, 1344), (800, 1333), (480, 640))
    stream = compress([ramp(64, 25, 42)], codec_of("jpegxl"), sizes=sizes)
    assert stream.header_bits + stream.side_info_bits <= 8 * 20
    assert len(stream.to_bytes()) == 20 + stream.payload_bits // 8


@pytest.mark.parametrize(
    ("padded", "resized", "code", "field"),
    [
        ((60, 90), (60, 90), 0, b""),
        ((60, 92), (60, 90), 2, b""),
        ((64, 96), (60, 90), 3, b""),  # multiples of 32, too; of 8 is the smallest that fits
        ((64, 96), (33, 90), 5, b""),
        ((128, 128), (60, 90), 7, b""),
        ((60, 91), (60, 90), 1, size(60, 91)),
        ((256, 256), (60, 90), 1, size(256, 256)),
    ],
)
def test_padding(padded, resized, code, field):
    stream = FeatureBitstream(
        FINGERPRINT, ImageSizes(padded, resized, resized), [CodedTensor({"y": b""})]
    )
    parts = {"resized": size(*resized), "padded": field, "original": b"", "payload": b""}
    assert stream.to_bytes() == stream_of(flags=bytes([code]), **parts)
    assert FeatureBitstream.from_bytes(stream.to_bytes()).sizes == stream.sizes


# ---- comparing -----------------------------------------------------------------------------------


def test_streams_are_equal_if_and_only_if_their_bytes_are():
    stream, same = compress([ramp(2, 1, 3)]), FeatureBitstream.from_bytes(stream_of())
    assert stream == same and hash(stream) == hash(same) and len({stream, same}) == 1
    (tensor,) = stream.tensors
    others = [
        dataclasses.replace(stream, fingerprint=b"else"),
        dataclasses.replace(stream, sizes=ImageSizes((192, 256), (180, 240), (481, 640))),
        dataclasses.replace(stream, tensors=[dataclasses.replace(tensor, fixed_length=True)]),
        dataclasses.replace(stream, tensors=[dataclasses.replace(tensor, ranges=[[0, 1]])]),
        dataclasses.replace(stream, tensors=[CodedTensor({"y": b"else"})]),
        dataclasses.replace(stream, tensors=[CodedTensor({"z": tensor.payload})]),
    ]
    assert len({stream, *others}) == 1 + len(others)
    assert stream != stream.to_bytes()


def test_coded_tensors_are_equal_if_they_send_the_same():
    tensor = CodedTensor({"b": b"1", "a": b"2"}, np.array([[0.0, 1.0]]))
    same = CodedTensor({"a": b"2", "b": b"1"}, torch.tensor([[0.0, 1.0]]).numpy())
    assert tensor == same and hash(tensor) == hash(same)
    # Where the parts of the payload end counts, too, and -0 is sent as another float16 than 0.
    for other in [
        CodedTensor({"a": b"21", "b": b""}, [[0, 1]]),
        CodedTensor({"a": b"2", "b": b"1"}, [[-0.0, 1]]),
        CodedTensor({"a": b"2", "b": b"1"}),
    ]:
        assert tensor != other and len({tensor, other}) == 2


def test_streams_can_be_copied_and_pickled():
    stream = compress([ramp(2, 1, 3)], codec_of(quantizer="channel"))
    for again in (copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))):
        assert again == stream and again.description == stream.description


def test_what_the_network_knows_is_asked_of_it():
    stream = FeatureBitstream.from_bytes(stream_of())
    names = ("split", "codec", "lossless", "bits", "quantizer", "feature_elements", "shapes")
    for name in (*names, "bpfe", "packed_bits"):
        with pytest.raises(
            ValueError, match="does not say what it holds: the network that reads it does"
        ):
            getattr(stream, name)
    for decode in (decompress_stream, read_step_sizes):
        with pytest.raises(ValueError, match="does not say what it holds"):
            decode(stream, codec_of())
        with pytest.raises(ValueError, match="decoded by the codec of its network"):
            decode(compress([ramp(2, 1, 3)]))
    assert stream.total_bits == 8 * 23
    described = stream.described(compress([ramp(2, 1, 3)]).description)
    assert (described.split, described.codec, described.bits) == ("MSFC", "raw", 4)
    assert (described.quantizer, described.lossless, described.shapes) == ("fixed", True, ((2, 1, 3),))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CodedTensor({}), "needs strings"),
        (lambda: CodedTensor({"z": b""}, None, True), "fixed-length ones a 'y'"),
        (lambda: CodedTensor({"": b""}), "string name ''"),
        (lambda: CodedTensor({"\xe9": b""}), "string name"),
        (lambda: CodedTensor({"n" * 256: b""}), "string name"),
        (lambda: CodedTensor({"y": b""}, [[0, 1], [0, float("nan")]]), "two finite float16 values"),
        (lambda: CodedTensor({"y": b""}, [[-1e5, 1]]), "two finite float16 values"),
        (lambda: CodedTensor({"y": b""}, [[1, -1]]), "low not above high"),
        (lambda: FeatureBitstream(b"abc", SIZES, []), "a fingerprint has 4 bytes, not 3"),
        (lambda: FeatureBitstream(FINGERPRINT, SIZES, [], version=3), "format version 3 is unknown"),
        (
            lambda: FeatureBitstream(
                FINGERPRINT, ImageSizes((2**35, 1), (2**35, 1), (1, 1)), []
            ).to_bytes(),
            "cannot hold the number 34359738368",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_when_it_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()
