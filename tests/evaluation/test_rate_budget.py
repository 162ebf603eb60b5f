import pytest

from d2_featcomp.evaluation.rate_budget import OperatingPoint, choose_within_budget, compute_convex_hull

POINTS = [
    OperatingPoint("a", 1.0, 10.0),
    OperatingPoint("below the line from a to c", 2.0, 12.0),
    OperatingPoint("c", 3.0, 20.0),
    OperatingPoint("more for less", 4.0, 19.0),
    OperatingPoint("d", 8.0, 22.0),
    OperatingPoint("worse at equal rate", 8.0, 21.0),
    OperatingPoint("not measured", 0.5, float("nan")),
]


def names(points):
    return [point.name for point in points]


def test_hull():
    assert (
        names(compute_convex_hull(POINTS))
        == names(compute_convex_hull(reversed(POINTS)))
        == ["a", "c", "d"]
    )
    assert compute_convex_hull([]) == []


def test_budgets():
    assert choose_within_budget(POINTS, most_rate=2.9).name == "a"
    assert choose_within_budget(POINTS, most_rate=3).name == "c"
    assert choose_within_budget(POINTS, most_rate=100).name == "d"
    assert choose_within_budget(POINTS, least_quality=10).name == "a"
    assert choose_within_budget(POINTS, least_quality=10.1).name == "c"
    assert choose_within_budget(POINTS, least_quality=22).name == "d"


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"most_rate": 0.9}, "as little as 0.9: the least is 1"),
        ({"least_quality": 22.5}, "the best has 22"),
        ({}, "either"),
        ({"most_rate": 1, "least_quality": 1}, "either"),
    ],
)
def test_what_cannot_be_met(budget, words):
    with pytest.raises(ValueError, match=words):
        choose_within_budget(POINTS, **budget)


def test_nothing_to_choose_from():
    with pytest.raises(ValueError, match="no measured points"):
        choose_within_budget([], most_rate=1)
