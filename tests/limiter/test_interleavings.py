"""Three calls of two replicas, in every order: the limiter keeps its promises in all of them."""

import pytest

from proxy.core import account_state
from proxy.core.account_state import AccountState
from proxy.core.limits import Growth
from proxy.core.windows import GoneCalls, WindowLog
from tests.limiter.interleavings import BrokenPromiseError, search

ALWAYS = {"settled", "settled late", "refused", "growth granted", "growth refused", "growth gone", "a tail", "all over"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("found", "happened", "worlds_min"),
    [
        (search(ends=2), ALWAYS, 80_000),
        (search(ends=1, bucket=2), ALWAYS, 10_000),
        (search(ends=1, deaths=True), {*ALWAYS, "died"}, 50_000),
        (search(ends=1, mishaps=1), {*ALWAYS, "late", "answer lost", "admission replayed"}, 90_000),
    ],
    ids=["time", "wide buckets", "deaths", "mishaps"],
)
def test_every_promise_holds_in_every_order(found, happened, worlds_min):
    found.run()
    assert happened <= found.seen.keys()
    assert found.worlds >= worlds_min


def settled_again_and_again(monkeypatch):
    """What has expired is corrected each time that a settlement comes."""
    monkeypatch.setattr(GoneCalls, "find", lambda self, call_id, _: self._current.get(call_id))
    monkeypatch.setattr(
        account_state, "Gone", lambda at_ms, charged: Real(at_ms, charged or {("budget", "2026-11"): 0})
    )


def grown_beyond_what_fits(monkeypatch):
    """A wish is granted whatever others hold."""

    def grow(self, call_id, limits, wants, now_ms):
        now_ms = self._advance(now_ms)
        if (hold := self._holds.get(call_id)) is None:
            return Growth.GONE
        for limit, want in zip(limits, wants, strict=True):
            key = account_state.key_of(limit)
            held, known = hold.parts[key]
            self._logs[key].held += max(want - held, 0)
            hold.parts[key] = (max(want, held), known)
        return Growth.GRANTED

    monkeypatch.setattr(AccountState, "grow", grow)


def expired_for_nothing(monkeypatch):
    """What is told of a call is forgotten when its hold expires."""
    extend = AccountState.extend
    monkeypatch.setattr(
        AccountState,
        "extend",
        lambda self, call_id, limits, known, now_ms: extend(self, call_id, limits, (0, 0), now_ms),
    )


def admitted_again(monkeypatch):
    """An admission that comes again is decided again."""
    admit = AccountState.admit

    def anew(self, call_id, limits, needs, now_ms):
        self._advance(now_ms)
        self.release(call_id, now_ms)
        return admit(self, call_id, limits, needs, now_ms)

    monkeypatch.setattr(AccountState, "admit", anew)


def held_for_ever(monkeypatch):
    """Holds do not expire."""
    advance = AccountState._advance

    def forgetful(self, now_ms):
        holds, self._holds = self._holds, type(self._holds)()
        now_ms = advance(self, now_ms)
        self._holds = holds
        return now_ms

    monkeypatch.setattr(AccountState, "_advance", forgetful)


def aged_out_too_early(monkeypatch):
    """Amounts leave the window a tick before they are as old as it."""
    age = WindowLog.age
    monkeypatch.setattr(WindowLog, "age", lambda self, now_ms: age(self, now_ms + 1000))


def taken_in_part(monkeypatch):
    """A refused call keeps what the first limit had for it."""
    admit = AccountState.admit

    def partly(self, call_id, limits, needs, now_ms):
        answer = admit(self, call_id, limits, needs, now_ms)
        if not answer.admitted:
            self._logs[account_state.key_of(limits[0])].held += 1
        return answer

    monkeypatch.setattr(AccountState, "admit", partly)


def told_too_late(monkeypatch):
    """Retry-After is a millisecond more than it need be."""
    waits = AccountState._waits
    monkeypatch.setattr(AccountState, "_waits", lambda *args: [(wait_ms + 1, name) for wait_ms, name in waits(*args)])


Real = account_state.Gone
FAULTS = [
    aged_out_too_early,
    expired_for_nothing,
    grown_beyond_what_fits,
    held_for_ever,
    taken_in_part,
    told_too_late,
]
FAULTS_OF_REPLAYS = [admitted_again, settled_again_and_again]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_limiter_with_a_fault_is_found_out(fault, monkeypatch):
    fault(monkeypatch)
    with pytest.raises(BrokenPromiseError):
        search(ends=2).run()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS_OF_REPLAYS, ids=lambda fault: fault.__name__)
def test_a_limiter_that_takes_a_replay_for_news_is_found_out(fault, monkeypatch):
    fault(monkeypatch)
    with pytest.raises(BrokenPromiseError):
        search(ends=1, mishaps=1).run()
