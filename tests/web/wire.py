"""A connection of the customers' listener with everything around it, and no socket."""

import asyncio

from proxy.core.errors import ApiError
from proxy.web.connections import Connections
from proxy.web.http import Connection

HEAD = b"POST /x HTTP/1.1\r\nHost: x\r\n"
BODY_BYTES_MAX = 300_000


class FakeTransport:
    """A transport that remembers what was done to it, and loses the connection a step after its end."""

    def __init__(self):
        self.protocol = None
        self.written = b""
        self.unsent = 0
        self.closing = self.ended = self.aborted = False
        self.reading = True

    def write(self, data):
        assert not self.closing, "written after the end"
        assert not self.ended, "written after end of file"
        self.written += data

    def write_eof(self):
        self.ended = True

    def can_write_eof(self):
        return True

    def set_write_buffer_limits(self, high):
        self.high = high

    def get_write_buffer_size(self):
        return self.unsent

    def is_closing(self):
        return self.closing

    def close(self):
        if not self.closing:
            self.closing = True
            self.lose()

    def lose(self):
        if not self.unsent:
            asyncio.get_running_loop().call_soon(self._lost)

    def _lost(self):
        if self.protocol is not None:
            self.protocol.connection_lost(None)
            self.protocol = None

    def abort(self):
        self.aborted = True
        self.unsent = 0
        if not self.closing:
            self.close()
        else:
            self.lose()

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True


class Wire:
    """One client's connection; what it asks for is answered by its own method, target and body."""

    def __init__(self, handle=None):
        self.now = 1000.0
        self.seen = []
        self.cancelled = 0
        self.failures = []
        self.server = Connections(handle or self.echo, self.failed, lambda: self.now, 75.0, 1000)
        self.transport = FakeTransport()
        self.connection = Connection(self.server)
        self.transport.protocol = self.connection
        self.connection.connection_made(self.transport)

    def failed(self, name, exc):
        self.failures.append(exc)

    async def echo(self, exchange):
        try:
            body = await exchange.body(BODY_BYTES_MAX, 5.0)
        except ApiError as error:
            exchange.answer(error.status, b"application/json", b"", error.body)
            return
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.seen.append((exchange.method, exchange.target, body))
        exchange.answer(200, b"text/plain", b"", exchange.method + b" " + exchange.target + b" " + body)

    def feed(self, data):
        """Hand over what a read brought, if the transport still reads."""
        if not self.transport.closing:
            self.connection.data_received(data)

    async def settle(self):
        for _ in range(8):
            await asyncio.sleep(0)

    async def send(self, *pieces):
        """Send pieces as reads of their own, and return what has been written since."""
        before = len(self.transport.written)
        for piece in pieces:
            self.feed(piece)
            await self.settle()
        await self.settle()
        return self.transport.written[before:]

    async def pass_s(self, seconds):
        self.now += seconds
        self.server.sweep()
        await self.settle()


def post(body, *headers, target=b"/x"):
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b" % (target, len(body), lines, body)


def chunked(*chunks, trailers=b""):
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n" + trailers + b"\r\n"


def answers(data):
    """The answers in what was written: status, headers, body."""
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        length = int(headers.get(b"content-length", b"0"))
        found.append((int(first.split()[1]), headers, rest[:length]))
        data = rest[length:]
    return found
