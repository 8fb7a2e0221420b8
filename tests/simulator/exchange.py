"""A client of raw bytes: what it returns is what was on the wire."""

import asyncio
import json
from typing import Any

from proxy.simulator import SimulatedCluster


async def exchange(
    cluster: SimulatedCluster, path: str, body: object, *, method: str = "POST", headers: tuple[str, ...] = ()
) -> tuple[str, dict[str, str], bytes]:
    """Send one request, read until the server closes; status line, headers in lower case, raw body."""
    port = int(cluster.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: sim", "Connection: close", f"Content-Length: {len(payload)}"]
    kind = (
        [] if any(line.lower().startswith("content-type") for line in headers) else ["Content-Type: application/json"]
    )
    writer.write("\r\n".join([*lines, *kind, *headers, "", ""]).encode() + payload)
    raw = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, rest = raw.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    return status, {name.lower(): value for name, value in (line.split(": ", 1) for line in fields if line)}, rest


def chunks(raw: bytes) -> list[bytes]:
    """Undo the chunk framing; the terminator must be there."""
    found = []
    while True:
        size, _, raw = raw.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            assert raw == b"\r\n"
            return found
        found.append(raw[:length])
        assert raw[length : length + 2] == b"\r\n"
        raw = raw[length + 2 :]


def events(raw: bytes) -> list[Any]:
    """Return the JSON of each event; ``[DONE]`` must be the last and is left out."""
    *data, done, rest = b"".join(chunks(raw)).split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(line.removeprefix(b"data: ")) for line in data]


def chat(prompt: str, **fields: object) -> dict[str, object]:
    """Return a chat request."""
    return {"model": "m", "messages": [{"role": "user", "content": prompt}]} | fields


WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}
CHAT = "/v1/chat/completions"
