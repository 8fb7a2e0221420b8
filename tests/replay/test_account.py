"""One account's calls, replayed: who is refused, when they come again, what they hold, what they cost."""

import random
from itertools import pairwise

import pytest

from proxy.allowances import Allowances
from proxy.core.accounts import Account
from proxy.core.catalogue import Tier
from proxy.core.pricing import PriceBook, PriceVersion, UnpricedError
from proxy.core.usage import Quantity, TariffClass, Usage, UsageType
from proxy.ledger.months_entries import Holder, SettledCall
from proxy.months import Months
from proxy.replay.account import AccountReplay
from proxy.replay.proposal import Proposal, ProposalError
from proxy.replay.rating import Rating
from proxy.replay.report import AccountReport, Peak, Sums, in_order, total
from tests.replay.living import BOOK, DEAR, HOUR_MS, MODELS, OCTOBER_MS, OLD, stricter

FREE = Tier("t", "T", None, None, None, None)
HOUR = "output_tokens_hour"
MINUTE_MS = 60_000
BATCH_TOO = {**OLD.unit_prices_pico, (UsageType.OUTPUT, TariffClass.BATCH): 4_000_000}


def call(at_ms: int, tokens: int = 10, length_ms: int = 500, **changes) -> SettledCall:
    made = {
        "call_id": f"{at_ms}-{changes.pop('number', 0)}",
        "month": "2026-10",
        "key_id": "key",
        "tier": "t",
        "endpoint": "/v1/chat/completions",
        "model": "chat",
        "tariff_class": "standard",
        "admitted_ms": OCTOBER_MS + at_ms,
        "settled_ms": OCTOBER_MS + at_ms + length_ms,
        "cost_pico": tokens * 8_000_000,
        "quantities": (0, 0, tokens, 0, 0, 0),
    }
    return SettledCall(**{**made, **changes})


def replay_of(own: Tier = FREE, /, **changes) -> AccountReplay:
    holder = Holder(Account("acc", "acme", "t"), OCTOBER_MS, 1, ("t",))
    made = {"tiers": {"t": own}, "rating": Rating(PriceBook((OLD,))), "models": MODELS, **changes}
    months = Months()
    return AccountReplay(Proposal(**made), holder, "2026-10", Allowances(), months)


def replayed(calls: list[SettledCall], own: Tier = FREE, /, **changes) -> AccountReport:
    replay = replay_of(own, **changes)
    for each in calls:
        replay.play(each)
    return replay.finish()


# Who is refused


def test_a_call_that_has_no_room_is_refused_by_the_limit_that_bound_and_its_worth_is_lost():
    report = replayed(
        [call(0, 900), call(MINUTE_MS, 101), call(HOUR_MS + 501, 900)], stricter(FREE, output_tokens_hour=1000)
    )
    assert report.sums == Sums(3, {HOUR: 1}, 0, {}, 101, 101 * 8_000_000, 1901 * 8_000_000, 1800 * 8_000_000)
    assert (report.first_refused_ms, report.tiers) == (OCTOBER_MS + MINUTE_MS, ("t",))
    assert report.peaks[HOUR] == Peak(900, 1000)


def test_a_call_that_is_larger_than_a_whole_limit_is_refused_by_it():
    assert replayed([call(0, 11)], stricter(FREE, output_tokens_hour=10)).sums.refused == {HOUR: 1}


def test_requests_count_from_admission_and_calls_in_flight_until_they_end():
    calls = [call(at, length_ms=5_000) for at in (0, 1, 4_999, 5_000, 60_500)]
    assert replayed(calls, stricter(FREE, requests=3)).sums.refused == {"requests": 1}
    assert replayed(calls, stricter(FREE, calls_in_flight=2)).sums.refused == {"calls_in_flight": 1}
    assert replayed(calls, stricter(FREE, calls_in_flight=3)).peaks["calls_in_flight"] == Peak(3, 3)


def test_the_budget_is_spent_at_the_proposed_prices():
    calls = [call(0, 100), call(1_000, 100)]
    tier = stricter(FREE, monthly_limit_pico=200 * 8_000_000)
    assert replayed(calls, tier).sums.refused == {}
    dear = Rating(
        PriceBook((PriceVersion("v", 0, {**OLD.unit_prices_pico, (UsageType.OUTPUT, "standard"): 9_000_000}),))
    )
    sums = replayed(calls, tier, rating=dear).sums
    assert (sums.refused, sums.lost_pico, sums.proposed_pico) == ({"budget_month": 1}, 900_000_000, 900_000_000)


