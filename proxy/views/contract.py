"""What can be viewed, and how it is asked for.

What belongs here: the values between the web layer and the views, and between the views and their desks. What does not:
paths (web/routes.py).
"""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from proxy.core.accounts import Account, Principal
from proxy.core.calls import Form
from proxy.core.catalogue import Tier
from proxy.core.errors import ApiError
from proxy.months import Month
from proxy.settings.types import Settings


class View(StrEnum):
    """What is asked for: a word for metrics."""

    MODELS = "models"
    MODEL = "model"
    USAGE = "usage"
    RECEIPT = "receipt"
    BATCHES = "batches"
    """A list of them, or a new one."""
    BATCH = "batch"
    BATCH_CANCEL = "batch_cancel"
    FILES = "files"
    """A list of them, or an upload."""
    FILE = "file"
    FILE_CONTENT = "file_content"


ROUTES: Final = {
    View.MODELS: "/v1/models",
    View.MODEL: "/v1/models/{id}",
    View.USAGE: "/v1/usage",
    View.RECEIPT: "/v1/usage/calls/{id}",
    View.BATCHES: "/v1/batches",
    View.BATCH: "/v1/batches/{id}",
    View.BATCH_CANCEL: "/v1/batches/{id}/cancel",
    View.FILES: "/v1/files",
    View.FILE: "/v1/files/{id}",
    View.FILE_CONTENT: "/v1/files/{id}/content",
}
"""The route of each as logs and documents write it."""

GET: Final = b"GET"
LOOKS: Final = (GET, b"HEAD")
POST: Final = b"POST"
DELETE: Final = b"DELETE"
METHODS: Final = {
    View.BATCHES: (*LOOKS, POST),
    View.BATCH_CANCEL: (POST,),
    View.FILES: (*LOOKS, POST),
    View.FILE: (*LOOKS, DELETE),
    View.FILE_CONTENT: (GET,),
}
"""What may be done with a view that is not only looked at."""

TRANSFERS: Final = frozenset({(View.FILES, POST), (View.FILE_CONTENT, GET)})
"""What takes as long as its bytes take on the way: its desk bounds how many there are, and reads what is posted."""

BODY_BYTES_MAX: Final = 131_072
"""Of what is posted to a view: the largest metadata, with every character escaped, are half of it."""


async def no_body() -> bytes:
    """Return the body of a request that has none."""
    return b""


def no_form(file_bytes_max: int) -> AbstractAsyncContextManager[Form]:  # noqa: ARG001 - as every form
    """Return the form of a request that has none."""
    return contextlib.nullcontext(Form((), {}))


class Asked(msgspec.Struct, frozen=True):
    """A request for a view.

    Args:
        view: what is asked for.
        name: which one of them: what its path names, percent-decoded; empty where there is one only.
        token: the bearer token; None: there is none.
        started_s: when it came, monotonic seconds.
        client_request_id: the client's own name for it, if it gave one.
        method: GET, HEAD, POST or DELETE.
        query: of its target, as sent.
        body: reads what was posted, ``BODY_BYTES_MAX`` at most. Raises ApiError (400, 408, 413).
        form: reads it as a form with a file of so many bytes at most, and keeps that on disk meanwhile. Raises ApiError
            (400, 408, 413, 503).
    """

    view: View
    name: str
    token: str | None
    started_s: float
    client_request_id: str | None = None
    method: bytes = b"GET"
    query: bytes = b""
    body: Callable[[], Awaitable[bytes]] = no_body
    form: Callable[[int], AbstractAsyncContextManager[Form]] = no_form


class Caller(msgspec.Struct, frozen=True):
    """Who asks, and what holds for them now."""

    settings: Settings
    principal: Principal
    tier: Tier
    month: Month
    now_ms: int

    @property
    def account(self) -> Account:
        """Who pays."""
        return self.principal.account


class Content(msgspec.Struct, frozen=True):
    """The bytes of a file, as an answer.

    Args:
        size_bytes: how many.
        pieces: them; to be closed.
    """

    size_bytes: int
    pieces: AsyncGenerator[bytes, None]


class RefusedError(Exception):
    """What is asked for is refused, and there is more to say about it than the documented error does.

    Args:
        error: the documented one.
        lines: header lines that go with it.
    """

    def __init__(self, error: ApiError, lines: bytes) -> None:
        super().__init__(str(error))
        self.error = error
        self.lines = lines


class Desk(Protocol):
    """Answers some of the views."""

    async def answer(self, asked: Asked, caller: Caller, body: bytes) -> bytes | Content:
        """Return the body of the answer: JSON, or bytes of a file; ``body`` is what was posted.

        Raises:
            ApiError, RefusedError: it is refused.
            LedgerError: the ledger is away: 503.
        """
        ...
