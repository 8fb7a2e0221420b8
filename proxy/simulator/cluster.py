"""The simulated cluster as a server: its routes, its start and its end.

What belongs here: aiohttp. What does not: what is answered (generation.py, others.py).
"""

import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

import msgspec
from aiohttp import BodyPartReader, web

from proxy.simulator.counters import Counters
from proxy.simulator.generation import JSON_HEADERS, ConnectionCutError, Generation
from proxy.simulator.options import Options
from proxy.simulator.others import Embedded, embed, rerank, transcribe
from proxy.simulator.requests import (
    GenerationCall,
    RefusedError,
    read_chat,
    read_completion,
    read_json,
    refuse_field,
)
from proxy.simulator.shapes import Json

_BODY_BYTES_MAX: Final = 256 * 1024 * 1024
_BACKLOG: Final = 4096
_KEEPALIVE_S: Final = 5.0
"""As uvicorn: a proxy that reuses a connection at this age meets one that is just being closed."""
_SEEN_MAX: Final = 100


class Seen(msgspec.Struct, frozen=True):
    """A call as it arrived: for tests that ask what was forwarded. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


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
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/embeddings", self._embeddings)
        for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
            app.router.add_post(path, self._rerank)
        app.router.add_post("/v1/audio/transcriptions", self._transcriptions)
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
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as exc:
            headers = JSON_HEADERS | ({"Allow": exc.headers["Allow"]} if "Allow" in exc.headers else {})
            return web.Response(status=exc.status, headers=headers, body=msgspec.json.encode({"detail": exc.reason}))

    async def _body(self, request: web.Request) -> Json:
        raw = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.method, request.path, headers, raw))
        return read_json(raw, request.content_type)

    async def _generate(
        self, request: web.Request, read: Callable[[Json, Options, str], GenerationCall]
    ) -> web.StreamResponse:
        call = read(await self._body(request), self.options, request.headers.get("X-Sim", ""))
        return await Generation(request, call, self.options, self.counters).answer()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, read_chat)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, read_completion)

    def _count(self, embedded: Embedded) -> web.Response:
        self.counters.prompt_tokens[self.counters.label(embedded.model)] += embedded.prompt_tokens
        return web.Response(headers=JSON_HEADERS, body=embedded.body)

    async def _embeddings(self, request: web.Request) -> web.Response:
        return self._count(embed(await self._body(request), self.options))

    async def _rerank(self, request: web.Request) -> web.Response:
        return self._count(rerank(await self._body(request), self.options))

    async def _transcriptions(self, request: web.Request) -> web.Response:
        if not request.content_type.startswith("multipart/"):
            refuse_field({}, "file", "missing", "Field required")
        form: dict[str, str] = {}
        audio: bytes | None = None
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                continue
            if part.name == "file":
                audio = bytes(await part.read())
            else:
                form[part.name or ""] = await part.text()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.method, request.path, headers, audio or b""))
        return self._count(transcribe(form, audio, self.options))

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, _request: web.Request) -> web.Response:
        return web.Response(headers=JSON_HEADERS, body=b'{"version":"0.32.0"}')

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(text=self.counters.text(), headers={"Server": "uvicorn"})

    async def _models(self, _request: web.Request) -> web.Response:
        models = self.options.models or ("simulated",)
        data = [_model(name, self.options) for name in models]
        return web.Response(headers=JSON_HEADERS, body=msgspec.json.encode({"object": "list", "data": data}))


def _model(name: str, options: Options) -> Json:
    created = int(time.time())
    permission = {
        "id": f"modelperm-{secrets.token_hex(8)}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": name,
        "parent": None,
        "max_model_len": options.max_model_len,
        "permission": [permission],
    }


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
