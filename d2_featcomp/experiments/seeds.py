"""Trainings and points of a plan, once for each of its seeds."""

import dataclasses

__all__ = ["name_repeat", "repeat_points", "repeat_trainings"]


def name_repeat(name, seed):
    """Names what was done with one of several seeds."""
    return f"{name}, seed {seed}" if name else ""


def repeat_trainings(trainings, seeds):
    """Repeats trainings with each seed, those that are done `once` with the first.

    Args:
        trainings (dict): name -> Training, each after the one it starts from.
        seeds (sequence[int]): empty: nothing changes.

    Returns:
        dict: by their new names.
    """
    if not seeds:
        return trainings
    repeated = [
        dataclasses.replace(
            training,
            name=_seeded_training(training.name, seed, trainings),
            start=_seeded_training(training.start, seed, trainings),
            overrides={**training.overrides, "SEED": seed},
        )
        for seed in seeds
        for training in trainings.values()
        if seed == seeds[0] or not training.once
    ]
    return {training.name: training for training in repeated}


def repeat_points(points, trainings, seeds):
    """Repeats points with each seed, with the weights of the training of that seed.

    Args:
        points (list[Point]): of the plan.
        trainings (dict): as they were before they were repeated.
        seeds (sequence[int]): empty: nothing changes.

    Returns:
        dict: name -> Point.
    """
    repeated = [
        dataclasses.replace(
            point,
            name=name_repeat(point.name, seed),
            training=_seeded_training(point.training, seed, trainings),
            repeats=point.name,
            seed=seed,
        )
        for seed in seeds
        for point in points
    ]
    return {point.name: point for point in (repeated if seeds else points)}


def _seeded_training(name, seed, trainings):
    return name if name in trainings and trainings[name].once else name_repeat(name, seed)
