import warnings

import numpy as np
import pytest

from d2_featcomp.evaluation import bd_rate

RATE = [1.0, 2.0, 4.0, 8.0, 16.0]
QUALITY = [30.0, 33.0, 36.0, 39.0, 42.0]


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("method", ["cubic", "pchip", "akima"])
@pytest.mark.parametrize(("factor", "expected"), [(0.5, -50), (1.0, 0), (2.0, 100), (0.8, -20)])
def test_a_curve_of_scaled_rates(method, factor, expected):
    scaled = [factor * rate for rate in RATE]
    assert bd_rate(RATE, QUALITY, scaled, QUALITY, method) == pytest.approx(expected, abs=1e-9)


def test_cubic_against_polynomials_integrated_by_hand():
    anchor = [1.0, 1.9, 3.7, 7.9], [30.0, 32.5, 34.6, 36.1]
    test = [0.9, 1.7, 3.5, 7.0], [30.5, 33.1, 34.9, 36.9]
    fits = [np.polyfit(quality, np.log(rate), 3) for rate, quality in (anchor, test)]
    grid = np.linspace(30.5, 36.1, 200001)
    gap = np.polyval(fits[1], grid) - np.polyval(fits[0], grid)
    expected = 100 * (np.exp(np.trapezoid(gap, grid) / (36.1 - 30.5)) - 1)
    assert bd_rate(*anchor, *test) == pytest.approx(expected, abs=1e-6)


def test_the_order_of_points_does_not_matter():
    order = [3, 0, 4, 1, 2]
    rates, qualities = ([values[i] for i in order] for values in (RATE, QUALITY))
    assert bd_rate(rates, qualities, [r / 2 for r in RATE], QUALITY) == pytest.approx(-50)


def test_numbers_of_points_may_differ():
    test = [r / 2 for r in RATE[:4]], QUALITY[:4]
    assert bd_rate(RATE, QUALITY, *test) == pytest.approx(-50)


WRONG = {
    "three points": (
        (RATE[:3], QUALITY[:3], RATE, QUALITY),
        {},
        "anchor curve has 3 points.*at least 4",
    ),
    "one point": ((RATE, QUALITY, [1], [2]), {"method": "pchip"}, "test curve has 1 points.*at least 2"),
    "lengths": ((RATE, QUALITY[:4], RATE, QUALITY), {}, "as many rates as qualities"),
    "zero": (([0.0, *RATE[1:]], QUALITY, RATE, QUALITY), {}, "anchor curve has a rate that is not pos"),
    "negative": ((RATE, QUALITY, [-1, *RATE[1:]], QUALITY), {}, "test curve has a rate that is not pos"),
    "infinite": ((RATE, [float("nan"), *QUALITY[1:]], RATE, QUALITY), {}, "not finite"),
    "apart": (
        (RATE, QUALITY, RATE, [q + 20 for q in QUALITY]),
        {},
        "share no quality.*30 to 42.*50 to 62",
    ),
    "same quality": ((RATE, [30, 30, 36, 39, 42], RATE, QUALITY), {}, "two points of one quality"),
    "method": ((RATE, QUALITY, RATE, QUALITY), {"method": "linear"}, "unknown BD-rate method 'linear'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_compared_is_refused(case):
    curves, options, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        bd_rate(*curves, **options)


def test_little_overlap_warns():
    with pytest.warns(UserWarning, match="share only 25 % of the shorter"):
        bd_rate(RATE, QUALITY, RATE, [q + 9 for q in QUALITY])


def test_quality_that_falls_with_the_rate_warns():
    with pytest.warns(UserWarning, match="on the test curve quality does not always rise"):
        bd_rate(RATE, QUALITY, [1.0, 4.5, 4.0, 8.0, 16.0], QUALITY)
