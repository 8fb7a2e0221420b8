"""What Prometheus scrapes while the dashboard is tried: an admin listener under calls.

``running_target`` yields the port of an admin listener and keeps calls of every kind going until it is left.
"""

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator

from proxy.core.usage import Source, TariffClass, UsageType
from proxy.telemetry.catalogue import WATCHED
from proxy.telemetry.metrics import Metrics, sample_loop_lag
from proxy.web.admin import AdminServer
from tests.telemetry.scraped import CHAT, charge

MODELS = ["gpt-oss:120b", "gemma3:27b"]
TIERS = ["tier1", "monthly"]


def simulate_call(metrics: Metrics, chance: random.Random) -> None:
    """Count one call, of any kind and any end."""
    model, tier = chance.choice(MODELS), chance.choice(TIERS)
    status = chance.choice([200] * 7 + [400, 429, 502])
    metrics.call_began()
    if status == 200:
        source = chance.choice([Source.REPORTED] * 9 + [Source.ESTIMATED])
        used = charge(
            (UsageType.INPUT, chance.randrange(1, 500), 1_800_000),
            (UsageType.OUTPUT, chance.randrange(1, 500), 8_000_000),
            source=source,
        )
        metrics.charged(CHAT, model, tier, used, TariffClass.STANDARD, chance.choice(["acme", "globex"]))
        metrics.call_ended(CHAT, model, tier, 200, "finished", chance.expovariate(1), chance.random(), 0.002)
        return
    if status == 429:
        metrics.refused("output_tokens_hour", tier)
    if status == 502:
        metrics.upstream_failed("cluster", "closed")
    metrics.error(status, "some_error")
    metrics.call_ended(CHAT, model, tier, status, "refused", 0.002)


async def _serve(stop: threading.Event, started: threading.Event, ports: list[int]) -> None:
    metrics = Metrics(MODELS)
    chance = random.Random(7)
    by_label = {"result": "refused", "upstream": "cluster"}
    for described in WATCHED:
        if not described.name.startswith("tollgate_ready"):
            labels = {label: by_label[label] for label in described.labels}
            metrics.watch(described.name, "", lambda: 0, labels)
    server = AdminServer("127.0.0.1:0", metrics, lambda: {"directory": True})
    await server.start()
    lag = asyncio.get_running_loop().create_task(sample_loop_lag(metrics.loop_lag))
    ports.append(server.port)
    started.set()
    while not stop.is_set():
        for _ in range(20):
            simulate_call(metrics, chance)
        await asyncio.sleep(0.05)
    lag.cancel()
    await server.close()


@contextlib.contextmanager
def running_target() -> Iterator[int]:
    """Serve metrics that calls keep moving."""
    stop, started = threading.Event(), threading.Event()
    ports: list[int] = []
    serving = threading.Thread(target=lambda: asyncio.run(_serve(stop, started, ports)))
    serving.start()
    try:
        assert started.wait(10)
        yield ports[0]
    finally:
        stop.set()
        serving.join(10)
