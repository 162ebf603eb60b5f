"""Whether what was measured reaches the goals of a plan."""

import statistics

from ..evaluation.tradeoff import AP_COLUMNS, find_rate_for_accuracy
from .differences import describe_interval

__all__ = ["check_goal"]


def check_goal(goal, report):
    """Checks a goal.

    Args:
        goal (Goal): of the plan.
        report (Report): of what was measured.

    Returns:
        (bool, str): whether it was reached, and what was measured, in words.
    """
    if goal.bd_rate:
        return _check_bd_rate(goal, report)
    rows, plan = report.means()[0], report.plan
    row = rows[goal.setting]
    needed = goal.column or (plan.ys or report.qualities())[0]
    lacking = [name for name in (goal.setting, goal.minus) if name and needed not in rows[name]]
    if lacking:
        return False, f"{lacking[0]}: {needed} was not measured"
    if goal.compression_ratio_against:
        points = report.curves(plan.x, needed).get(goal.compression_ratio_against, [])
        if not points:
            return False, f"{goal.compression_ratio_against}: {needed} was not measured"
        rate = find_rate_for_accuracy(
            [p[plan.x] for p in points], [p[needed] for p in points], row[needed]
        )
        what = f"compression ratio against {goal.compression_ratio_against} at the same {needed}"
        return _within(goal, f"{goal.setting}: {what}", rate / row[plan.x])
    if goal.minus:
        value = row[goal.column] - rows[goal.minus][goal.column]
        reached, words = _within(
            goal, f"{goal.setting}: {goal.column} minus that of {goal.minus}", value
        )
        return reached, words + _tell_interval(goal, report)
    return _within(goal, f"{goal.setting}: {goal.column}", row[goal.column])


def _tell_interval(goal, report):
    """str: the interval of a goal's difference, where there is one."""
    if goal.column not in AP_COLUMNS or report.plan.seeds:
        return ""
    found = report.compute_difference(goal.setting, goal.minus, goal.column)
    return "" if found["note"] else f", 95 % interval {describe_interval(found)}"


def _check_bd_rate(goal, report):
    plan = report.plan
    wanted = next(
        wanted
        for wanted in plan.bd_rates
        if (wanted.test, wanted.anchor) == (goal.bd_rate, goal.anchor) and goal.column in wanted.columns
    )
    value = statistics.fmean(
        report.compute_bd_rate(wanted, plan.x, goal.column, seed)["percent"]
        for seed in plan.seeds or (None,)
    )
    what = f"{goal.bd_rate}: BD-rate against {goal.anchor} by {goal.column}, in percent,"
    return _within(goal, what, value)


def _within(goal, what, value):
    """An infinite ratio, of a curve that never gets there, is reached, but is no number to print."""
    bounds = [f"at least {goal.at_least}"] * (goal.at_least > float("-inf"))
    bounds += [f"at most {goal.at_most}"] * (goal.at_most < float("inf"))
    infinite = value in (float("inf"), float("-inf"))
    shown = (
        "- (it never reaches that)" if infinite and goal.compression_ratio_against else f"{value:.5g}"
    )
    return goal.at_least <= value <= goal.at_most, f"{what} {shown} ({' and '.join(bounds)})"
