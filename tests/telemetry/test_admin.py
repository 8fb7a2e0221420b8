"""What the admin listener answers."""

from typing import Self

import aiohttp
import pytest
from aiohttp import web

from proxy import __version__
from proxy.telemetry.metrics import Metrics
from proxy.web.admin import AdminServer
from tests.telemetry.scraped import value


class Process:
    """A proxy as its admin listener sees it."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.checks = {"directory": True, "ledger": True, "outbox": True}
        self.draining = False
        self.options: dict[str, object] = {}

    async def __aenter__(self) -> Self:
        self.server = AdminServer(
            "127.0.0.1:0", self.metrics, lambda: self.checks, draining=lambda: self.draining, **self.options
        )
        await self.server.start()
        self.client = aiohttp.ClientSession(f"http://127.0.0.1:{self.server.port}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await self.server.close()

    async def get(self, path: str) -> tuple[int, bytes]:
        async with self.client.get(path) as answer:
            return answer.status, await answer.read()

    async def get_json(self, path: str) -> tuple[int, dict[str, object]]:
        async with self.client.get(path) as answer:
            return answer.status, await answer.json()


async def test_metrics_are_served_as_prometheus_wants_them():
    async with Process() as process:
        process.metrics.call_began()
        async with process.client.get("/metrics") as answer:
            text = await answer.read()

    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert value(text, "tollgate_calls_in_flight") == 1


async def test_a_group_of_workers_is_served_as_one():
    async def scrape() -> bytes:
        return b"tollgate_calls_total 3\n"

    process = Process()
    process.options["scrape"] = scrape
    async with process:
        assert await process.get("/metrics") == (200, b"tollgate_calls_total 3\n")


async def test_ready_when_every_check_passes():
    async with Process() as process:
        assert await process.get_json("/readyz") == (
            200,
            {"ready": True, "draining": False, "checks": {"directory": True, "ledger": True, "outbox": True}},
        )


async def test_not_ready_when_one_fails_and_the_answer_says_which():
    async with Process() as process:
        process.checks["ledger"] = False
        status, body = await process.get_json("/readyz")

        assert (status, body["ready"], body["checks"]["ledger"]) == (503, False, False)
        text = (await process.get("/metrics"))[1]
        assert value(text, "tollgate_ready") == 0
        assert value(text, "tollgate_ready_check", check="ledger") == 0
        assert value(text, "tollgate_ready_check", check="outbox") == 1


async def test_draining_is_alive_but_not_ready():
    async with Process() as process:
        process.draining = True

        assert (await process.get_json("/readyz"))[0] == 503
        assert await process.get("/healthz") == (200, b"ok\n")


async def test_the_version_is_shown():
    async with Process() as process:
        assert (await process.get_json("/version"))[1]["version"] == __version__


async def test_answers_are_not_cached():
    async with Process() as process, process.client.get("/readyz") as answer:
        assert answer.headers["Cache-Control"] == "no-store"


async def test_other_rooms_add_routes():
    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    process = Process()
    process.options["routes"] = [web.get("/hello", hello)]
    async with process:
        assert await process.get("/hello") == (200, b"hello")
        assert (await process.get("/other"))[0] == 404


async def test_a_unix_socket_serves_as_well(tmp_path):
    server = AdminServer(f"unix:{tmp_path / 'admin.sock'}", Metrics(), dict)
    await server.start()
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "admin.sock"))) as client,
        client.get("http://admin/healthz") as answer,
    ):
        assert answer.status == 200
    await server.close()


@pytest.mark.parametrize("listen", ["9090", "localhost:http", ""])
async def test_what_is_no_address_is_refused(listen):
    server = AdminServer(listen, Metrics(), dict)
    with pytest.raises(ValueError, match="address"):
        await server.start()


async def test_a_closed_server_has_let_go_of_its_port():
    first = AdminServer("127.0.0.1:0", Metrics(), dict)
    await first.start()
    port = first.port
    await first.close()

    second = AdminServer(f"127.0.0.1:{port}", Metrics(), dict)
    await second.start()
    assert second.port == port
    await second.close()
