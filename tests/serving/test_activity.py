"""Counts, histograms and the last seconds, with a clock of our own; and clients."""

import pytest

from d2_featcomp.serving import activity, clients
from d2_featcomp.serving.activity import COUNTED, HISTORY, Activity, Histogram, find_quantiles
from d2_featcomp.serving.clients import OTHERS, ClientTable


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_a_histogram():
    histogram = Histogram((1.0, 2.0, 4.0))
    for value in (0.5, 1.0, 1.5, 4.0, 9.0):
        histogram.add(value)
    assert histogram.counts == [2, 1, 1, 1] and histogram.cumulative() == [2, 3, 4, 5]
    copied = histogram.copy()
    histogram.add(1.0)
    assert copied.total == 16.0 and copied.cumulative()[-1] == 5


def test_quantiles():
    assert find_quantiles([]) == {"p50": None, "p90": None, "p99": None}
    assert find_quantiles([3.0]) == {"p50": 3.0, "p90": 3.0, "p99": 3.0}
    assert find_quantiles([float(n) for n in range(101)]) == {"p50": 50.0, "p90": 90.0, "p99": 99.0}


def test_the_last_seconds():
    clock = Clock()
    found = Activity(clock)
    for second in range(5):
        for n in range(second):
            found.add_result(100, latency=0.1 * (n + 1), cloud_seconds=0.01)
        clock.now += 1
    found.count("refused")
    recent = found.recent()  # the second that is running is not whole
    assert recent["uptime"] == 5 and recent["rates"] == {"results": 2.0, "bytes": 200.0, "failures": 0.0}
    history = recent["history"]
    assert all(len(values) == HISTORY - 1 for values in history.values())
    assert history["results"][-5:] == [0, 1, 2, 3, 4] and history["bytes"][-2:] == [300, 400]
    assert history["p50"][-5] is None and history["p50"][-1] == pytest.approx(0.25)
    assert recent["latency"]["p50"] == pytest.approx(0.2)
    clock.now += 1
    assert found.recent()["history"]["failures"][-1] == 1
    clock.now += 70
    assert found.recent()["latency"]["p50"] is None and found.recent()["rates"]["results"] == 0
    clock.now += HISTORY
    assert sum(found.recent()["history"]["results"]) == 0
    counts = found.counts()
    assert counts.keys() == COUNTED.keys() and counts["done"] == 10 and counts["refused"] == 1


def test_many_results_in_a_second_take_bounded_memory(monkeypatch):
    monkeypatch.setattr(activity, "_LATENCIES_KEPT", 100)
    found = Activity(clock := Clock())
    for n in range(10000):
        found.add_result(1, n / 10000, 0.01)
    clock.now += 1
    assert len(found._copy_second(1000).latencies) == 100
    assert 0.3 < found.recent()["latency"]["p50"] < 0.7  # of a random choice of all
    assert found.histograms["latency_seconds"].cumulative()[-1] == 10000


def test_clients(monkeypatch):
    monkeypatch.setattr(clients, "MOST_CLIENTS", 2)
    table = ClientTable(clock := Clock())
    for client, code, size in (("a", 200, 10), ("b", 200, 20), ("a", 503, 0), ("c", 400, 5)):
        table.add(client, code, size)
        clock.now += 1
    assert [row["client"] for row in table.rows() if row["client"] != OTHERS] == ["c", "a"]
    assert table.codes() == {("a", 200): 1, ("a", 503): 1, ("c", 400): 1, (OTHERS, 200): 1}
    assert table.bytes() == {"a": 10, "c": 5, OTHERS: 20}
    (row,) = (row for row in table.rows() if row["client"] == "a")
    # 503 asks for it again: no failure, as 400 is.
    assert (row["results"], row["failures"], row["rate"], row["last"]) == (1, 0, 0.2, 1002.0)
    (row,) = (row for row in table.rows() if row["client"] == "c")
    assert (row["results"], row["failures"]) == (0, 1)
    for n in range(20):
        table.add(f"d{n}", 200, 1)
    assert len(table.rows()) == 3 and sum(table.bytes().values()) == 55
    clock.now += 60
    assert {row["rate"] for row in table.rows()} == {0}


def test_failures_are_few_and_short():
    table = ClientTable(Clock())
    for n in range(100):
        table.add_failure("a", f"{n}-{'x' * 1000}", 400, "y" * 1000)
    found = table.failures()
    assert len(found) == 50 and found[0]["id"].startswith("99-")
    assert len(found[0]["id"]) == len(found[0]["detail"]) == 300
