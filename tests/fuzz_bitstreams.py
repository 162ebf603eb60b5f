#!/usr/bin/env python
"""Feeds damaged bitstreams to the decoder: it must raise BitstreamError, soon, or decode them.

    tests/fuzz_bitstreams.py --inputs 1000000

Starts from bitstreams of every codec and mutates them: single bits and bytes, runs, cuts, insertions,
joined halves of two. Most get a right checksum, so that what lies behind it is reached. Ends with status
1 at the first other error, call of over a second, or allocation beyond the limits.
"""

import argparse
import collections
import dataclasses
import random
import resource
import struct
import sys
import time
import zlib

import torch
from tqdm import tqdm

from d2_featcomp.codecs import (
    IMAGE_CODEC_REGISTRY,
    QUANTIZER_REGISTRY,
    BitstreamError,
    CodedTensor,
    DecodeLimits,
    FeatureBitstream,
    ImageSizes,
    LearnedFeatureCodec,
    QuantizedFeatureCodec,
    VariableRateFeatureCodec,
    build_image_codec,
    compress_stream,
    decompress_stream,
)

LIMITS = DecodeLimits(max_elements=2**20, max_image_side=2**14, max_tensors=8)
MOST_SECONDS = 1.0
MOST_MEGABYTES = 600  # above what the process takes before
SHAPES = [(4, 8, 12), (5, 3, 7), (1, 1, 1)]
QUANTIZERS = [name for name, _ in QUANTIZER_REGISTRY]
OF_FORMAT_1 = ("none", "fixed", "tensor", "channel")
FIXED_LENGTHS = (0, 1, 2, 127, 128, 255)


def image_codecs():
    """Yields feature codecs with every image codec that is installed, and shapes of latents for them."""
    for name, codec in IMAGE_CODEC_REGISTRY:
        try:
            codec.require_library()
        except ImportError:
            continue
        shapes = [(3, 24, 16)] if codec.layout == "colour" else SHAPES
        for bits in (2, 8, 12, 32):
            if bits not in codec.bit_depths:
                continue
            for quantizer in QUANTIZERS:
                if quantizer == "narrow" and codec.layout == "colour":
                    continue
                image_codec = build_image_codec(name, bits=bits)
                yield QuantizedFeatureCodec(image_codec=image_codec, quantizer=quantizer), shapes


def learned_codecs():
    """Yields codecs whose entropy models expect something, be it wrong, and shapes."""
    torch.manual_seed(0)
    for bits in (2, 4, 6, 8):
        for quantizer in QUANTIZERS:
            if quantizer == "narrow":  # these codecs code every channel
                continue
            channels = [shape[0] for shape in SHAPES]
            for kind, settings in (
                (LearnedFeatureCodec, {}),
                (LearnedFeatureCodec, {"hyper": 2, "context": False}),
                (VariableRateFeatureCodec, {"hyper": 1}),
            ):
                codec = kind(channels=channels, bits=bits, quantizer=quantizer, **settings).eval()
                with torch.no_grad():
                    for model in codec.context_models:
                        model.head_weight.normal_(std=0.1)
                codec.update()
                yield codec, SHAPES


def corpus():
    """Valid bitstreams of both formats: every codec, several bit depths, quantizers and shapes. Pairs of
    bytes, and what the network knows of them: (codec, description)."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for feature_codec, shapes in (*image_codecs(), *learned_codecs()):
        smooth = [torch.rand(shape, generator=generator).cumsum(-1) / 8 - 0.5 for shape in shapes]
        for latent in smooth[:2]:
            latent[-1] /= 100  # a channel of a narrow range
        stream = compress_stream(
            smooth,
            feature_codec,
            split="MSFC",
            fingerprint=b"abcd",
            sizes=ImageSizes((64, 96), (60, 90), (120, 180)),
            feature_elements=4096,
        )
        known = feature_codec, stream.description
        found.append((stream.to_bytes(), known))
        # Format 1 is of before there were others.
        if not feature_codec.has_weights and feature_codec.quantizer in OF_FORMAT_1:
            found.append((as_format_1(stream).to_bytes(), known))
    return found


def as_format_1(stream):
    tensors = stream.tensors
    if stream.quantizer == "fixed":
        tensors = [CodedTensor(t.strings, [[-1, 1]], t.fixed_length) for t in tensors]
    return dataclasses.replace(stream, version=1, tensors=tensors)


def mutate(data, others, rng):
    """One of several kinds of damage."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kind = rng.randrange(7)
        at = rng.randrange(len(data)) if data else 0
        if not data:
            data += rng.randbytes(8)
        elif kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.choice(FIXED_LENGTHS) if rng.random() < 0.5 else rng.randrange(256)
        elif kind == 2:
            end = min(len(data), at + rng.randrange(1, 9))
            data[at:end] = rng.randbytes(end - at)
        elif kind == 3:
            del data[at : at + rng.randrange(1, 17)]
        elif kind == 4:
            data[at:at] = rng.randbytes(rng.randrange(1, 17))
        elif kind == 5:
            data = data[:at]
        else:
            other = rng.choice(others)
            data = data[:at] + other[rng.randrange(len(other)) :]
    if rng.random() < 0.85 and len(data) > 8:
        body = bytes(data[:-4])
        return body + struct.pack("<I", zlib.crc32(body))
    return bytes(data)


def decode(data, known):
    """ "decoded", or why not."""
    try:
        stream = FeatureBitstream.from_bytes(data, LIMITS)
    except BitstreamError:
        return "refused by the parser"
    try:
        feature_codec, description = known
        if stream.version == 2:  # all that format 1 knows is in its bytes
            stream = stream.described(description)
        decompress_stream(stream, feature_codec)
    except BitstreamError:
        return "refused by a codec"
    return "decoded"


def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1000000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng, originals = random.Random(args.seed), corpus()
    streams = [data for data, _ in originals]
    for data, known in originals:
        if decode(data, known) != "decoded":
            sys.exit("an undamaged bitstream was refused")
    before, slowest, outcomes = megabytes(), 0.0, collections.Counter()
    for number in tqdm(range(args.inputs), mininterval=5):
        data, known = rng.choice(originals)
        data = mutate(data, streams, rng)
        start = time.process_time()  # of this process, whatever else the machine does
        try:
            outcome = decode(data, known)
        except Exception as error:
            sys.exit(f"input {number}: {type(error).__name__}: {error}\n{data.hex()}")
        seconds = time.process_time() - start
        slowest = max(slowest, seconds)
        if seconds > MOST_SECONDS:
            sys.exit(f"input {number}: {seconds:.2f} s\n{data.hex()}")
        if megabytes() - before > MOST_MEGABYTES:
            sys.exit(f"input {number}: {megabytes() - before:.0f} MB\n{data.hex()}")
        outcomes[outcome] += 1
    print(f"{args.inputs} inputs from {len(originals)} bitstreams: {dict(outcomes)}")
    print(f"slowest {slowest:.3f} s, {megabytes() - before:.0f} MB more than at the start")


if __name__ == "__main__":
    main()
