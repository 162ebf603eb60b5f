import threading

import pytest

from d2_featcomp.serving import run_ahead


@pytest.mark.parametrize("count", [0, 1, 3])
def test_all_items_in_order(count):
    assert list(run_ahead(iter(range(20)), count)) == list(range(20))
    assert list(run_ahead([], count)) == []


@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_is_ahead_and_bounded(count):
    made, taken = [], []
    reached = threading.Event()

    def make():
        for index in range(20):
            made.append(index)
            assert len(made) - len(taken) <= count + 2  # ready, in the making, and in the taker's hands
            if len(made) == count + 1:
                reached.set()
            yield index

    for item in run_ahead(make(), count):
        assert reached.wait(10)  # before the first item is done with, the next ones are made
        taken.append(item)
    assert taken == list(range(20))


@pytest.mark.parametrize("count", [0, 2])
def test_an_error_comes_after_the_items_before_it(count):
    def make():
        yield 1
        yield 2
        raise ValueError("damaged")

    taken = []
    with pytest.raises(ValueError, match="damaged"):
        taken.extend(iter_into(taken, run_ahead(make(), count)))
    assert taken == [1, 2]


def iter_into(taken, items):
    for item in items:
        taken.append(item)
    return []


def test_who_stops_early_stops_the_maker():
    closed = threading.Event()

    def make():
        try:
            yield from range(10**9)
        finally:
            closed.set()

    items = run_ahead(make(), 2)
    assert next(items) == 0
    before = threading.active_count()
    items.close()
    assert closed.is_set() and threading.active_count() == before - 1
