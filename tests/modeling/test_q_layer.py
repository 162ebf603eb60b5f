"""Channel gains of the Q-layer."""

import math

import networks
import pytest
import torch

GAINS = ["MODEL.FEATCOMP.CHANNEL_GAINS", True]
FLOATS = ["MODEL.FEATCOMP.CODEC.NAME", "raw", "MODEL.FEATCOMP.CODEC.BITS", 32]


def build(*overrides):
    return networks.build(networks.TASKS, [*networks.listed(networks.TINY_TASKS), *overrides])


def image(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8, generator=generator)}


def with_random_gains(*overrides):
    model = build(*GAINS, *overrides)
    generator = torch.Generator().manual_seed(1)
    model.feature_split.gains["res4"].data.normal_(generator=generator)
    return model


def restored(model, features):
    """The features at the split point as training sees them."""
    y_hats, _ = model.feature_codec.train()(model.feature_split.reduce(features))
    return model.feature_split.restore(y_hats, (96, 128))["res4"]


def test_fresh_gains_change_nothing():
    plain, gained = build(), build(*GAINS)
    gained.load_state_dict(plain.state_dict(), strict=False)
    (before,), (after,) = plain([image()]), gained([image()])
    payloads = [output["bitstream"].tensors[0].payload for output in (before, after)]
    assert payloads[0] == payloads[1]
    assert torch.equal(before["sem_seg"], after["sem_seg"])
    assert [name for name, _ in gained.feature_split.named_parameters()] == ["gains.res4"]


def test_gains_change_what_is_sent_but_without_quantization_no_output():
    gained = with_random_gains(*FLOATS)
    plain = build(*FLOATS)
    plain.load_state_dict(gained.state_dict(), strict=False)
    (before,), (after,) = plain([image()]), gained([image()])
    sent = [model.decode(output["bitstream"])[0] for model, output in ((plain, before), (gained, after))]
    factors = gained.feature_split.gains["res4"].exp()[:, None, None]
    assert torch.allclose(sent[1], sent[0] * factors)
    for name in ("sem_seg", "disparity", "reconstruction"):
        assert torch.allclose(before[name], after[name], atol=1e-4)


def test_gains_belong_to_the_edge_half():
    one, other = build(*GAINS), with_random_gains()
    other.load_state_dict(one.state_dict())
    assert one.fingerprint() == other.fingerprint()
    with torch.no_grad():
        other.feature_split.gains["res4"][3] += 0.1
    assert one.fingerprint() != other.fingerprint()


def test_the_error_of_a_channel_is_divided_by_its_gain():
    model = build(*GAINS)
    features = {"res4": torch.rand(1, 256, 6, 8)}
    model.feature_split.gains["res4"].data[:128] = -3.0
    torch.manual_seed(2)
    error = restored(model, features) - features["res4"]
    coarse, fine = error[:, :128].std(), error[:, 128:].std()
    assert float(coarse / fine) == pytest.approx(math.exp(3), rel=0.05)


def test_noise_is_not_lost_under_mixed_precision():
    model = build()
    features = {"res4": torch.linspace(0, 255, 256 * 48).reshape(1, 256, 6, 8).bfloat16()}
    error = restored(model, features).float() - features["res4"].float()
    assert float(error.std()) == pytest.approx(1 / math.sqrt(12), rel=0.05)


def test_other_quantizers_are_refused():
    with pytest.raises(ValueError, match="QUANTIZER is 'channel': QLayer quantizes each tensor"):
        build("MODEL.FEATCOMP.CODEC.QUANTIZER", "channel")
