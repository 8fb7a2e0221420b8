"""The yardstick: the same hop with aiohttp and uvloop alone, and no feature at all.

It forwards method, path, headers and body, and relays the answer piece by piece. Whatever Tollgate does on
top (keys, limits, metering, prices, a durable ledger), it is measured against this, in the same minute, on the
same cores.
"""

import argparse
import asyncio
import contextlib

import aiohttp
import uvloop
from aiohttp import web
from multidict import CIMultiDictProxy

_HOP_BY_HOP = frozenset({"host", "connection", "content-length", "transfer-encoding", "keep-alive"})


def _end_to_end(headers: CIMultiDictProxy[str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}


async def _serve(port: int, upstream: str) -> None:
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)

    async def relay(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        url = upstream + request.path_qs
        headers = _end_to_end(request.headers)
        async with session.request(request.method, url, headers=headers, data=body) as answer:
            headers = _end_to_end(answer.headers)
            if answer.content_length is not None:
                return web.Response(status=answer.status, headers=headers, body=await answer.read())
            response = web.StreamResponse(status=answer.status, headers=headers)
            with contextlib.suppress(aiohttp.ClientConnectionResetError):
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
            return response

    # The low-level server, without application, router or middleware: an honest baseline is a strong one.
    runner = web.ServerRunner(web.Server(relay, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="base URL")
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.port, arguments.upstream))
