import warnings

import numpy as np
import pytest

from d2_featcomp.evaluation import bd_rate
from d2_featcomp.evaluation.bjontegaard_delta import compare_curves

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
        "anchor curve has 3 points of different quality.*at least 4",
    ),
    "one point": ((RATE, QUALITY, [1], [2]), {"method": "pchip"}, "test curve has 1 points.*at least 2"),
    "three qualities": (
        (RATE, QUALITY, RATE, [30, 33, 36, 36, 36]),
        {},
        "test curve has 3 points of different quality.*at least 4",
    ),
    "one quality": ((RATE, [30] * 5, RATE, QUALITY), {"method": "pchip"}, "anchor curve has 1 points"),
    "lengths": ((RATE, QUALITY[:4], RATE, QUALITY), {}, "as many rates as qualities"),
    "zero": (([0.0, *RATE[1:]], QUALITY, RATE, QUALITY), {}, "anchor curve has a rate that is not pos"),
    "negative": ((RATE, QUALITY, [-1, *RATE[1:]], QUALITY), {}, "test curve has a rate that is not pos"),
    "infinite": ((RATE, [float("nan"), *QUALITY[1:]], RATE, QUALITY), {}, "not finite"),
    "apart": (
        (RATE, QUALITY, RATE, [q + 20 for q in QUALITY]),
        {},
        "share no quality.*30 to 42.*50 to 62",
    ),
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


def test_points_of_equal_quality():
    """AP that saturates: the last two points are equal."""
    quality = [30.0, 33.0, 36.0, 39.0, 39.0]
    halved = [rate / 2 for rate in RATE]
    for method in ("cubic", "pchip", "akima"):
        with pytest.warns(UserWarning, match="quality does not always rise"):
            assert bd_rate(RATE, quality, halved, quality, method) == pytest.approx(-50, abs=1e-9)
    with pytest.warns(UserWarning):
        found = bd_rate(RATE, quality, [0.5, 0.9, 2.1, 4.2, 7.5], quality)
    # By hand: the least-squares polynomials of log rate, integrated from 30 to 39.
    fits = [
        np.polynomial.Polynomial.fit(quality, np.log(rates), 3).integ()
        for rates in (RATE, [0.5, 0.9, 2.1, 4.2, 7.5])
    ]
    areas = [fit(39.0) - fit(30.0) for fit in fits]
    assert found == pytest.approx(100 * np.expm1((areas[1] - areas[0]) / 9), abs=1e-6)
    # Through the points: a dearer point of equal quality buys nothing.
    with pytest.warns(UserWarning):
        dearer = bd_rate(RATE, quality, [1.0, 2.0, 4.0, 8.0, 99.0], quality, "pchip")
    assert dearer == pytest.approx(0, abs=1e-9)


def test_no_method_is_recommended_where_quality_falls():
    """By 0.1 at the highest rate, as AP that saturates does."""
    rates = [1.0, 2.0, 4.0, 8.0]
    falling, rising = [30.0, 35.0, 37.0, 36.9], [30.0, 35.0, 37.0, 37.1]
    note = compare_curves(*(list(zip(rates, each, strict=True)) for each in (falling, rising)))["note"]
    assert "neither is to be trusted: leave out the points that cost more" in note
    assert "use method" not in note


# From public reports; the polynomials swing where quality saturates. By pchip -3.0 % and -12.8 %.
SATURATING = [
    (
        ([5000, 4000, 3000, 2000], [99.98, 99.92, 99.5, 96.6]),
        ([5100, 4000, 3050, 2050], [99.984, 99.95, 99.66, 97.1]),
        -2.995,
    ),
    (
        ([0.01, 0.02, 0.04, 0.08, 0.16], [30, 36.5, 37.9, 38.1, 38.15]),
        ([0.008, 0.016, 0.03, 0.06, 0.12], [29, 36, 37.8, 38.05, 38.12]),
        -12.794,
    ),
]


@pytest.mark.parametrize(("anchor", "test", "through_points"), SATURATING)
def test_curves_that_saturate_warn_and_name_the_method(anchor, test, through_points):
    assert bd_rate(*anchor, *test, method="pchip") == pytest.approx(through_points, abs=1e-3)
    message = rf"by the cubic polynomial, but {through_points:+.1f} % .*use method 'pchip'"
    with pytest.warns(UserWarning, match=message.replace("+", r"\+")):
        bd_rate(*anchor, *test)
    note = compare_curves(*(list(zip(*curve, strict=True)) for curve in (anchor, test)))["note"]
    assert "use method 'pchip'" in note and ";" not in note  # which joins several


@pytest.mark.parametrize("span", [10.0, 0.1, 0.01])
def test_qualities_that_hardly_differ_are_compared_as_well(span):
    """Moving and stretching the axis of quality changes nothing."""
    anchor, test = [0.0, 0.5, 0.8, 1.0], [0.05, 0.55, 0.85, 1.02]
    rates = [1.0, 2.0, 4.0, 8.0], [0.5, 1.1, 2.3, 5.0]
    expected = bd_rate(rates[0], anchor, rates[1], test)
    near_90 = [[90 + span * quality for quality in curve] for curve in (anchor, test)]
    assert bd_rate(rates[0], near_90[0], rates[1], near_90[1]) == pytest.approx(expected, abs=1e-6)
