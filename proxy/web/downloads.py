"""``GET /export`` on the admin listener: a month as a download.

What belongs here: the route, and the process that makes the file, from this side. What does not: formats
(billing/exports/), and the process itself (billing/exports/child.py).

The file is passed on while it is made. A download that breaks off looks like one: the last chunk never comes. When its
client leaves, the process is ended at once, and the folder in which it kept what it needed is removed; what a killed
proxy has left there is removed at its next start.
"""

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
import structlog
from aiohttp import web

from proxy.billing.exports.child import Begun, Order, Refused, decode_answer
from proxy.billing.exports.formats import FORMATS, file_name
from proxy.billing.exports.request import Format
from proxy.clock import unix_ms
from proxy.core.calendar import is_month
from proxy.ledger.location import Location
from proxy.ledger.shipping_process import step_back
from proxy.settings.types import Settings

_log = structlog.get_logger(__name__)

COMMAND: Final = (sys.executable, "-m", "proxy.billing.exports.child")
AT_ONCE_MAX: Final = 2
RETRY_AFTER_S: Final = 10
STALL_S: Final = 60.0
"""A client that takes nothing for so long has left: the database keeps a snapshot for it."""
GLANCE_S: Final = 0.25
"""How often it is looked whether the client is still there while there is nothing to send."""
CHUNK_BYTES: Final = 65_536


class _BrokenOffError(Exception):
    """The client has left, or the file cannot be made to its end."""


class Downloads:
    """Makes exports for whoever asks the admin listener.

    Args:
        place: where the ledger and the outboxes are.
        settings: those in use.
        worker: number of this process: what it keeps in the state folder is its own.
        command: what makes an export.
    """

    def __init__(
        self, place: Location, settings: Callable[[], Settings], worker: int, command: Sequence[str] = COMMAND
    ) -> None:
        self._place = place
        self._settings = settings
        self._command = command
        self._running = 0
        self._folder = place.state_dir / f"exports-{worker}"
        shutil.rmtree(self._folder, ignore_errors=True)

    def routes(self) -> list[web.RouteDef]:
        """Return what is to be added to the admin listener."""
        return [web.get("/export", self._get, allow_head=False)]

    async def _get(self, request: web.Request) -> web.StreamResponse:
        month, name = request.query.get("month", ""), request.query.get("format", "csv")
        account = request.query.get("account") or None
        if not is_month(month):
            return _error(400, f"month: not a month (YYYY-MM): {month!r}")
        if name not in FORMATS:
            return _error(400, f"format: {name!r} is none of {', '.join(FORMATS)}")
        if self._running >= AT_ONCE_MAX:
            busy = _error(503, f"{AT_ONCE_MAX} exports are being made already")
            busy.headers["Retry-After"] = str(RETRY_AFTER_S)
            return busy
        self._running += 1
        try:
            return await self._download(request, FORMATS[name], month, account)
        finally:
            self._running -= 1

    async def _download(
        self, request: web.Request, form: Format, month: str, account: str | None
    ) -> web.StreamResponse:
        order = self._order(form, month, account)
        response = web.StreamResponse(headers=_headers(form, file_name(form, month, account, order.seller)))
        try:
            async with self._making(order) as process:
                assert process.stdout is not None
                match await _first_line(request, process.stdout):
                    case Refused(status, why):
                        return _error(status, why)
                    case Begun(waiting):
                        response.headers["X-Tollgate-Not-Shipped"] = "unknown" if waiting is None else str(waiting)
                await _pass_on(request, response, process.stdout)
                await _be_whole(process, form, month)
            await response.write_eof()
        except (_BrokenOffError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()  # without its last chunk, it is no whole answer
        return response

    def _order(self, form: Format, month: str, account: str | None) -> Order:
        settings = self._settings()
        return Order(
            form.name,
            month,
            account,
            unix_ms(),
            self._place.database_url,
            str(self._place.state_dir),
            settings.tiers,
            settings.seller,
            settings.invoicing,
        )

    @contextlib.asynccontextmanager
    async def _making(self, order: Order) -> AsyncIterator[asyncio.subprocess.Process]:
        """Start a process on an order, with a folder of its own; end it and remove the folder when the block ends."""
        folder = await asyncio.to_thread(_new_folder, self._folder)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=CHUNK_BYTES,
                env={**os.environ, "TMPDIR": str(folder)},
            )
            try:
                step_back(process.pid)
                await _give(process, msgspec.json.encode(order))
                yield process
            finally:
                await _end(process)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _give(process: asyncio.subprocess.Process, order: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(order)
    with contextlib.suppress(ConnectionError):  # it died: that is told by its answer
        await process.stdin.drain()
    process.stdin.close()


async def _be_whole(process: asyncio.subprocess.Process, form: Format, month: str) -> None:
    """Wait for the process's end. Raises ``_BrokenOffError``: not all that it wanted to say was said."""
    if code := await process.wait():
        _log.error("export_failed", format=form.name, month=month, code=code)
        raise _BrokenOffError


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.stdout is not None
    while await process.stdout.read(CHUNK_BYTES):  # to its end: then the pipe is closed
        pass
    await process.wait()


async def _first_line(request: web.Request, pipe: asyncio.StreamReader) -> Begun | Refused:
    line = b""
    while not line.endswith(b"\n"):
        more = await _read(request, pipe, 1)
        if not more:
            return Refused(500, "the export could not be made; the log says why")
        line += more
    answer: Begun | Refused = decode_answer(line)
    return answer


async def _pass_on(request: web.Request, response: web.StreamResponse, pipe: asyncio.StreamReader) -> None:
    await response.prepare(request)
    while chunk := await _read(request, pipe, CHUNK_BYTES):
        try:
            async with asyncio.timeout(STALL_S):
                await response.write(chunk)
        except TimeoutError as exc:
            raise _BrokenOffError from exc


async def _read(request: web.Request, pipe: asyncio.StreamReader, bytes_max: int) -> bytes:
    """Return what comes next, empty at the end. Raises ``_BrokenOffError`` when the client has left."""
    while True:
        if request.transport is None or request.transport.is_closing():
            raise _BrokenOffError
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GLANCE_S):
                return await pipe.read(bytes_max)


def _new_folder(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=parent))


def _headers(form: Format, name: str) -> dict[str, str]:
    plain = name.encode("ascii", "replace").decode().replace("?", "-")
    return {
        "Content-Type": form.media_type,
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}",  # RFC 6266
    }


def _error(status: int, why: str) -> web.Response:
    return web.Response(
        body=msgspec.json.encode({"error": why}) + b"\n", status=status, content_type="application/json"
    )
