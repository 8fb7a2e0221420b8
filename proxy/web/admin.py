"""The admin listener: what operators and their tools ask, never customers.

What belongs here: /metrics, /healthz, /readyz, /version, and a place for further admin routes. What does not: customer
routes (public.py). It has no authentication of its own: it listens on a private address.
"""

import platform
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import msgspec
from aiohttp import web

from proxy import __version__
from proxy.telemetry.exposition import CONTENT_TYPE
from proxy.telemetry.metrics import Metrics

Ready = Callable[[], Mapping[str, bool]]
"""Returns each check's name and whether it passes; called for every question, so it reads what is known already."""
Scrape = Callable[[], Awaitable[bytes]]
"""Returns the exposition of the whole process group."""

_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_SHUTDOWN_S: Final = 2.0
_KEEPALIVE_S: Final = 75.0
_BODY_BYTES_MAX: Final = 1_048_576


class Readiness(msgspec.Struct, frozen=True):
    """The body of /readyz."""

    ready: bool
    draining: bool
    checks: dict[str, bool]


class AdminServer:
    """Serves the admin routes.

    Args:
        listen: ``host:port`` (port 0: any free one) or ``unix:/path``.
        metrics: what /metrics shows; it is also told to show readiness.
        ready: the checks of /readyz, which passes when all of them do.
        draining: whether the process is on its way out: /readyz then fails, so that no new calls come.
        scrape: what /metrics shows instead, when several workers are shown as one.
        routes: further routes of this listener.

    Attributes:
        app: the aiohttp application, to which routes and sub-applications may be added until ``start``.
    """

    def __init__(
        self,
        listen: str,
        metrics: Metrics,
        ready: Ready,
        *,
        draining: Callable[[], bool] = lambda: False,
        scrape: Scrape | None = None,
        routes: Iterable[web.AbstractRouteDef] = (),
    ) -> None:
        self._listen = listen
        self._metrics = metrics
        self._ready = ready
        self._draining = draining
        self._scrape = scrape
        self._runner: web.AppRunner | None = None
        self.app: Final = web.Application(client_max_size=_BODY_BYTES_MAX)
        self.app.on_response_prepare.append(_add_headers)
        self.app.router.add_get("/metrics", self._get_metrics)
        self.app.router.add_get("/healthz", self._get_health)
        self.app.router.add_get("/readyz", self._get_readiness)
        self.app.router.add_get("/version", self._get_version)
        self.app.add_routes(routes)
        metrics.watch("tollgate_ready", "", lambda: self.readiness().ready)
        metrics.watch_each("tollgate_ready_check", "", "check", lambda: self.readiness().checks)

    @property
    def port(self) -> int:
        """The TCP port, once started; 0 for a Unix socket."""
        addresses = self._runner.addresses if self._runner else []
        return int(addresses[0][1]) if addresses and isinstance(addresses[0], tuple) else 0

    def readiness(self) -> Readiness:
        """Ask every check."""
        checks = dict(self._ready())
        draining = self._draining()
        return Readiness(all(checks.values()) and not draining, draining, checks)

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            OSError: the address is taken or not ours.
            ValueError: ``listen`` is no address.
        """
        self._runner = web.AppRunner(
            self.app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=_KEEPALIVE_S,
            shutdown_timeout=_SHUTDOWN_S,
        )
        await self._runner.setup()
        try:
            await self._site(self._runner).start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening; what is being answered has ``_SHUTDOWN_S`` to end."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _site(self, runner: web.AppRunner) -> web.BaseSite:
        if self._listen.startswith("unix:"):
            return web.UnixSite(runner, self._listen.removeprefix("unix:"))
        host, colon, port = self._listen.rpartition(":")
        if not colon or not port.isdecimal():
            raise ValueError(f"not an address to listen on: {self._listen!r}")
        return web.TCPSite(runner, host.strip("[]") or None, int(port))

    async def _get_metrics(self, _request: web.Request) -> web.Response:
        body = self._metrics.render() if self._scrape is None else await self._scrape()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def _get_health(self, _request: web.Request) -> web.Response:
        """Answer while the loop runs, draining or not: a supervisor restarts what does not answer."""
        return web.Response(text="ok\n")

    async def _get_readiness(self, _request: web.Request) -> web.Response:
        readiness = self.readiness()
        return _json(readiness, 200 if readiness.ready else 503)

    async def _get_version(self, _request: web.Request) -> web.Response:
        return _json({"version": __version__, "python": platform.python_version()})


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
