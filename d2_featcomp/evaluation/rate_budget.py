"""The operating point that meets a budget."""

import dataclasses

__all__ = ["OperatingPoint", "choose_within_budget", "compute_convex_hull"]


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """`name` of a setting, its `rate` (any unit) and its `quality` (larger is better)."""

    name: str
    rate: float
    quality: float


def compute_convex_hull(points):
    """Computes the convex hull, of points that no mixture of others beats: the upper hull of quality
    over rate, while it rises.

    Args:
        points (iterable[OperatingPoint]): those with a NaN are left out.

    Returns:
        list[OperatingPoint]: by rising rate, and so by rising quality.
    """
    hull = []
    finite = (p for p in points if p.rate == p.rate and p.quality == p.quality)
    for point in sorted(finite, key=lambda p: (p.rate, -p.quality)):
        if hull and point.quality <= hull[-1].quality:
            continue
        while len(hull) > 1 and _slope(hull[-2], point) >= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return hull


def _slope(first, second):
    return (second.quality - first.quality) / (second.rate - first.rate)


def choose_within_budget(points, *, most_rate=None, least_quality=None):
    """Chooses an operating point within a budget.

    Args:
        points (iterable[OperatingPoint]): to choose from.
        most_rate (float or None): take the best quality at no more than this rate.
        least_quality (float or None): take the lowest rate at no less than this quality.

    Returns:
        OperatingPoint: on the convex hull.

    Raises:
        ValueError: no point meets it, or not exactly one of the two is given.
    """
    if (most_rate is None) == (least_quality is None):
        raise ValueError("give either a largest rate or a least quality")
    hull = compute_convex_hull(points)
    if not hull:
        raise ValueError("there are no measured points to choose from")
    if most_rate is not None:
        fitting = [point for point in hull if point.rate <= most_rate]
        if not fitting:
            raise ValueError(
                f"no setting needs as little as {most_rate:g}: the least is {hull[0].rate:.4g} "
                f"({hull[0].name})"
            )
        return fitting[-1]
    fitting = [point for point in hull if point.quality >= least_quality]
    if not fitting:
        raise ValueError(
            f"no setting reaches a quality of {least_quality:.4g}: the best has {hull[-1].quality:.4g} "
            f"({hull[-1].name})"
        )
    return fitting[0]
