"""The client's side of a call, as far as the gateway knows it.

What belongs here: the contract between the gateway and the web layer. What does not: HTTP (web/).
"""

from collections.abc import AsyncGenerator, Awaitable, Iterable
from typing import Protocol

import msgspec

from proxy.core.calls import Form
from proxy.core.endpoints import Endpoint
from proxy.upstream.relay import ClientPort


class Incoming(Protocol):
    """A request of a client, as the web layer hands it over."""

    @property
    def endpoint(self) -> Endpoint:
        """Its row in the endpoint table."""

    @property
    def port(self) -> ClientPort:
        """Where the answer goes."""

    @property
    def started_s(self) -> float:
        """When it came, monotonic seconds."""

    @property
    def client_request_id(self) -> str | None:
        """The client's own name for it, if it gave one."""

    def token(self) -> str | None:
        """The bearer token, None when there is none."""

    def wants_fit(self) -> bool:
        """Whether its client would rather have less output than a refusal."""

    def raw_headers(self) -> Iterable[tuple[bytes, bytes]]:
        """The request's headers as they came."""

    def body(self) -> Awaitable[bytes]:
        """The whole body. Raises ApiError (400, 408, 413)."""

    def form(self) -> Awaitable[Form]:
        """The whole body as a form. Raises ApiError (400, 408, 413, 503)."""

    def close(self) -> None:
        """Let go of what the request has left on disk: the call is over."""


class AnswerHead(Protocol):
    """Makes the head of an answer that is relayed as it comes."""

    def __call__(self, port: ClientPort, lines: bytes, *, whole: bool = False, length: int | None = None) -> bytes:
        """Return it: ``lines`` are our headers and the upstream's that pass, the rest as in ``upstream.relay``."""


class Answer(msgspec.Struct, frozen=True):
    """A whole answer: status, header lines (without type and length, which the web layer adds) and body.

    A body that is too large for memory comes in ``pieces``, which are closed by whoever sends them, and is
    ``size_bytes`` long.
    """

    status: int
    lines: bytes
    body: bytes
    content_type: bytes = b"application/json"
    pieces: AsyncGenerator[bytes, None] | None = None
    size_bytes: int = 0
