"""The contract of feature codecs, proved with a factorized prior: trained, with tables, in real bytes.

A test alone: the integer tables and the coder below are as simple as can be, not fast.
"""

import copy

import pytest
import torch
from torch import nn

from d2_featcomp.codecs import (
    FEATURE_CODEC_REGISTRY,
    BitstreamError,
    CodedTensor,
    FeatureBitstream,
    FeatureCodec,
    ImageSizes,
    build_feature_codec,
    compress_stream,
    decompress_stream,
    read_step_sizes,
)

BITS, CHANNELS, PRECISION = 4, 3, 16
LEVELS, TOTAL = 2**BITS, 2**PRECISION
STATE = 32  # bits of the coder's interval


def encode(symbols, tables):
    """Arithmetic coding: pairs of equal length, symbols and their cumulative frequencies -> bytes."""
    low, span, out = 0, 2**STATE - 1, 0
    shifted = 0
    for symbol, table in zip(symbols, tables, strict=True):
        part = span >> PRECISION
        low, span = low + part * table[symbol], part * (table[symbol + 1] - table[symbol])
        while span < 2 ** (STATE - 8):
            low, span, shifted = low << 8, span << 8, shifted + 8
    out, length = low + span - 1, (STATE + shifted) // 8
    data = out.to_bytes(length, "big")
    while data and low <= int.from_bytes(data[:-1].ljust(length, b"\0"), "big") < low + span:
        data = data[:-1]  # what follows the end counts as zeros
    return data


