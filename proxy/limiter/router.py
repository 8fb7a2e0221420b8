"""Which connection a command goes by: the only one, or in a Redis Cluster that to the account's primary.

What belongs here: finding out whether there is a cluster, its map, one connection a primary, and following what nodes
say of slots that moved. What does not: what a connection is used for (redis.py), keeping one (keeper.py), and the
form of the map (topology.py).

A plain Redis is one connection, in ``only``. In a cluster there is one more, ``home``, to a node that is asked for the
map; those to the primaries are made when they are first needed.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import hiredis

from proxy.limiter import AccountUnavailableError, LimiterUnavailableError
from proxy.limiter.commands import pack
from proxy.limiter.keeper import Keeper
from proxy.limiter.targets import Target
from proxy.limiter.topology import Address, read_redirection, read_slots, slot_of
from proxy.limiter.wire import Answer, Link, open_link

REFRESH_PAUSE_S = 0.2
"""How far apart two questions for the map are, whatever happens."""

TRY_AGAIN_S = 0.02
PROBE = "tollgate.ping"
"""An account that there is not, for asking whether a primary answers."""

_CLUSTER_SLOTS = pack("CLUSTER", "SLOTS")
_ASKING = pack("ASKING")


class Router:
    """Leads to Redis.

    Args:
        targets: nodes of one cluster, or a Redis.
        timeout_s: for connecting, and for one answer.
        prepare: what a new connection needs before the first verb.

    Attributes:
        only: the connection to a Redis that is no cluster, while there is one.
    """

    def __init__(self, targets: Sequence[Target], timeout_s: float, prepare: Callable[[Link], Awaitable[None]]) -> None:
        self.only: Link | None = None
        self._targets = tuple(targets)
        self._timeout_s = timeout_s
        self._prepare = prepare
        self._home = Keeper(repr(self._targets[0]), self._open_home, self._on_home)
        self._nodes: dict[Address, Keeper] = {}
        self._slots: list[Keeper | None] = []  # the primary of each; empty: no cluster, as far as is known
        self._asked_last: Keeper | None = None  # of whom another node has said that he knows better
        self._is_stale = False
        self._refresh: asyncio.Task[None] | None = None
        self._refreshed_s = float("-inf")
        self._retired: dict[Keeper, asyncio.TimerHandle] = {}
        self._is_closed = False

    # --- leading there -----------------------------------------------------------------------------------------------

    def link(self, account_id: str) -> Link | None:
        """Return the connection to the account's primary; None: there is none at the moment, or this is no cluster."""
        if not self._slots:
            return self.only
        keeper = self._slots[slot_of(account_id)]
        return None if keeper is None else keeper.link

    @property
    def is_clustered(self) -> bool:
        """Whether there is a cluster, as far as is known."""
        return bool(self._slots)

    def part_of(self, account_id: str) -> str:
        """Return the name of the account's primary; empty: it is not known, or this is no cluster."""
        keeper = self._slots[slot_of(account_id)] if self._slots else None
        return "" if keeper is None else keeper.name

    def parts(self) -> frozenset[str]:
        """Return the names of all primaries."""
        return frozenset(keeper.name for keeper in set(self._slots) if keeper is not None) or frozenset({""})

    async def connected(self, account_id: str) -> Link:
        """Wait for the connection to the account's primary.

        Raises:
            LimiterUnavailableError: it is away.
            AccountUnavailableError: the cluster has no primary for the account's slot.
        """
        if not self._slots:
            link = await self._home.connected()
            if not self._slots:
                return link
        keeper = self._slots[slot_of(account_id)]
        if keeper is None:
            self.refresh_soon()
            raise AccountUnavailableError("no primary of the cluster serves the account's slot")
        return await keeper.connected()

    async def follow(self, account_id: str, link: Link, error: str) -> Link:
        """Return the connection by which to repeat a command, after an answer that says that it was not done.

        What is sent by it must be sent at once: an ``ASKING`` may have been sent before it.

        Raises:
            LimiterUnavailableError: the answer says something else, or there is no such connection.
        """
        if not self._slots:
            if error.startswith(("READONLY", "MOVED", "MASTERDOWN")):
                link.lose(f"another Redis is in charge: {error}")
            raise LimiterUnavailableError(f"Redis refuses: {error}")
        if error.startswith("TRYAGAIN"):  # the slot is on the move, and the account's keys are on both sides
            await asyncio.sleep(TRY_AGAIN_S)
            return await self.connected(account_id)
        there = read_redirection(error, Address(link.target.host, link.target.port))
        if there is None:
            self.refresh_soon()
            if error.startswith("CLUSTERDOWN Hash slot"):
                raise AccountUnavailableError(f"no primary of the cluster serves the account's slot: {error}")
            raise LimiterUnavailableError(f"Redis refuses: {error}")
        keeper = self._node(there.address)
        if there.is_for_good:
            self._slots[there.slot] = keeper
            self._asked_last = keeper
            self.refresh_soon()
            return await keeper.connected()
        link = await keeper.connected()
        link.tell(_ASKING, _Nobody())
        return link

    async def probes(self, part: str) -> list[str]:
        """Return accounts, one for each primary of that name, or for every one: if those can be asked, all can.

        Raises:
            LimiterUnavailableError: nothing is known of Redis.
        """
        if not self._slots:
            await self._home.connected()
        if not self._slots:
            return [PROBE]
        wanted = {keeper for keeper in self._slots if keeper is not None and part in ("", keeper.name)}
        names: list[str] = []
        for number in itertools.count():
            if not wanted:
                return names
            name = f"{PROBE}.{number}"
            keeper = self._slots[slot_of(name)]
            if keeper in wanted:
                wanted.remove(keeper)
                names.append(name)
        raise AssertionError

    def links(self) -> Iterator[Link]:
        """Return the connections that commands may have been sent by."""
        for keeper in (self._home, *self._nodes.values()):
            if keeper.link is not None:
                yield keeper.link

    async def close(self) -> None:
        """End every connection."""
        self._is_closed = True
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.gather(self._refresh, return_exceptions=True)
        for timer in self._retired.values():
            timer.cancel()
        for keeper in (self._home, *self._nodes.values(), *self._retired):
            await keeper.close()

    # --- the first connection ----------------------------------------------------------------------------------------

    async def _open_home(self, on_lost: Callable[[Link], None]) -> Link:
        """Connect to the first that answers: of those the URL names, then of those the map has named."""
        first = self._targets[0]
        known = [first.at(*address) for address in self._nodes]
        reasons = []
        for target in dict.fromkeys((*self._targets, *known)):
            try:
                return await self._open(target, on_lost, self._begin)
            except LimiterUnavailableError as exc:
                reasons.append(str(exc))
        raise LimiterUnavailableError("; ".join(dict.fromkeys(reasons)))

    async def _begin(self, link: Link) -> None:
        """Learn the map from a node, or find that this Redis is the only one."""
        if await self._learn(link):
            return
        if len(self._targets) > 1:
            raise LimiterUnavailableError(f"several Redis are named, and the one at {link.target!r} is no cluster")
        self._take(())
        await self._prepare(link)

    async def _open(
        self, target: Target, on_lost: Callable[[Link], None], make_ready: Callable[[Link], Awaitable[None]]
    ) -> Link:
        try:
            async with asyncio.timeout(self._timeout_s):
                link = await open_link(target, self._timeout_s, on_lost)
                try:
                    await make_ready(link)
                except BaseException:
                    link.lose("not ready")
                    raise
                return link
        except TimeoutError as exc:
            raise LimiterUnavailableError(f"Redis at {target!r} does not answer") from exc

    def _on_home(self) -> None:
        self.only = None if self._slots else self._home.link

    # --- the map -----------------------------------------------------------------------------------------------------

    def refresh_soon(self) -> None:
        """Ask for the map, now or a little later: it may have changed."""
        if self._is_closed or not self._slots:
            return
        self._is_stale = True
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.create_task(self._keep_asking(), name="limiter-map")

    async def _keep_asking(self) -> None:
        while self._is_stale:
            self._is_stale = False
            await asyncio.sleep(self._refreshed_s + REFRESH_PAUSE_S - time.monotonic())
            self._refreshed_s = time.monotonic()
            for keeper in dict.fromkeys((self._asked_last, self._home, *self._nodes.values())):
                if keeper is None or keeper.link is None:
                    continue
                try:
                    if await self._learn(keeper.link):
                        break
                except LimiterUnavailableError:
                    continue

    async def _learn(self, link: Link) -> bool:
        """Ask a node for the map; say whether it has one. It has none when it is no cluster's, or not to be asked."""
        if link.target.path is not None:
            return False
        answer: Answer = await link.send(_CLUSTER_SLOTS)
        if isinstance(answer, hiredis.ReplyError):
            return False
        try:
            owners = read_slots(answer, Address(link.target.host, link.target.port))
        except ValueError as exc:
            raise LimiterUnavailableError(f"the node at {link.target!r} has no map of its cluster") from exc
        if not any(owners):
            raise LimiterUnavailableError(f"the node at {link.target!r} belongs to no cluster yet")
        self._take(owners)
        return True

    def _take(self, owners: Sequence[Address | None]) -> None:
        """Use a map. Whoever is not on it any more may still answer what he was asked."""
        nodes = {address: self._node(address) for address in dict.fromkeys(owners) if address is not None}
        self._slots = [None if address is None else nodes[address] for address in owners]
        for address in [address for address in self._nodes if address not in nodes]:
            keeper = self._nodes.pop(address)
            self._retired[keeper] = asyncio.get_running_loop().call_later(self._timeout_s, self._part_with, keeper)

    def _part_with(self, keeper: Keeper) -> None:
        del self._retired[keeper]
        keeper.stop()

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _node(self, address: Address) -> Keeper:
        keeper = self._nodes.get(address)
        if keeper is None:
            target = self._targets[0].at(*address)

            def open_node(on_lost: Callable[[Link], None]) -> Awaitable[Link]:
                return self._open(target, on_lost, self._prepare)

            def on_change() -> None:
                if made.link is None:
                    self.refresh_soon()

            made = keeper = self._nodes[address] = Keeper(repr(target), open_node, on_change)
        return keeper


class _Nobody:
    """Waits for an answer that says nothing."""

    def answered(self, answer: Answer) -> None:
        """See ``proxy.limiter.wire.Listener``."""

    def unanswered(self) -> None:
        """See ``proxy.limiter.wire.Listener``."""
