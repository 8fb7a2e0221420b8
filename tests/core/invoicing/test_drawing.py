"""How much of which lot an invoice uses: months as they are invoiced, one after the other."""

import pytest

from proxy.core.credit import NO_END, Lot
from proxy.core.invoicing.document import ChainMark, DayOfUse, UsageItem
from proxy.core.invoicing.drawing import drawn_by_lot
from proxy.core.invoicing.errors import FactsError
from proxy.core.invoicing.facts import LotFact, MonthFacts, Used
from proxy.core.usage import TariffClass, UsageType

CENT = 10**10
ITEM = UsageItem("large", UsageType.INPUT, TariffClass.STANDARD, "2026-a", 1)


def lot(name, cents, drawn=0, first_day="2026-10-01", last_day=NO_END):
    return LotFact(Lot(name, int(cents * CENT), first_day, last_day), f"PO {name}", drawn)


def drawn(lots, own, before=(), net=None):
    """Return what November's invoice draws.

    Args:
        lots: what there is.
        own: cents by day that it adds, dated before November where they came late.
        before: the same of earlier invoices.
        net: cents of its lines; as exact as its days if it is left out.
    """
    before = dict(before)
    exact = {day: round(cents * CENT) for day, cents in own.items()}
    days = {day: cost for day, cost in exact.items() if day[:7] == "2026-11"}
    late = tuple(Used(ITEM, day, cost, cost) for day, cost in exact.items() if day[:7] < "2026-11")
    used = {day: exact.get(day, 0) + before.get(day, 0) * CENT for day in {*exact, *before}}
    facts = MonthFacts(
        "acme",
        "Acme",
        "Tier 1",
        "2026-11",
        (Used(ITEM, "", sum(days.values()), sum(days.values())),),
        late,
        tuple(lots),
        used,
        tuple(DayOfUse(f"2026-11-{day:02d}", days.get(f"2026-11-{day:02d}", 0)) for day in range(1, 31)),
        (ChainMark("2026-11", 0, 1, "0" * 64),),
    )
    return drawn_by_lot(facts, sum(own.values()) if net is None else net)


def test_credit_pays_for_all_of_it_to_the_cent():
    assert drawn([lot("a", 1000)], {"2026-11-03": 250}) == {"a": 250}


def test_what_rounding_adds_to_an_invoice_that_is_covered_is_drawn_too_and_what_it_takes_is_not():
    assert drawn([lot("a", 1000)], {"2026-11-03": 250.2}, net=253) == {"a": 253}
    assert drawn([lot("a", 1000)], {"2026-11-03": 250.2}, net=248) == {"a": 248}


def test_without_lots_nothing_is_drawn():
    assert drawn([], {"2026-11-03": 250}) == {}


def test_a_lot_that_does_not_suffice_is_drawn_to_its_last_cent_whatever_was_rounded_before():
    for by_earlier_invoices in (97, 100, 103):
        lots = [lot("a", 300, by_earlier_invoices)]
        found = drawn(lots, {"2026-11-03": 250}, {"2026-10-03": 100})
        assert found == {"a": 300 - by_earlier_invoices}


def test_of_a_lot_that_is_not_whole_cents_whole_cents_are_drawn():
    assert drawn([lot("a", 99.75)], {"2026-11-03": 250}) == {"a": 99}
    assert drawn([lot("a", 99.75)], {"2026-11-03": 99.75}, net=100) == {"a": 99}
    ended = lot("a", 99.75, last_day="2026-10-31")
    found = drawn([ended, lot("b", 1000, first_day="2026-11-01")], {"2026-11-03": 300}, {"2026-10-03": 250})
    assert found == {"a": 99, "b": 201}


def test_lots_are_drawn_in_the_order_in_which_they_end():
    lots = [lot("endless", 100), lot("late", 100, last_day="2026-12-31"), lot("early", 100, last_day="2026-11-30")]
    found = drawn(lots, {"2026-11-03": 250})
    assert list(found.items()) == [("early", 100), ("late", 100), ("endless", 50)]


