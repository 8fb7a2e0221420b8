"""Which lot pays for what: the same lots and the same usage give the same answer, and no pico-euro goes astray."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.calendar import day_bounds_ms
from proxy.core.credit import NO_END, Lot, draw_down, lot_of

OCTOBER, NOVEMBER = "2026-10-01", "2026-11-01"


def lot(name, amount, first_day=NOVEMBER, last_day=NO_END):
    return Lot(name, amount, first_day, last_day)


def test_the_lot_that_ends_first_pays_first():
    drawn = draw_down(
        [lot("late", 100, last_day="2026-12-31"), lot("early", 100, last_day="2026-11-30"), lot("endless", 100)],
        {"2026-11-10": 150},
    )
    assert drawn.draws == {("2026-11", "early"): 100, ("2026-11", "late"): 50}
    assert drawn.left == (50, 0, 100)


def test_of_lots_that_end_together_the_one_bought_first_pays_first():
    drawn = draw_down([lot("first", 100), lot("second", 100)], {"2026-11-10": 120})
    assert drawn.draws == {("2026-11", "first"): 100, ("2026-11", "second"): 20}


def test_a_lot_pays_for_its_last_day_and_for_no_later_one():
    lots = [lot("a", 100, last_day="2026-11-10")]
    drawn = draw_down(lots, {"2026-11-10": 30, "2026-11-11": 30})
    assert (drawn.left, drawn.uncovered) == ((70,), {"2026-11": 30})
    assert (drawn.balance_pico("2026-11-10"), drawn.lapsed_pico("2026-11-10")) == (70, 0)
    assert (drawn.balance_pico("2026-11-11"), drawn.lapsed_pico("2026-11-11")) == (0, 70)


def test_a_lot_pays_for_the_whole_month_in_which_it_was_bought_and_for_none_before_it():
    noon_ms = day_bounds_ms("2026-11-20", "Europe/Paris")[0] + 43_200_000
    bought = lot_of("a", 100, noon_ms, None, "Europe/Paris")
    assert bought.first_day == NOVEMBER
    drawn = draw_down([bought], {"2026-10-31": 10, "2026-11-01": 20, "2026-12-01": 30})
    assert drawn.draws == {("2026-11", "a"): 20, ("2026-12", "a"): 30}
    assert drawn.uncovered == {"2026-10": 10}


def test_the_end_of_a_lot_is_the_end_of_a_day_where_the_account_is():
    ends_ms = day_bounds_ms("2026-10-25", "Europe/Paris")[1]  # a day of 25 hours
    assert lot_of("a", 1, ends_ms - 1, ends_ms, "Europe/Paris").last_day == "2026-10-25"
    assert lot_of("a", 1, ends_ms - 1, ends_ms - 3_600_000, "Europe/Paris").last_day == "2026-10-25"
    assert lot_of("a", 1, ends_ms - 1, ends_ms, "America/Havana").last_day == "2026-10-25"
    assert lot_of("a", 1, ends_ms - 1, ends_ms, "Pacific/Auckland").last_day == "2026-10-26"


def test_months_tell_the_whole_story():
    lots = [lot("a", 100, OCTOBER, "2026-11-15"), lot("b", 50)]
    drawn = draw_down(lots, {"2026-10-05": 30, "2026-11-10": 20, "2026-11-20": 60})
    october, november = drawn.months("2026-12-01")
    assert (october.before_pico, october.bought_pico, october.drawn_pico, october.after_pico) == (0, 100, 30, 70)
    assert (november.before_pico, november.bought_pico, november.drawn_pico) == (70, 50, 70)
    assert (november.lapsed_pico, november.after_pico, november.invoiced_pico) == (50, 0, 10)
    assert [month.month for month in drawn.months("2026-11-15")] == ["2026-10", "2026-11"]


DAYS = [f"2026-{month:02d}-{day:02d}" for month in (10, 11, 12) for day in range(1, 31)]
ENDS = st.one_of(st.just(NO_END), st.sampled_from(DAYS))


@st.composite
def histories(draw):
    lots = []
    for number in range(draw(st.integers(0, 6))):
        first = draw(st.sampled_from([OCTOBER, NOVEMBER, "2026-12-01"]))
        lots.append(Lot(f"lot_{number}", draw(st.integers(1, 100)), first, max(first, draw(ENDS))))
    used = draw(st.dictionaries(st.sampled_from(DAYS), st.integers(0, 120), max_size=12))
    return lots, used


@settings(deadline=None)
@given(histories(), st.sampled_from(DAYS))
def test_paid_is_drawn_and_lapsed_and_left_on_every_day(history, today):
    lots, used = history
    drawn = draw_down(lots, used)
    assert drawn.paid_pico == drawn.drawn_pico + drawn.lapsed_pico(today) + drawn.balance_pico(today)
    assert drawn.used_pico == drawn.drawn_pico + sum(drawn.uncovered.values())
    assert all(0 <= left <= each.amount_pico for each, left in zip(lots, drawn.left, strict=True))
    months = drawn.months("2027-01-01")
    assert (months[-1].after_pico if months else 0) == drawn.balance_pico("2027-01-01")
    for before, after in itertools.pairwise(months):
        assert before.after_pico == after.before_pico


def most_that_can_be_drawn(lots, used):
    """Let each pico-euro of usage find a lot by augmenting paths: a second way to the same answer."""
    units = [day for day in sorted(used) for _ in range(used[day])]
    slots = [place for place, each in enumerate(lots) for _ in range(each.amount_pico)]
    taken: dict[int, int] = {}

    def find(unit, seen):
        for slot, place in enumerate(slots):
            if slot in seen or not lots[place].first_day <= units[unit] <= lots[place].last_day:
                continue
            seen.add(slot)
            if slot not in taken or find(taken[slot], seen):
                taken[slot] = unit
                return True
        return False

    return sum(find(unit, set()) for unit in range(len(units)))


@pytest.mark.parametrize("seed", range(40))
def test_no_other_order_would_cover_more(seed):
    chance = random.Random(seed)
    lots = []
    for number in range(chance.randint(1, 4)):
        first = chance.choice([OCTOBER, NOVEMBER])
        last = max(first, chance.choice([*DAYS, NO_END]))
        lots.append(Lot(f"lot_{number}", chance.randint(1, 6), first, last))
    used = {chance.choice(DAYS): chance.randint(0, 5) for _ in range(5)}
    assert draw_down(lots, used).drawn_pico == most_that_can_be_drawn(lots, used)


@settings(deadline=None)
@given(histories(), st.dictionaries(st.sampled_from(DAYS), st.integers(0, 60), max_size=4), st.sampled_from(DAYS))
def test_what_is_not_known_yet_can_only_have_made_more_room(history, unknown, today):
    """Used, and what is left besides, never shrinks as more usage becomes known: an old answer grants no more."""
    lots, used = history
    lots = [each for each in lots if each.first_day <= today]
    known = draw_down(lots, {day: amount for day, amount in used.items() if day <= today})
    more = {day: used.get(day, 0) + unknown.get(day, 0) for day in {*used, *unknown} if day <= today}
    later = draw_down(lots, more)
    assert known.used_pico + known.balance_pico(today) <= later.used_pico + later.balance_pico(today)
