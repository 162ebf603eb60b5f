"""Average saving of bits between two curves (Bjontegaard, VCEG-M33, 2001)."""

import warnings

import numpy as np

__all__ = ["bd_rate", "compare_curves"]

_LEAST_POINTS = {"cubic": 4, "pchip": 2, "akima": 3}
_LITTLE_OVERLAP = 0.5  # of the shorter curve's range of quality
_METHODS_AGREE = 1.05  # the ratio of rates by the polynomial and by the curves through the points


def bd_rate(rate_anchor, quality_anchor, rate_test, quality_test, method="cubic"):
    """Computes the Bjontegaard delta rate, in percent: negative where the tested curve saves bits.

    The logarithm of the rate is a function of the quality, fitted to each curve and averaged over the
    interval of quality that both cover. Computed by the package bjontegaard.

    Args:
        rate_anchor, rate_test (sequence[float]): positive, in the same unit, in any order.
        quality_anchor, quality_test (sequence[float]): of the same points; larger is better.
        method (str): "cubic" (a third-order polynomial, as in the papers), "pchip" or "akima" (through
            the points; for curves that saturate). Of points of equal quality the polynomial fits all,
            the others take the cheapest.

    Returns:
        float: percent.

    Raises:
        ValueError: too few points of different quality (four for cubic, two for pchip, three for
            akima), a rate that is not positive, values that are not finite, or no quality that both
            curves reach.

    Warns:
        UserWarning: the curves share less than half of the shorter one's range of quality; on one of
            them quality does not rise with the rate; or the polynomials leave their points by so much
            that their BD-rate and that of the curves through the points disagree by 5 %.
    """
    if method not in _LEAST_POINTS:
        raise ValueError(f"unknown BD-rate method {method!r}: choose one of {', '.join(_LEAST_POINTS)}")
    anchor = _curve("anchor", rate_anchor, quality_anchor, method)
    test = _curve("test", rate_test, quality_test, method)
    low = max(anchor[1][0], test[1][0])
    high = min(anchor[1][-1], test[1][-1])
    if low >= high:
        raise ValueError(
            f"the curves share no quality: the anchor covers {anchor[1][0]:.6g} to "
            f"{anchor[1][-1]:.6g}, the test {test[1][0]:.6g} to {test[1][-1]:.6g}"
        )
    shorter = min(quality[-1] - quality[0] for _, quality in (anchor, test))
    if high - low < _LITTLE_OVERLAP * shorter:
        warnings.warn(
            f"the curves share only {100 * (high - low) / shorter:.0f} % of the shorter one's range of "
            "quality: this BD-rate says little",
            stacklevel=2,
        )
    if method != "cubic":
        return _bd_rate(_cheapest(anchor), _cheapest(test), method)
    value = _bd_rate(anchor, test, method)
    through_points = _bd_rate(_cheapest(anchor), _cheapest(test), "pchip")
    expected = 100 + through_points
    if not expected / _METHODS_AGREE <= 100 + value <= expected * _METHODS_AGREE:
        rises = all((np.diff(rates) > 0).all() for rates, _ in (anchor, test))
        advice = (
            "the polynomial swings where quality saturates or points are uneven: use method 'pchip'"
            if rises
            else "neither is to be trusted: leave out the points that cost more and are not better"
        )
        warnings.warn(
            f"BD-rate is {value:+.1f} % by the cubic polynomial, but {through_points:+.1f} % by curves "
            f"through the points: {advice}",
            stacklevel=2,
        )
    return value


def _bd_rate(anchor, test, method):
    import bjontegaard

    # The powers of qualities such as 76.01 to 76.05 are too alike for a polynomial to be fitted.
    every = np.concatenate([anchor[1], test[1]])
    curves = [(rates, (quality - every.mean()) / np.ptp(every)) for rates, quality in (anchor, test)]
    value = bjontegaard.bd_rate(
        *curves[0], *curves[1], method=method, require_matching_points=False, min_overlap=0
    )
    return float(value)


def _cheapest(curve):
    """(rates, qualities), by rising quality and rate, without the dearer points of equal quality."""
    rates, qualities = curve
    first = np.diff(qualities, prepend=-np.inf) > 0
    return rates[first], qualities[first]


def compare_curves(anchor, test, method="cubic"):
    """Computes :func:`bd_rate`, with its warnings as text.

    Args:
        anchor, test (sequence[(float, float)]): rate and quality of each point.
        method (str): as there.

    Returns:
        dict: "percent", NaN where it cannot be computed, and "note", errors and warnings, or "".
            Several are joined by "; ", which none of them holds.
    """
    percent, notes = float("nan"), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            rates_and_qualities = [[p[i] for p in curve] for curve in (anchor, test) for i in (0, 1)]
            percent = bd_rate(*rates_and_qualities, method=method)
        except ValueError as error:
            notes = [str(error)]
    notes += [str(warning.message) for warning in caught]
    return {"percent": percent, "note": "; ".join(notes)}


def _curve(name, rates, qualities, method):
    """(rates, qualities), by rising quality."""
    rates, qualities = np.asarray(rates, np.float64), np.asarray(qualities, np.float64)
    if rates.ndim != 1 or rates.shape != qualities.shape:
        raise ValueError(
            f"the {name} curve needs as many rates as qualities, not {rates.shape} and {qualities.shape}"
        )
    if not (np.isfinite(rates).all() and np.isfinite(qualities).all()):
        raise ValueError(f"the {name} curve has a value that is not finite")
    if not (rates > 0).all():
        raise ValueError(f"the {name} curve has a rate that is not positive")
    order = np.lexsort((rates, qualities))
    rates, qualities = rates[order], qualities[order]
    different = len(np.unique(qualities))
    if different < _LEAST_POINTS[method]:
        raise ValueError(
            f"the {name} curve has {different} points of different quality: BD-rate by {method} needs "
            f"at least {_LEAST_POINTS[method]}"
        )
    if (np.diff(rates) <= 0).any() or different < len(qualities):
        warnings.warn(f"on the {name} curve quality does not always rise with the rate", stacklevel=3)
    return rates, qualities
