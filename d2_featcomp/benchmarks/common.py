"""What all benchmarks share."""

import dataclasses
import statistics
import time

import torch


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a benchmark is run with.

    Attributes:
        device (torch.device): of the networks.
        repeats (int): of each measurement; slow ones take half as many.
        size ((int, int)): height and width of the images of the detection networks, in pixels.
        threads (int): of PyTorch on CPUs.
        compiles (bool): whether networks are measured compiled, too; compiling takes long.
    """

    device: torch.device
    repeats: int
    size: tuple
    threads: int
    compiles: bool = True

    @property
    def few(self):
        """int: how often slow things are measured."""
        return max(1, self.repeats // 2)

    def at_most(self, height, width):
        """(int, int): that size, or where it is smaller that of the settings."""
        return min(height, self.size[0]), min(width, self.size[1])


def median_times(variants, repeats, device, warm_up=1):
    """Runs functions in turns, so that all of them meet the same disturbances.

    Args:
        variants (dict[str, callable]): what to run.
        repeats (int or dict[str, int]): how often, at least once.
        device (torch.device): waited for after each call.
        warm_up (int): how often each runs before.

    Returns:
        dict[str, float]: median seconds of a call.
    """
    if not isinstance(repeats, dict):
        repeats = dict.fromkeys(variants, repeats)

    def timed(run):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    for run in variants.values():
        for _ in range(warm_up):
            timed(run)
    times = {name: [] for name in variants}
    for turn in range(max(repeats.values())):
        for name, run in variants.items():
            if turn < repeats[name]:
                times[name].append(timed(run))
    return {name: statistics.median(values) for name, values in times.items()}


def times_faster(what, against, value, other, goal=None):
    """A row of the table: how often `value` goes into `other`, which should be at least `goal`."""
    return _row(what, against, value, other, other / value, ">=", goal)


def share(what, against, value, other, goal=None):
    """A row of the table: which part of `other` is `value`, which should be at most `goal`."""
    return _row(what, against, value, other, value / other, "<=", goal)


def _row(what, against, value, other, ratio, sign, goal):
    reached = goal is None or (ratio >= goal if sign == ">=" else ratio <= goal)
    return {
        "what": what,
        "against": against,
        "value": value,
        "value_against": other,
        "ratio": ratio,
        "goal": "" if goal is None else f"{sign} {goal:g}",
        "reached": reached,
    }
