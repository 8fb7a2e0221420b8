"""A month, replayed: every account after the other.

What belongs here: reading the ledger, checking that the proposal covers it, and going through its accounts. What does
not: what becomes of a call (account.py).
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from proxy.allowances import Allowances
from proxy.core.pricing import UnpricedError
from proxy.ledger.months_entries import Holder, MonthsEntries
from proxy.months import Months
from proxy.replay.account import AccountReplay
from proxy.replay.proposal import Proposal, ProposalError
from proxy.replay.report import AccountReport, Simulation, in_order


class MissingTiersError(ProposalError):
    """The proposal lacks tiers that accounts hold.

    Args:
        holders: by the id of each of them, the names of the accounts.
    """

    def __init__(self, holders: dict[str, list[str]]) -> None:
        self.holders = holders
        super().__init__(", ".join(holders))


async def replay_month(
    entries: MonthsEntries,
    proposal: Proposal,
    month: str,
    account: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Simulation:
    """Replay a month of all accounts, or of the one of a name or id. Nothing is written.

    Args:
        entries: reads the ledger.
        proposal: what it is replayed against.
        month: ``YYYY-MM``, each account's own.
        account: name or id.
        progress: told now and then how many calls have been replayed, of how many.

    Raises:
        MissingTiersError: accounts hold tiers that the proposal does not have.
        ProposalError: a call cannot be replayed.
        LedgerUnavailableError: the database does not answer.
        UnknownAccountError: there is no such account.
    """
    holders = await entries.holders(month, account)
    _check_tiers(proposal, holders)
    months = Months()
    allowances = Allowances()
    total, done = sum(holder.calls for holder in holders), 0
    reports: list[AccountReport] = []
    progress(done, total)
    for holder in holders:
        if not holder.calls:
            continue
        replay = AccountReplay(proposal, holder, month, allowances, months)
        async with contextlib.aclosing(entries.calls(holder, month)) as pages:
            async for page in pages:
                with _told_of(holder):
                    for call in page:
                        replay.play(call)
                done += sum(call.month == month for call in page)
                progress(done, total)
        with _told_of(holder):
            reports.append(replay.finish())
    return Simulation(month, in_order(reports), proposal.rating.versions)


@contextlib.contextmanager
def _told_of(holder: Holder) -> Iterator[None]:
    """Say whose call it was that cannot be replayed."""
    try:
        yield
    except (UnpricedError, ProposalError) as exc:
        raise ProposalError(f"account {holder.account.name}: {exc}") from exc


def _check_tiers(proposal: Proposal, holders: Iterable[Holder]) -> None:
    wanted: defaultdict[str, list[str]] = defaultdict(list)
    for holder in holders:
        held = {*holder.tiers, *filter(None, (holder.account.tier,))}
        for tier in held if proposal.tier is None else (proposal.tier,):
            if tier not in proposal.tiers:
                wanted[tier].append(holder.account.name)
    if wanted:
        raise MissingTiersError(dict(sorted(wanted.items())))
