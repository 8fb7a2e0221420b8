"""An inference server that holds each request until a test says otherwise: an order is asserted, not a time."""

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Self


class HoldingServer:
    """Answers each request when it is told to.

    Args:
        name_of: returns what a request is called, from its body; all names differ, but for a request that comes again.
        answer: of every request.

    Attributes:
        came: what the requests say, in the order in which they arrived.
        cut: those whose client went before they were answered.
        answered: those that were.
        holds: those that are neither, the oldest first.
    """

    def __init__(self, name_of: Callable[[bytes], str] = bytes.decode, answer: bytes = b"{}") -> None:
        self._name_of = name_of
        self._answer = answer
        self.came: list[str] = []
        self.cut: list[str] = []
        self.answered: list[str] = []
        self.status = 200
        self.url = ""
        self.connections = 0
        self._held: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Condition()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: not self._writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head)
                assert length
                said = self._name_of(await reader.readexactly(int(length[1])))
                held = self._held[said] = asyncio.Event()
                await self._note(self.came, said)
                answered = asyncio.ensure_future(held.wait())
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait((answered, gone), return_when=asyncio.FIRST_COMPLETED)
                if not answered.done():
                    answered.cancel()
                    del self._held[said]
                    await self._note(self.cut, said)
                    break
                gone.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await gone
                await self._note(self.answered, said)
                head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                writer.write(head % (self.status, len(self._answer)) + self._answer)
        async with self._changed:
            self._writers.discard(writer)
            self._changed.notify_all()
        writer.close()

    async def _note(self, where: list[str], said: str) -> None:
        async with self._changed:
            where.append(said)
            self._changed.notify_all()

    async def has(self, count: int) -> list[str]:
        """Wait until so many requests have come; return what all of them say."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: len(self.came) >= count)
        return self.came

    async def has_cut(self, *said: str) -> None:
        """Wait until these have been cut, and no others."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: len(self.cut) >= len(said))
        assert self.cut == list(said)

    @property
    def holds(self) -> list[str]:
        return [said for said, held in self._held.items() if not held.is_set()]

    def answer(self, *said: str) -> None:
        for each in said:
            self._held[each].set()