@pytest.mark.parametrize(
    "limit", [{"output_tokens_hour": 150}, {"output_tokens_day": 150}, {"requests": 1}, {"calls_in_flight": 1}], ids=str
)
def test_a_line_of_a_batch_is_in_no_window_whatever_it_used(limit):
    day_ms = 24 * HOUR_MS
    lines = [call(at, 1_000, day_ms, number=at, tariff_class="batch", cost_pico=0) for at in (0, 0, 500, 700)]
    rates = Rating(PriceBook((PriceVersion("v", 0, BATCH_TOO),)))
    report = replayed([*lines[:3], call(600, 100, 50), lines[3]], stricter(FREE, **limit), rating=rates)
    assert (report.sums.calls, report.sums.refused, report.sums.delayed) == (5, {}, 0)
    assert report.sums.proposed_pico == 4 * 1_000 * 4_000_000 + 100 * 8_000_000
    (name,) = limit
    assert report.peaks[name].amount == (100 if "tokens" in name else 1)


def test_a_line_of_a_batch_is_in_the_budget_from_the_instant_at_which_its_batch_was_made():
    rates = Rating(PriceBook((PriceVersion("v", 0, BATCH_TOO),)))
    tier = stricter(FREE, monthly_limit_pico=200 * 4_000_000, output_tokens_hour=10)
    lines = [call(at, 100, 20 * HOUR_MS, number=at, tariff_class="batch") for at in (0, 1, 2)]
    report = replayed([*lines, call(1_000, 1)], tier, rating=rates)
    assert report.sums.refused == {"budget_month": 2}
    assert report.peaks["budget_month"] == Peak(800_000, 800_000)
    assert report.sums.lost_pico == 100 * 4_000_000 + 8_000_000


def test_a_line_of_a_batch_from_before_the_month_is_nothing_to_it():
    tier = stricter(FREE, output_tokens_hour=1_000, calls_in_flight=1)
    before = call(-3_000, 900, HOUR_MS, month="2026-09", tariff_class="batch")
    assert replayed([before, call(1_000, 900)], tier).sums == replayed([call(1_000, 900)], tier).sums


def test_lines_of_a_long_batch_are_no_work_while_they_wait():
    replay = replay_of(rating=Rating(PriceBook((PriceVersion("v", 0, BATCH_TOO),))))
    for at in range(3):
        replay.play(call(at, 100, 24 * HOUR_MS, number=at, tariff_class="batch"))
    replay.play(call(3))
    assert len(replay._events) == 1


def test_a_limit_in_shadow_refuses_nothing_and_says_what_it_would_have():
    tier = stricter(FREE, output_tokens_hour=1000, shadow=(HOUR,))
    report = replayed([call(0, 900), call(MINUTE_MS, 300)], tier)
    assert (report.sums.refused, report.sums.shadowed) == ({}, {HOUR: 1})
    assert report.peaks[HOUR] == Peak(1200, 1000)
    assert report.peaks[HOUR].permille == 1200


def test_a_call_that_comes_again_is_counted_in_shadow_once():
    tier = stricter(FREE, requests=1, output_tokens_hour=5, shadow=(HOUR,))
    sums = replayed([call(0), call(1_000)], tier, retries=1).sums
    assert (sums.shadowed, sums.delayed, sums.refused) == ({HOUR: 2}, 1, {})


def test_limits_of_models_and_tiers_hold_together():
    scarce = [call(at, 2_000, model="scarce:1") for at in (0, MINUTE_MS)]
    assert replayed(scarce).sums.refused == {"model_output_tokens_hour": 1}
    assert replayed(scarce, models={}).sums.refused == {}


def test_a_call_with_a_tier_that_nobody_knows_is_told():
    with pytest.raises(ProposalError, match="no tier 'old', with which call 0-0 was made"):
        replayed([call(0, tier="old")])


def test_every_account_can_be_given_one_tier():
    other = {"t": FREE, "small": stricter(FREE, output_tokens_hour=5)}
    report = replayed([call(0)], tiers=other, tier="small")
    assert (report.proposed_tier, report.sums.refused) == ("small", {HOUR: 1})


def test_a_call_from_before_the_month_is_never_refused_and_holds_until_it_ends():
    tier = stricter(FREE, output_tokens_hour=1000, calls_in_flight=1)
    before = [call(-3_000, 900, 5_000, month="2026-09"), call(-2_000, 900, 5_000, month="2026-09")]
    report = replayed([*before, call(1_000, 1), call(10_000, 1)], tier)
    assert report.sums.refused == {"calls_in_flight": 1, HOUR: 1}
    assert report.sums.calls == 2


def test_a_call_from_before_the_month_counts_in_the_months_windows_whatever_tier_it_was_made_with():
    before = call(-3_000, 900, month="2026-09", tier="gone")
    assert replayed([before, call(1_000, 101)], stricter(FREE, output_tokens_hour=1000)).sums.refused == {HOUR: 1}


# Against a reference without buckets


