"""A proxy for clients that block: ``tollgate serve`` in a process of its own, before a simulated cluster in a thread.

What belongs here: the service, its accounts, and what it saw. What does not: who calls it (clients.py).
"""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator, Mapping
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import requests

from proxy.ledger.accounts import Accounts
from proxy.ledger.database import Database
from proxy.ledger.keys import Keys
from proxy.simulator import Options, SimulatedCluster
from tests.support.process import Tollgate, eventually, serving

BURST_WINDOW_S = 2
TIERS = f"""
tiers:
  wide:
    {{title: Wide, purchase_credit: none, monthly_limit: 1000, output_tokens_hour: 1000000,
      output_tokens_day: 10000000, requests: 1000}}
  bursts: # one call, and two seconds later the next
    {{title: Bursts, purchase_credit: none, monthly_limit: 1000, output_tokens_hour: 1000000,
      output_tokens_day: 10000000, requests: 1, requests_window_s: {BURST_WINDOW_S}}}
  full: # one call in an hour
    {{title: Full, purchase_credit: none, monthly_limit: 1000, output_tokens_hour: 1000000,
      output_tokens_day: 10000000, requests: 1, requests_window_s: 3600}}
  poor: # a cent a month
    {{title: Poor, purchase_credit: none, monthly_limit: 0.01, output_tokens_hour: 1000000,
      output_tokens_day: 10000000}}
"""


class Background:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine there and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def close(self) -> None:
        """End the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Service:
    """A running proxy, what stands behind it, and accounts.

    Attributes:
        tollgate: the process.
        cluster: what stands behind it; ``seen`` is what was forwarded.
        root: base URL of clients that add the version of the API themselves.
        base_url: base URL of every other client.
        key: of an account that no limit hinders.
    """

    def __init__(self, tollgate: Tollgate, cluster: SimulatedCluster, background: Background) -> None:
        self.tollgate = tollgate
        self.cluster = cluster
        self.root = tollgate.url
        self.base_url = f"{tollgate.url}/v1"
        self._background = background
        self._numbers = count(1)
        self._names: dict[str, str] = {}
        self.key = self.new_key("wide")

    def new_keys(self, tier: str, count: int) -> list[str]:
        """Create accounts of a tier, wait until the proxy knows them, and return a key of each."""
        names = [f"{tier}-{next(self._numbers)}" for _ in range(count)]
        keys: list[str] = self._background.run(self._create(names, tier))
        self._names |= dict(zip(keys, names, strict=True))

        def are_known() -> bool:
            """The proxy knows the new keys."""
            return self.post("chat/completions", {}, keys[-1]).status_code == 400  # no call, but no stranger's either

        eventually(are_known)
        return keys

    def new_key(self, tier: str) -> str:
        """Create an account of a tier, wait until the proxy knows it, and return its key."""
        return self.new_keys(tier, 1)[0]

    async def _create(self, names: list[str], tier: str) -> list[str]:
        database = Database.open(f"sqlite:///{self.tollgate.state / 'ledger.db'}")
        try:
            keys = []
            for name in names:
                await Accounts(database).create(name, tier)
                keys.append((await Keys(database).create(name)).token)
            return keys
        finally:
            await database.close()

    @cached_property
    def full_key(self) -> str:
        """The key of an account that has made the only call that it may make in an hour."""
        return self.new_full_key()

    def new_full_key(self) -> str:
        """Return the key of an account that has made, just now, the only call that it may make in an hour."""
        key = self.new_key("full")
        call = {"model": "gpt-oss:120b", "messages": [{"role": "user", "content": "Bonjour !"}], "max_tokens": 1}
        assert self.post("chat/completions", call, key).status_code == 200
        return key

    def spent_keys(self, count: int) -> list[str]:
        """Return keys of accounts whose month is all but spent: not four hundred tokens remain."""
        keys = self.new_keys("poor", count)
        said = {"role": "user", "content": "SIM:tokens=900"}
        call = {"model": "gpt-oss:120b", "messages": [said], "max_tokens": 900}
        for key in keys:
            assert self.post("chat/completions", call, key).status_code == 200
        return keys

    def post(self, route: str, body: Any, key: str | None = None) -> requests.Response:
        """Call without any client's cleverness."""
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return requests.post(f"{self.base_url}/{route}", json=body, headers=headers, timeout=30)

    def answered(self, key: str, *statuses: int) -> bool:
        """Whether the calls with a key so far were answered so, in this order, and no other call has come."""
        name = self._names[key]
        calls = [line for line in self.tollgate.lines() if "call_id" in line]  # events name accounts too
        ended = [line["status"] for line in calls if line.get("account") == name]
        found = [status for status in ended if status != 400]  # which is how new_keys asks whether a key is known
        assert len(found) <= len(statuses), f"answered with {found}, not {list(statuses)}"
        return found == list(statuses)

    def usage(self, key: str) -> dict[str, Any]:
        """Return what a customer is told of the present month: calls, total, and a quantity for each type of usage."""
        month = requests.get(f"{self.base_url}/usage", headers={"Authorization": f"Bearer {key}"}, timeout=30).json()
        quantities = {line["type"]: line["quantity"] for line in month["month"]["lines"]}
        return {"calls": month["month"]["calls"], "total": month["month"]["total"], **quantities}


@contextlib.contextmanager
def service(
    folder: Path, config: Path, *, environ: Mapping[str, str] | None = None, options: Options | None = None
) -> Iterator[Service]:
    """Run a service with the tiers above until the block ends."""
    (config / "tiers.yaml").write_text(TIERS)
    background = Background()
    cluster = SimulatedCluster(options or Options(tokens_per_second=0))
    try:
        background.run(cluster.start())
        with serving(Tollgate(folder / "proxy", cluster.url, config=config, environ=environ)) as tollgate:
            yield Service(tollgate, cluster, background)
    finally:
        background.run(cluster.stop())
        background.close()
