"""A receiver of events as an operator would write it: it checks signatures by the published scheme, on its own."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator

from aiohttp import web

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Receiver:
    """Answers with the statuses that it is told, then with 204.

    Attributes:
        messages: (id, parsed body) of every message that it acknowledged, in order.
        attempts: (id, timestamp, raw body) of every message that it was sent.
        statuses: what it answers next; ``None``: nothing, ever.
    """

    def __init__(self):
        self.messages = []
        self.attempts = []
        self.statuses = []
        self.headers = {}
        self.url = ""

    async def receive(self, request):
        body = await request.read()
        message_id, timestamp = request.headers["webhook-id"], request.headers["webhook-timestamp"]
        signed = f"{message_id}.{timestamp}.".encode() + body
        expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        assert f"v1,{expected}" in request.headers["webhook-signature"].split(" ")
        assert request.headers["content-type"] == "application/json"
        self.attempts.append((message_id, int(timestamp), body))
        status = self.statuses.pop(0) if self.statuses else 204
        if status is None:
            await asyncio.sleep(60)
        if status in range(200, 300):
            self.messages.append((message_id, json.loads(body, parse_float=no_float)))
        return web.Response(status=status, headers=self.headers)


def no_float(text):
    raise AssertionError(f"a float: {text}")


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Run a receiver on a port of its own."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.receive)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/tollgate?key=1"
    try:
        yield receiver
    finally:
        await runner.cleanup()
