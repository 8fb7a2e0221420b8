"""What a replay found: by account, and in total. Pure.

What belongs here: the values, their sums, and which account comes first. What does not: finding them (account.py), and
how they are printed (cli/).
"""

from collections.abc import Iterable, Mapping

import msgspec


class Peak(msgspec.Struct, frozen=True):
    """The most that was used and held of a limit at once, in what the limit counts; euros in nano-euros."""

    amount: int
    capacity: int

    @property
    def permille(self) -> int:
        """Its share of the limit in thousandths, rounded up."""
        return -(-self.amount * 1000 // self.capacity)


class Sums(msgspec.Struct, frozen=True):
    """What became of some calls.

    Args:
        calls: how many were replayed.
        refused: by the name of the limit that bound, those that would have been refused.
        delayed: those that would have been admitted at a later try.
        shadowed: by name, the calls that a limit in shadow would have refused, and did not.
        lost_tokens: output tokens (reasoning included) of the refused ones.
        lost_pico: what the refused ones would have cost at the prices of the proposal, pico-euros.
        charged_pico: what all of them were charged.
        proposed_pico: what those that were admitted would cost.
    """

    calls: int = 0
    refused: Mapping[str, int] = {}
    delayed: int = 0
    shadowed: Mapping[str, int] = {}
    lost_tokens: int = 0
    lost_pico: int = 0
    charged_pico: int = 0
    proposed_pico: int = 0

    @property
    def refused_calls(self) -> int:
        """Those that would have been refused."""
        return sum(self.refused.values())

    @property
    def difference_pico(self) -> int:
        """What the proposal would bring more than was charged."""
        return self.proposed_pico - self.charged_pico


class AccountReport(msgspec.Struct, frozen=True):
    """What became of an account's calls.

    Args:
        account_id, name: whose they are.
        timezone: its months' and days'.
        tiers: ids of those that it held when it made them.
        proposed_tier: the one that it was given instead; None: those that it held, as the proposal has them.
        sums: what became of the calls.
        first_refused_ms: admission of the first that would have been refused, Unix milliseconds; None: there is none.
        peaks: by name of the limit, the most that was used of it; of several keys or models the fullest. Limits that
            refuse nothing are left out, but for those in shadow.
    """

    account_id: str
    name: str
    timezone: str
    tiers: tuple[str, ...]
    proposed_tier: str | None
    sums: Sums
    first_refused_ms: int | None
    peaks: Mapping[str, Peak]


class Simulation(msgspec.Struct, frozen=True):
    """A replayed month.

    Args:
        month: which.
        accounts: those that made calls: most refused calls first, then the largest change of revenue.
        price_versions: the versions that calls were rated with.
    """

    month: str
    accounts: tuple[AccountReport, ...]
    price_versions: tuple[str, ...]

    @property
    def totals(self) -> Sums:
        """Everything together."""
        return total(report.sums for report in self.accounts)


def in_order(reports: Iterable[AccountReport]) -> tuple[AccountReport, ...]:
    """Return reports in the order of what matters."""
    return tuple(
        sorted(
            reports,
            key=lambda report: (
                -report.sums.refused_calls,
                -abs(report.sums.difference_pico),
                -report.sums.charged_pico,
                report.name,
            ),
        )
    )


def total(parts: Iterable[Sums]) -> Sums:
    """Return the sum of sums."""
    whole = Sums()
    for part in parts:
        whole = Sums(
            whole.calls + part.calls,
            _added(whole.refused, part.refused),
            whole.delayed + part.delayed,
            _added(whole.shadowed, part.shadowed),
            whole.lost_tokens + part.lost_tokens,
            whole.lost_pico + part.lost_pico,
            whole.charged_pico + part.charged_pico,
            whole.proposed_pico + part.proposed_pico,
        )
    return whole


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in sorted(one.keys() | other.keys())}
