"""What ends in one turn of the event loop is counted and logged in one go, and a bug with one call hides no other."""

import asyncio

from proxy.observer import Observer, Report
from proxy.telemetry.metrics import Metrics

ROUTE = "/v1/chat/completions"


class Lines:
    """A call log that keeps its lines."""

    def __init__(self):
        self.lines = []

    def write(self, line):
        if line.call_id == "broken":
            raise LookupError("a bug")
        self.lines.append(line)


def ended(observer, call_id, *, took_s=0.5):
    report = Report(call_id, ROUTE, 100.0)
    report.status = 200
    report.sent_s, report.answered_s = 100.125, 100.25
    observer.began()
    observer.ended(report, 100.0 + took_s)


async def test_calls_that_end_in_one_turn_are_told_of_at_its_end():
    log, metrics = Lines(), Metrics()
    observer = Observer(metrics, log)
    ended(observer, "one")
    ended(observer, "two", took_s=1.0)
    assert (log.lines, observer.calls_in_flight) == ([], 2)
    await asyncio.sleep(0)
    assert [(line.call_id, line.duration_ms, line.overhead_ms) for line in log.lines] == [
        ("one", 500.0, 375.0),  # 125 ms before it was sent, 250 after the answer
        ("two", 1000.0, 875.0),
    ]
    assert observer.calls_in_flight == 0
    ended(observer, "three")
    await asyncio.sleep(0)
    assert [line.call_id for line in log.lines] == ["one", "two", "three"]


async def test_a_bug_with_one_call_hides_no_other():
    log = Lines()
    observer = Observer(Metrics(), log)
    failures = []
    observer.failed = lambda where, exc: failures.append((where, str(exc)))
    for call_id in ("one", "broken", "two"):
        ended(observer, call_id)
    await asyncio.sleep(0)
    assert [line.call_id for line in log.lines] == ["one", "two"]
    assert failures == [("observer", "a bug")]
