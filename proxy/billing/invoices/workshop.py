"""Where the files of documents are made: in this process, or in several beside it.

What belongs here: spreading the work. What does not: making files (billing/documents/).
"""

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Final, Protocol, Self

import msgspec

from proxy.core.invoicing.document import Invoice
from proxy.core.invoicing.terms import InvoicingTerms

FEW: Final = 4
"""So many documents are made here sooner than a process has begun."""


class Files(Protocol):
    """The files of a document."""

    @property
    def xml(self) -> bytes:
        """EN 16931."""

    @property
    def pdf(self) -> bytes:
        """PDF/A-3 that carries it."""


class Craft(msgspec.Struct, frozen=True):
    """How files are made and held to the official rules. Both can be sent to other processes.

    Args:
        make: files from a document.
        rules: what is wrong with an XML; nothing, if all is well.
    """

    make: Callable[[Invoice, InvoicingTerms], Files]
    rules: Callable[[bytes], Sequence[str]]


class Made(msgspec.Struct, frozen=True):
    """Files, and what the official rules have against them."""

    xml: bytes
    pdf: bytes
    mistakes: tuple[str, ...]


class Workshop:
    """Makes files in a process for each core; a few documents in a thread of this one. Use it as a context.

    Args:
        craft: how.
        terms: the seller's.
        workers: how many processes.
    """

    def __init__(self, craft: Craft, terms: InvoicingTerms, workers: int | None = None) -> None:
        self._craft = craft
        self._terms = terms
        self._workers = workers or len(os.sched_getaffinity(0))
        self._pool: ProcessPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    async def make(self, documents: Sequence[Invoice]) -> list[Made]:
        """Return the files of documents, in their order."""
        if self._pool is None and len(documents) <= FEW:
            return await asyncio.to_thread(_make, self._craft, self._terms, documents)
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, mp_context=context, initializer=_end_with_parent)
        loop = asyncio.get_running_loop()
        shares = [documents[start :: self._workers] for start in range(self._workers)]
        made = await asyncio.gather(
            *(loop.run_in_executor(self._pool, _make, self._craft, self._terms, share) for share in shares if share)
        )
        return _interleaved(made, len(documents))


def _make(craft: Craft, terms: InvoicingTerms, documents: Iterable[Invoice]) -> list[Made]:
    found = []
    for document in documents:
        files = craft.make(document, terms)
        found.append(Made(files.xml, files.pdf, tuple(craft.rules(files.xml))))
    return found


def _interleaved(shares: Sequence[Sequence[Made]], count: int) -> list[Made]:
    return [shares[place % len(shares)][place // len(shares)] for place in range(count)]


def _end_with_parent() -> None:
    """Let a worker end when its parent was killed: it would wait for work for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