def random_calls(seed: int) -> list[SettledCall]:
    rng, at, made = random.Random(seed), 0, []
    for number in range(400):
        at += rng.choice((0, 3, 400, 2_000, 9_000, 60_000, round(rng.expovariate(1 / 90_000))))
        made.append(call(at, rng.randint(0, 300), rng.choice((0, 40, 3_000, 70_000, 400_000)), number=number))
    return sorted(made, key=lambda each: (each.admitted_ms, each.call_id))


@pytest.mark.parametrize("seed", range(6))
def test_what_is_admitted_is_never_more_than_the_limit_and_what_is_refused_had_no_room_but_for_a_bucket(seed):
    capacity, bucket_ms = 1500, 10_000
    tier = stricter(FREE, output_tokens_hour=capacity)
    replay, admitted, refused = replay_of(tier), [], []
    for each in random_calls(seed):
        before = replay.refused_calls
        replay.play(each)
        (refused if replay.refused_calls > before else admitted).append(each)
    assert len(refused) > 20

    def counted(at_ms: int, window_ms: int) -> int:
        """What was delivered in a window, and what is held."""
        known = [each for each in admitted if each.admitted_ms <= at_ms and each.settled_ms > at_ms - window_ms]
        return sum(each.quantities[2] for each in known)

    for each in admitted:
        assert counted(each.admitted_ms, HOUR_MS) <= capacity
    for each in refused:
        known = [other for other in admitted if (other.admitted_ms, other.call_id) < (each.admitted_ms, each.call_id)]
        most = sum(other.quantities[2] for other in known if other.settled_ms > each.admitted_ms - HOUR_MS - bucket_ms)
        assert most + each.quantities[2] > capacity


# What is held, and for how long


def test_a_call_holds_what_it_used_or_a_stated_cap_if_it_generates():
    tier = stricter(FREE, output_tokens_hour=1000)
    two = [call(0, 10, 5_000), call(1, 10, 5_000)]
    assert replayed(two, tier).sums.refused == {}
    report = replayed(two, tier, cap=995)
    assert (report.sums.refused, report.peaks[HOUR]) == ({HOUR: 1}, Peak(995, 1000))
    assert replayed([call(0, 999, 5_000)], tier, cap=995).peaks[HOUR] == Peak(999, 1000)
    rerank = [call(at, 0, 5_000, endpoint="/v1/rerank", quantities=(0, 0, 0, 0, 7, 0)) for at in (0, 1)]
    assert replayed(rerank, tier, cap=995).peaks[HOUR] == Peak(0, 1000)


def test_a_call_that_has_ended_counts_with_what_it_used_whatever_it_held():
    tier = stricter(FREE, output_tokens_hour=1000, monthly_limit_pico=1000 * 8_000_000)
    sums = replayed([call(0), call(MINUTE_MS)], tier, cap=990).sums
    assert sums.refused == {}


def test_money_is_held_for_the_stated_cap_too():
    tier = stricter(FREE, monthly_limit_pico=1000 * 8_000_000)
    assert replayed([call(0, 10, 5_000), call(1, 10)], tier, cap=991).sums.refused == {"budget_month": 1}


def test_a_call_of_hours_holds_to_its_end():
    tier = stricter(FREE, calls_in_flight=1)
    calls = [call(0, length_ms=2 * HOUR_MS), *(call(at * MINUTE_MS) for at in (1, 59, 119, 121))]
    assert replayed(calls, tier).sums.refused == {"calls_in_flight": 3}


def test_a_clock_that_went_back_settles_at_once():
    assert (
        replayed([call(5_000, length_ms=-3_000), call(5_000, number=1)], stricter(FREE, calls_in_flight=1)).sums.refused
        == {}
    )


# Coming again


def test_a_refused_call_comes_again_at_retry_after_and_is_no_loss():
    calls = [call(0), call(500), call(59_900)]
    tier = stricter(FREE, requests=1)
    assert replayed(calls, tier).sums.refused == {"requests": 2}
    sums = replayed(calls, tier, retries=1).sums
    assert (sums.refused, sums.delayed, sums.proposed_pico) == ({"requests": 1}, 1, 20 * 8_000_000)
    sums = replayed(calls, tier, retries=2).sums
    assert (sums.refused, sums.delayed, sums.difference_pico) == ({}, 2, 0)


def test_a_call_does_not_come_again_after_more_than_a_minute_or_when_the_month_is_spent():
    late = stricter(FREE, output_tokens_hour=10)
    spent = stricter(FREE, monthly_limit_pico=10 * 8_000_000)
    for tier, name in ((late, HOUR), (spent, "budget_month")):
        assert replayed([call(0), call(1_000)], tier, retries=5).sums.refused == {name: 1}