def decode(data, tables):
    """Inverse of :func:`encode`, for as many symbols as there are tables; and the bytes it takes."""
    padded = data + bytes(STATE // 8 + 2 * len(tables))
    code, position, span = int.from_bytes(padded[: STATE // 8], "big"), STATE // 8, 2**STATE - 1
    symbols = []
    for table in tables:
        part = span >> PRECISION
        value = min(code // part, TOTAL - 1)
        symbol = next(s for s in range(len(table) - 1) if value < table[s + 1])
        code, span = code - part * table[symbol], part * (table[symbol + 1] - table[symbol])
        while span < 2 ** (STATE - 8):
            code, span, position = code << 8 | padded[position], span << 8, position + 1
        symbols.append(symbol)
    return symbols


class FactorizedPrior(FeatureCodec):
    """Symbols of [-1, 1], each channel with trained probabilities of its own."""

    name = "factorized-test"
    bits = BITS
    quantizer = "fixed"

    def __init__(self, channels):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(channels, LEVELS))
        self.register_buffer("cdf", torch.zeros(channels, LEVELS + 1, dtype=torch.int32))
        self.update()

    @classmethod
    def from_config(cls, cfg, feature_split):
        return cls(cfg.MODEL.FEATCOMP.SSFC.CHANNELS)

    @torch.no_grad()
    def update(self):
        """Every symbol at least 1 of 2^16."""
        frequencies = (self.logits.double().softmax(1) * (TOTAL - 2 * LEVELS)).round().int() + 1
        frequencies[torch.arange(len(frequencies)), frequencies.argmax(1)] += TOTAL - frequencies.sum(1)
        self.cdf[:, 1:] = frequencies.cumsum(1)

    def quantize(self, ys):
        (y,) = ys
        position = (y.clamp(-1, 1) + 1) / 2 * (LEVELS - 1)
        rounded = position + (position.round() - position).detach()
        y_hat = rounded / (LEVELS - 1) * 2 - 1
        steps = torch.full((len(y), 1, 1, 1), 2 / (LEVELS - 1))
        return [y_hat], [steps], {"rate": self.bits_of(position)} if self.training else {}

    def bits_of(self, position):
        """Bits of a batch, linear between symbols, so that gradients reach the latents, too."""
        bits = -self.logits.log_softmax(1) / torch.log(torch.tensor(2.0))
        below = position.detach().floor().clamp(max=LEVELS - 2).long()
        share = position - below
        rows = torch.arange(len(self.logits))[:, None, None]
        return (bits[rows, below] * (1 - share) + bits[rows, below + 1] * share).sum()

    def tables(self, shape):
        return [table for table in self.cdf.tolist() for _ in range(shape[1] * shape[2])]

    def compress(self, ys):
        symbols = [((y.clamp(-1, 1) + 1) / 2 * (LEVELS - 1)).round().int() for y in ys]
        return [CodedTensor({"y": encode(s.flatten().tolist(), self.tables(s.shape))}) for s in symbols]

    def decompress(self, tensors, shapes, device="cpu"):
        found = []
        for tensor, shape in zip(tensors, shapes, strict=True):
            symbols = decode(tensor.payload, self.tables(shape))
            if encode(symbols, self.tables(shape)) != tensor.payload:
                raise BitstreamError("payload is damaged")
            found.append(torch.tensor(symbols).reshape(shape) / (LEVELS - 1) * 2 - 1)
        return [y.to(device) for y in found]

    def step_sizes(self, tensors, shapes, device="cpu"):
        return [torch.full((1, 1, 1), 2 / (LEVELS - 1), device=device) for _ in tensors]


@pytest.fixture
def registered():
    FEATURE_CODEC_REGISTRY.register(FactorizedPrior)
    yield
    del FEATURE_CODEC_REGISTRY._obj_map["factorized-test"]


@pytest.fixture
def built(registered):
    from d2_featcomp.engine import setup_config

    overrides = ["MODEL.FEATCOMP.CODEC.NAME", "factorized-test", "MODEL.FEATCOMP.SSFC.CHANNELS", "3"]
    return build_feature_codec(setup_config("configs/msfc_R50.yaml", overrides), None)


def latents(seed, images=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.tanh(torch.randn(images, CHANNELS, 12, 16, generator=generator) / 4)


def train(codec, steps=60):
    """The bits of each step."""
    optimizer, rates = torch.optim.Adam(codec.parameters(), 0.2), []
    for step in range(steps):
        _, terms = codec.train()([latents(step)])
        optimizer.zero_grad()
        terms["rate"].backward()
        optimizer.step()
        rates.append(float(terms["rate"]))
    codec.update()
    return rates


def stream_of(codec, y):
    sizes = ImageSizes((96, 128), (96, 128), (96, 128))
    fields = {"split": "MSFC", "fingerprint": b"abcd", "sizes": sizes, "feature_elements": 9}
    return compress_stream([y], codec, **fields)


def test_a_trained_codec_sends_as_many_bytes_as_it_estimates(built):
    assert type(built) is FactorizedPrior
    rates = train(built)
    assert rates[0] == pytest.approx(BITS * 4 * CHANNELS * 12 * 16)  # nothing is known at first
    assert rates[-1] < 0.75 * rates[0]
    built.eval()
    for seed in range(1000, 1004):
        y = latents(seed, images=1)
        (y_hat,), (steps,), terms = built.quantize([y])
        assert terms == {}
        stream = stream_of(built, y[0])
        received = FeatureBitstream.from_bytes(stream.to_bytes()).described(stream.description)
        (decoded,) = decompress_stream(received, built)
        torch.testing.assert_close(decoded, y_hat[0], rtol=0, atol=1e-6)
        assert torch.equal((decoded + 1).mul(7.5).round(), (y_hat[0] + 1).mul(7.5).round())
        assert torch.equal(read_step_sizes(received, built)[0], steps[0])
        estimate = float(built.bits_of(((y_hat + 1) / 2 * (LEVELS - 1)).round())) / 8
        assert estimate == pytest.approx(stream.payload_bits / 8, rel=0.02, abs=2)
        assert stream.payload_bits < 0.75 * stream.packed_bits
        assert (stream.codec, stream.bits, stream.quantizer) == ("factorized-test", BITS, "fixed")


def test_what_it_learned_is_saved_with_it(built):
    train(built)
    y = latents(7)[0]
    data = built.compress([y])
    again = FactorizedPrior(CHANNELS)
    assert again.compress([y]) != data
    again.load_state_dict(copy.deepcopy(built.state_dict()))
    assert again.compress([y]) == data and again.describe() == built.describe()
    assert again.describe() == "FactorizedPrior factorized-test bits=4"


@pytest.mark.parametrize("shape", [(CHANNELS, 1, 1), (CHANNELS, 5, 7)])
def test_latents_of_extreme_symbols_come_back(shape):
    codec = FactorizedPrior(CHANNELS)
    with torch.no_grad():
        codec.logits[:, 0] = 30.0  # all others get the least there is
    codec.update()
    assert (codec.cdf[:, -1] == TOTAL).all() and (codec.cdf.diff(dim=1) >= 1).all()
    for value in (-1.0, 0.2, 1.0):
        y = torch.full(shape, value)
        (decoded,) = codec.decompress(codec.compress([y]), [shape])
        assert (decoded - y).abs().max() <= 1 / 15 + 1e-6


def test_damage_is_refused_or_decoded(built):
    (tensor,) = built.compress([latents(3)[0]])
    for payload in [tensor.payload + b"\0", b"\xff" * 2000]:
        with pytest.raises(BitstreamError):
            built.decompress([CodedTensor({"y": payload})], [(CHANNELS, 12, 16)])
    try:  # a payload cut short may be that of other symbols
        (decoded,) = built.decompress([CodedTensor({"y": tensor.payload[:-1]})], [(CHANNELS, 12, 16)])
    except BitstreamError:
        return
    assert (decoded - latents(3)[0]).abs().max() > 1 / 15


def test_one_error_names_image_codecs_and_feature_codecs(registered):
    from d2_featcomp.engine import setup_config

    cfg = setup_config("configs/msfc_R50.yaml", ["MODEL.FEATCOMP.CODEC.NAME", "learnt"])
    with pytest.raises(
        ValueError, match=r"'learnt'.*image codec \(.*jpegxl.*\(.*factorized-test"
    ) as error:
        build_feature_codec(cfg, None)
    assert error.value.__context__ is None