def test_a_lot_that_has_lapsed_by_the_day_of_the_use_pays_for_nothing_of_it():
    lots = [lot("a", 1000, last_day="2026-11-10")]
    assert drawn(lots, {"2026-11-10": 30, "2026-11-11": 70}) == {"a": 30}
    assert drawn(lots, {"2026-11-11": 70}) == {}


def test_not_even_a_cent_of_rounding_is_taken_from_a_lot_that_has_lapsed_or_has_not_begun():
    lapsed, coming = lot("a", 10, last_day="2026-10-31"), lot("b", 10, first_day="2026-12-01")
    now = lot("c", 100, last_day="2026-11-30")
    assert drawn([lapsed, coming, now], {"2026-11-03": 100}, net=101) == {"c": 100}


def test_what_came_late_is_paid_by_the_lots_of_its_day():
    october = lot("a", 100, last_day="2026-10-31")
    assert drawn([october], {"2026-10-30": 40, "2026-11-03": 50}) == {"a": 40}
    november = lot("b", 100, first_day="2026-11-01")
    assert drawn([november], {"2026-10-30": 40, "2026-11-03": 50}) == {"b": 50}


def test_what_came_late_moves_shares_of_lots_and_only_the_sum_is_asked_for():
    # October took 60 of a; November took 40 of a and 20 of b. Then 30 more of October: a pays, so b pays 30 more.
    lots = [lot("a", 100, 100, last_day="2026-11-30"), lot("b", 100, 20, first_day="2026-11-01")]
    assert drawn(lots, {"2026-10-20": 30}, {"2026-10-03": 60, "2026-11-03": 60}) == {"b": 30}


def test_what_was_drawn_too_much_is_made_up_for_by_drawing_less_and_never_given_back():
    # a paid 50 on the 9th and ended. Then 50 more of the 8th came: a pays for those, and nothing for the 9th's.
    lots = [lot("a", 50, 50, last_day="2026-10-09")]
    before = {"2026-10-09": 50}
    assert drawn(lots, {"2026-10-08": 50}, before) == {}
    # 120 of a were drawn where it pays for 100, and it has ended: so much less is drawn of b.
    lots = [lot("a", 200, 120, last_day="2026-10-05"), lot("b", 300, first_day="2026-11-01")]
    assert drawn(lots, {"2026-11-03": 400}, {"2026-10-03": 100}) == {"b": 280}
    assert drawn(lots[:1], {"2026-11-03": 400}, {"2026-10-03": 100}) == {}


def test_what_was_asked_for_too_much_is_made_up_for_by_drawing_more_but_no_more_than_the_invoice():
    lots = [lot("a", 500, 0, last_day="2026-11-02")]  # October's 100 were asked for, and could have been drawn
    assert drawn(lots, {"2026-11-02": 40, "2026-11-03": 90}, {"2026-10-03": 100}) == {"a": 130}
    assert drawn(lots, {"2026-11-02": 40, "2026-11-03": 190}, {"2026-10-03": 100}) == {"a": 140}


@pytest.mark.parametrize("wrong", [-1, 1001])
def test_a_ledger_that_says_more_was_drawn_than_bought_is_not_believed(wrong):
    with pytest.raises(FactsError, match="drawn of the lot PO a"):
        drawn([lot("a", 1000, wrong)], {"2026-11-03": 1})


def test_days_that_are_not_the_month_are_not_believed():
    facts = MonthFacts("acme", "Acme", "T", "2026-11", (Used(ITEM, "", 5, 5),), (), (), {}, (), ())
    with pytest.raises(FactsError, match="not what was used"):
        drawn_by_lot(facts, 0)
    late = (Used(ITEM, "2026-10-01", 5, 5),)
    facts = MonthFacts("acme", "Acme", "T", "2026-11", (), late, (), {"2026-10-01": 4}, (), ())
    with pytest.raises(FactsError, match="than was used"):
        drawn_by_lot(facts, 0)