def test_a_call_that_comes_again_as_another_ends_takes_its_place_and_runs_as_long_as_it_did():
    calls = [call(0, length_ms=1_000), call(0, length_ms=5_000, number=1), call(5_999, number=2), call(6_000, number=3)]
    sums = replayed(calls, stricter(FREE, calls_in_flight=1), retries=1).sums
    assert (sums.refused, sums.delayed) == (
        {},
        2,
    )  # the second runs from 1,000 to 6,000: the third comes a second later
    sums = replayed(calls[:3], stricter(FREE, calls_in_flight=1)).sums
    assert sums.refused == {"calls_in_flight": 1}


def test_a_spent_month_is_not_waited_for_however_soon_it_ends():
    spent = stricter(FREE, monthly_limit_pico=10 * 8_000_000)
    ends = 745 * HOUR_MS
    assert replayed([call(0), call(ends - 30_000)], spent, retries=5).sums.refused == {"budget_month": 1}


def test_a_call_that_comes_again_costs_what_it_does_then():
    book = PriceBook((OLD, PriceVersion("later", OCTOBER_MS + 30_000, DEAR.unit_prices_pico)))
    tier = stricter(FREE, requests=1)
    sums = replayed([call(0), call(500)], tier, retries=1, rating=Rating(book)).sums
    assert (sums.charged_pico, sums.proposed_pico) == (20 * 8_000_000, 10 * 8_000_000 + 10 * 9_000_001)


# What it costs


@pytest.mark.parametrize("seed", range(3))
def test_calls_are_rated_as_the_proxy_rates_them(seed):
    rng, rating = random.Random(seed), Rating(BOOK)
    for _ in range(200):
        at_ms = OCTOBER_MS + rng.randint(-HOUR_MS, 48 * HOUR_MS)
        amounts = tuple(rng.choice((0, 1, rng.randint(0, 10**12))) for _ in UsageType)
        usage = Usage(tuple(Quantity(kind, amount) for kind, amount in zip(UsageType, amounts, strict=True)))
        charge = BOOK.version_at(at_ms).rate("chat", usage, TariffClass.STANDARD)
        assert rating.cost_pico(call(0, quantities=amounts), at_ms) == charge.total_pico
    assert rating.versions == ("old", "dear")


def test_a_price_of_the_model_wins_and_a_version_can_be_given_to_all():
    prices = {("chat", UsageType.OUTPUT, TariffClass.STANDARD): 1}
    own = PriceVersion("own", OCTOBER_MS + 10**12, OLD.unit_prices_pico, prices)
    book = PriceBook((OLD, own))
    assert Rating(book).cost_pico(call(0), OCTOBER_MS) == 10 * 8_000_000
    fixed = Rating(book, "own")
    assert (fixed.cost_pico(call(0), OCTOBER_MS), fixed.versions) == (10, ("own",))
    assert fixed.cost_pico(call(0, model="other"), OCTOBER_MS) == 10 * 8_000_000
    with pytest.raises(UnpricedError, match="no price version 'new'; there are: old, own"):
        Rating(book, "new")


def test_what_has_no_price_is_no_mistake_until_it_was_used():
    rating = Rating(BOOK)
    assert rating.cost_pico(call(0, 0, tariff_class="batch"), OCTOBER_MS) == 0
    with pytest.raises(UnpricedError, match="version old has no batch price for output of chat, which call 0-0 used"):
        rating.cost_pico(call(0, 1, tariff_class="batch"), OCTOBER_MS)
    with pytest.raises(UnpricedError, match="no price version is in force yet"):
        Rating(PriceBook((DEAR,))).cost_pico(call(0), OCTOBER_MS)


# What is reported


def test_accounts_come_in_the_order_of_what_matters():
    def report(name: str, refused: int, charged: int, proposed: int) -> AccountReport:
        sums = Sums(1, {HOUR: refused} if refused else {}, 0, {}, 0, 0, charged, proposed)
        return AccountReport(name, name, "UTC", (), None, sums, None, {})

    least, most = report("same", 0, 9, 9), report("refused", 2, 1, 1)
    reports = [least, report("cheaper", 0, 9, 5), report("dearer", 0, 9, 12), most, report("few", 1, 50, 0)]
    ordered = in_order(reports)
    assert [each.name for each in ordered] == ["refused", "few", "cheaper", "dearer", "same"]
    assert all(a.sums.refused_calls >= b.sums.refused_calls for a, b in pairwise(ordered))


def test_totals_are_sums():
    one = Sums(1, {"a": 1}, 2, {"b": 3}, 4, 5, 6, 7)
    assert total([one, Sums(1, {"a": 1, "c": 1}), one]) == Sums(3, {"a": 3, "c": 1}, 4, {"b": 6}, 8, 10, 12, 14)
    assert total([]) == Sums()
