"""Meeting a number of bytes, by image and by stream."""

import math

import pytest

from d2_featcomp.codecs import RateController, find_rate


def coder(smallest, largest, bend=1.0):
    """A function of a rate that returns as many bytes as a codec might, and its calls."""
    calls = []

    def code(rate):
        calls.append(rate)
        return bytes(round(smallest * (largest / smallest) ** (rate**bend)))

    return code, calls


@pytest.mark.parametrize("bend", [0.7, 1.0, 2.0])
@pytest.mark.parametrize(("smallest", "largest"), [(100, 200), (100, 1000), (500, 50000)])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_targets_within_reach_are_met(bend, smallest, largest, share):
    code, calls = coder(smallest, largest, bend)
    target = smallest * (largest / smallest) ** share
    rate, data = find_rate(code, target)
    assert len(calls) <= 6 and rate in calls and data == code(rate)
    nearest = min(abs(len(code(number / 255)) / target - 1) for number in range(256))
    assert len(data) == pytest.approx(target, rel=max(0.03, 1.01 * nearest))


@pytest.mark.parametrize(("target", "rate"), [(10, 0.0), (5000, 1.0)])
def test_out_of_reach_the_nearest_is_taken(target, rate):
    code, calls = coder(100, 1000)
    found, data = find_rate(code, target)
    assert (found, len(data)) == (rate, {0.0: 100, 1.0: 1000}[rate]) and len(calls) <= 6


def test_sizes_that_do_not_rise_end_the_search():
    calls = []

    def code(rate):
        calls.append(rate)
        return bytes(100 if rate < 0.4 else 120 if rate < 0.7 else 110)

    _, data = find_rate(code, 116)
    assert len(calls) <= 6 and len(data) in (110, 120)
    for target in (0, float("inf")):
        with pytest.raises(ValueError, match="positive"):
            find_rate(code, target)


def test_a_stream_has_its_bit_rate():
    controller = RateController(kbit_s=80, images_s=10)  # 1000 bytes an image
    assert controller.next_target() == 1000
    controller.add(2000)
    assert controller.next_target() == 900  # what was too much is spread over a second
    for _ in range(50):
        controller.add(controller.next_target())
    assert abs(controller.excess) < 10 and controller.next_target() == pytest.approx(1000, abs=1)


def test_images_that_never_meet_their_share_do_not_pile_up():
    controller = RateController(kbit_s=80, images_s=10)
    for _ in range(100):
        controller.add(100)  # still scenes
    assert controller.excess == -10000 and controller.next_target() == 2000
    for _ in range(100):
        controller.add(5000)
    assert controller.next_target() == 250  # never less than a quarter


@pytest.mark.parametrize("settings", [(0, 10), (80, 0), (80, 10, -1), (math.inf, 10)])
def test_wrong_settings_are_told(settings):
    with pytest.raises(ValueError, match="must be positive"):
        RateController(*settings)
