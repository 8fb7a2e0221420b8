"""How much of which lot of credit an invoice uses, in cents.

What belongs here: that decision. What does not: which lot pays for which usage (core/credit.py), which this follows.

Credit is drawn exactly, in pico-euros, and worked out anew from everything that was used; documents draw cents, and
what they have drawn stays drawn. So an invoice draws the difference: what lots pay by now of everything that is
invoiced, it included, less what earlier documents have drawn.

1. Where nothing of what an invoice adds stays uncovered, all of its net amount is drawn: it asks for exactly 0.00, and
   what rounding its lines has added or taken is the lots'.
2. Otherwise the difference is drawn, rounded once. It is one of totals since the first invoice, so rounding never adds
   up: a lot that is exhausted has been drawn to its last whole cent, and the rounding of lines is asked for beside what
   is uncovered.
3. Never less than nothing, and never more than the invoice. What earlier documents have drawn too much, because usage
   that came late has moved the shares of lots, is made up for by drawing less now; nothing is given back.
4. Never more of a lot than its whole cents, less what has been drawn of it.
5. Lots are drawn in the order of core/credit.py, each by its own difference. A cent of rounding that no difference has
   room for is taken from a lot that may pay on a day of this invoice; where there is none, it is asked for.
"""

from collections.abc import Mapping

from proxy.core.credit import Drawdown, draw_down
from proxy.core.invoicing.errors import FactsError
from proxy.core.invoicing.facts import LotFact, MonthFacts
from proxy.core.money import PICO_PER_CENT, cents_half_up


def drawn_by_lot(facts: MonthFacts, net_cents: int) -> dict[str, int]:
    """Return what an invoice uses of which lot, cents by lot id, in the order in which they are drawn.

    Args:
        facts: what it follows from.
        net_cents: the sum of its lines of usage.

    Raises:
        FactsError: more has been drawn of a lot than it holds, or the days do not add up.
    """
    own = own_by_day(facts)
    lots = [fact.lot for fact in facts.lots]
    now = draw_down(lots, facts.used_by_day)
    before = draw_down(lots, _less(facts.used_by_day, own))
    drawn_before = sum(fact.drawn_cents for fact in facts.lots)
    if sum(now.uncovered.values()) == sum(before.uncovered.values()):
        wanted = net_cents
    else:
        wanted = min(max(cents_half_up(now.drawn_pico) - drawn_before, 0), net_cents)
    return _spread(facts.lots, _shares(now), own, wanted)


def own_by_day(facts: MonthFacts) -> dict[str, int]:
    """Return what an invoice adds, pico-euros by day, days without any left out.

    Raises:
        FactsError: the days of the month are not what was used in it.
    """
    own = {each.day: each.cost_pico for each in facts.days if each.cost_pico}
    if sum(own.values()) != sum(each.cost_pico for each in facts.used):
        raise FactsError(f"the days of {facts.month} are not what was used in it")
    for each in facts.late:
        if each.cost_pico:
            own[each.day] = own.get(each.day, 0) + each.cost_pico
    return own


def _less(used_by_day: Mapping[str, int], own: Mapping[str, int]) -> dict[str, int]:
    """Return what earlier documents say was used."""
    before = {day: used - own.get(day, 0) for day, used in used_by_day.items()}
    if any(used < 0 for used in before.values()) or not own.keys() <= before.keys():
        raise FactsError("more is invoiced of a day than was used on it")
    return before


def _shares(drawdown: Drawdown) -> dict[str, int]:
    """Return what each lot pays for, pico-euros by lot id."""
    return {lot.id: lot.amount_pico - left for lot, left in zip(drawdown.lots, drawdown.left, strict=True)}


def _spread(
    facts: tuple[LotFact, ...], shares: Mapping[str, int], own: Mapping[str, int], wanted_cents: int
) -> dict[str, int]:
    """Return ``wanted_cents``, or as much of them as there is, by lot id."""
    order = sorted(facts, key=lambda fact: fact.lot.last_day)  # of those that end together, the one bought first
    drawn: dict[str, int] = {}
    for fact in order:
        if not 0 <= fact.drawn_cents <= _whole_cents(fact):
            raise FactsError(f"{fact.drawn_cents} cents have been drawn of the lot {fact.reference}")
        share = min(cents_half_up(shares[fact.lot.id]), _whole_cents(fact))
        drawn[fact.lot.id] = min(max(share - fact.drawn_cents, 0), wanted_cents)
        wanted_cents -= drawn[fact.lot.id]
    for fact in order:
        if any(fact.lot.first_day <= day <= fact.lot.last_day for day in own):
            more = min(_whole_cents(fact) - fact.drawn_cents - drawn[fact.lot.id], wanted_cents)
            drawn[fact.lot.id] += more
            wanted_cents -= more
    return {lot_id: cents for lot_id, cents in drawn.items() if cents}


def _whole_cents(fact: LotFact) -> int:
    return fact.lot.amount_pico // PICO_PER_CENT
