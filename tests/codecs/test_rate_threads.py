"""One codec of several rates, used by several threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from entropy_models import smooth_maps

from d2_featcomp.codecs import (
    ImageSizes,
    VariableRateArrayCodec,
    VariableRateFeatureCodec,
    array_codecs,
    build_quantizer,
    compress_stream,
    meet_target,
    variable_rate,
)


def build():
    torch.manual_seed(0)
    return VariableRateFeatureCodec(channels=(3,), bits=4).eval()


def latents():
    """(3, 12, 16) in [-1, 1], whose neighbours are alike."""
    return smooth_maps(1, 3, 8, (12, 16), 0)[0] / 255 * 2 - 1


def in_another_thread(do):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(do).result()


@pytest.mark.parametrize("light", [False, True])
def test_another_rate_set_meanwhile_changes_no_stream(monkeypatch, light):
    codec = build()
    codec.rate = 1.0
    y = latents()
    (wanted,) = codec.compress([y])
    if light:
        codec = VariableRateArrayCodec(
            name=codec.name,
            bits=codec.bits,
            quantizer=build_quantizer("fixed"),
            models=[codec.context_models[0].integer_model()],
            step_sizes=codec.integer_step_sizes(),
        )
        y = y.numpy()
    scale = variable_rate.scale_range

    def interrupted(*args):
        in_another_thread(lambda: setattr(codec, "rate", 0.0))
        return scale(*args)

    for module in (variable_rate, array_codecs):
        monkeypatch.setattr(module, "scale_range", interrupted)
    (found,) = codec.compress([y])
    assert found.payload == wanted.payload and found.payload[0] == 255
    assert codec.rate == 0  # of the next image


def test_a_target_leaves_the_rate_of_other_threads_as_it_is():
    codec = build()
    codec.rate, codec.target_bytes = 1.0, 150.0
    seen = []

    def code():
        seen.append((codec.rate, in_another_thread(lambda: codec.rate)))
        sizes = ImageSizes((96, 128), (96, 128), (96, 128))
        fields = {"split": "MSFC", "fingerprint": b"abcd", "sizes": sizes, "feature_elements": 9}
        return compress_stream([latents()], codec, **fields)

    meet_target(codec, code)
    assert len({rate for rate, _ in seen}) > 1 and {other for _, other in seen} == {1.0}
    assert codec.rate == 1
