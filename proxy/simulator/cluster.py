"""The simulated cluster as a server: its routes, its start and its end.

What belongs here: aiohttp. What does not: what is answered (generation.py; for what generates no text engines.py).
"""

import hashlib
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Final, Self

import msgspec
from aiohttp import web

from proxy.simulator.answers import JSON_HEADERS, ConnectionCutError, Events, Whole, fail_early, send_events, send_whole
from proxy.simulator.audio import transcribe
from proxy.simulator.counters import Counters
from proxy.simulator.engines import ENGINES, Answerer
from proxy.simulator.generation import Generation
from proxy.simulator.listing import list_models
from proxy.simulator.options import Options
from proxy.simulator.requests import (
    GenerationCall,
    NotJsonError,
    RefusedError,
    decode_json,
    read_chat,
    read_completion,
    read_json,
)
from proxy.simulator.shapes import Json
from proxy.simulator.uploads import KEPT_BYTES_MAX, ReceivedForm, Upload, read_form

_BODY_BYTES_MAX: Final = 256 * 1024 * 1024
_BACKLOG: Final = 4096
_KEEPALIVE_S: Final = 5.0
"""As uvicorn: a proxy that reuses a connection at this age meets one that is just being closed."""
_SEEN_MAX: Final = 100


class Seen(msgspec.Struct, frozen=True):
    """A call as it arrived: for tests that ask what was forwarded.

    Args:
        method: of the request.
        path: of the request.
        headers: names in lower case.
        body: JSON, or a form's ``file``; empty when it is longer than ``KEPT_BYTES_MAX``.
        size: of that, in bytes.
        sha256: of that, hexadecimal.
        fields: of a form, in order.
        files: of a form, by the name of their field.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    size: int = 0
    sha256: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    files: dict[str, Upload] = {}


class SimulatedCluster:
    """An inference server that behaves like vLLM 0.32 on the wire and needs no model.

    ``async with SimulatedCluster() as cluster:`` serves on a free port of 127.0.0.1 until the block ends.

    Attributes:
        options: as given.
        counters: the truth about what was read and generated.
        seen: the last hundred POST calls, oldest first.
        down: while True every route answers 503, as a server that is starting or draining.
        url: base URL once started.
    """

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.counters = Counters()
        self.seen: deque[Seen] = deque(maxlen=_SEEN_MAX)
        self.down = False
        self.url = ""
        self._runner: web.AppRunner | None = None

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens read so far, all models together."""
        return sum(self.counters.prompt_tokens.values())

    @property
    def generation_tokens(self) -> int:
        """Tokens generated so far, all models together."""
        return sum(self.counters.generation_tokens.values())

    @property
    def running(self) -> int:
        """Calls in flight."""
        return sum(self.counters.running.values())

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen, and return the port (a free one when 0 was given).

        Raises:
            OSError: the port is taken.
        """
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=_KEEPALIVE_S,
            shutdown_timeout=0.1,
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, backlog=_BACKLOG).start()
        bound = int(self._runner.addresses[0][1])
        self.url = f"http://{host}:{bound}"
        return bound

    async def stop(self) -> None:
        """Close every connection and stop listening; a stopped cluster can be started again."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        """Start on a free port."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        await self.stop()

    @property
    def runner(self) -> web.AppRunner:
        """The running server."""
        assert self._runner is not None, "not started"
        return self._runner

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=_BODY_BYTES_MAX, middlewares=[self._translate])
        app.router.add_get("/health", self._health)
        app.router.add_get("/version", self._version)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        served = ENGINES[self.options.engine]
        routes: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
            path: partial(self._answer, answerer) for path, answerer in served.answers.items()
        }
        if served.generates:
            routes |= {"/v1/chat/completions": self._chat, "/v1/completions": self._completions}
        routes |= dict.fromkeys(served.hears, self._hear)
        for path, handler in routes.items():
            if not self.options.routes or path in self.options.routes:
                app.router.add_post(path, handler)
        return app

    @web.middleware
    async def _translate(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Turn refusals into vLLM's answers."""
        try:
            if self.down and request.path != "/metrics":
                return web.Response(status=503, headers=JSON_HEADERS, body=b'{"detail":"Service Unavailable"}')
            return await handler(request)
        except RefusedError as exc:
            return web.Response(status=exc.status, headers=JSON_HEADERS, body=msgspec.json.encode(exc.body))
        except ConnectionCutError:
            return web.Response()  # the connection is gone: nothing of it is sent
        except NotJsonError as exc:
            return self._not_json(exc)
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as exc:
            headers = JSON_HEADERS | ({"Allow": exc.headers["Allow"]} if "Allow" in exc.headers else {})
            return web.Response(status=exc.status, headers=headers, body=msgspec.json.encode({"detail": exc.reason}))

    def _not_json(self, fault: NotJsonError) -> web.Response:
        refuse = ENGINES[self.options.engine].refuse_json
        assert refuse is not None
        try:
            refuse(fault.message, fault.position)
        except RefusedError as exc:
            return web.Response(status=exc.status, headers=JSON_HEADERS, body=msgspec.json.encode(exc.body))

    async def _body(self, request: web.Request) -> Json:
        raw = await request.read()
        kept = raw if len(raw) <= KEPT_BYTES_MAX else b""
        self._see(request, kept, len(raw), hashlib.sha256(raw).hexdigest())
        if ENGINES[self.options.engine].refuse_json is None:
            return read_json(raw, request.content_type)
        body = decode_json(raw)
        if not isinstance(body, dict):
            raise NotJsonError("Expecting an object", 0)
        return body

    def _see(self, request: web.Request, body: bytes, size: int, sha256: str, form: ReceivedForm | None = None) -> None:
        """Remember a call."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        fields, files = (form.fields, form.files) if form else ((), {})
        self.seen.append(Seen(request.method, request.path, headers, body, size, sha256, fields, files))

    async def _generate(
        self, request: web.Request, read: Callable[[Json, Options, str], GenerationCall]
    ) -> web.StreamResponse:
        call = read(await self._body(request), self.options, request.headers.get("X-Sim", ""))
        return await Generation(request, call, self.options, self.counters).answer()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, read_chat)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, read_completion)

    async def _answer(self, answerer: Answerer, request: web.Request) -> web.StreamResponse:
        """Answer a route that takes JSON and generates nothing."""
        answer = answerer(await self._body(request), self.options, request.headers.get("X-Sim", ""))
        return await self._send(request, answer)

    async def _hear(self, request: web.Request) -> web.StreamResponse:
        """Answer a route for audio."""
        is_form = request.content_type.startswith("multipart/")
        form = await read_form(request) if is_form else ReceivedForm((), {})
        file = form.files.get("file") or Upload("", "", b"", 0, "")
        self._see(request, file.content if file.size <= KEPT_BYTES_MAX else b"", file.size, file.sha256, form)
        translates = request.path.endswith("/translations")
        answer = transcribe(form, self.options, request.headers.get("X-Sim", ""), translates=translates)
        return await self._send(request, answer)

    async def _send(self, request: web.Request, answer: Whole | Events) -> web.StreamResponse:
        """Send an answer, counted: as running until its end, its prompt at the beginning."""
        counters = self.counters
        label = counters.label(answer.model)
        counters.running[label] += 1
        reason = "abort"
        try:
            await fail_early(request, answer.switches)
            if isinstance(answer, Whole):
                counters.prompt_tokens[label] += answer.prompt_tokens
                counters.generation_tokens[label] += answer.generated_tokens
                response = await send_whole(request, answer)
            else:
                count = partial(counters.generation_tokens.update, [label])
                response = await send_events(request, answer, self.options.tokens_per_second, count)
            reason = "stop"
        except RefusedError:
            reason = "error"
            raise
        finally:
            counters.running[label] -= 1
            counters.finished[label, reason] += 1
        return response

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, _request: web.Request) -> web.Response:
        return web.Response(headers=JSON_HEADERS, body=b'{"version":"0.32.0"}')

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(text=self.counters.text(), headers={"Server": "uvicorn"})

    async def _models(self, _request: web.Request) -> web.Response:
        return web.Response(headers=JSON_HEADERS, body=msgspec.json.encode(list_models(self.options)))


async def start(host: str, port: int, options: Options | None = None) -> tuple[web.AppRunner, int]:
    """Serve a simulated cluster in the running loop.

    Args:
        host: address to listen on.
        port: 0 for a free one.
        options: how it behaves.

    Returns:
        The runner, whose ``cleanup()`` ends it, and the port.
    """
    cluster = SimulatedCluster(options)
    bound = await cluster.start(host, port)
    return cluster.runner, bound
