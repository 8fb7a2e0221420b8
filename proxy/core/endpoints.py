"""The endpoint table: which routes are served, and what a call to each can use.

What belongs here: the documented routes and their usage types (API documentation, section Endpoints). A route
that is not in the table does not exist for a customer. What does not: handling a call (gateway.py).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from proxy.core.calls import Form, PreparedCall, Sent, Shown, Terms
from proxy.core.calls.chat import prepare_chat
from proxy.core.calls.completions import PromptedChat, prepare_completion
from proxy.core.calls.embeddings import prepare_embeddings
from proxy.core.calls.rerank import prepare_rerank
from proxy.core.calls.transcriptions import TRANSCRIPTIONS, TRANSLATIONS, prepare_transcription
from proxy.core.catalogue import Engine
from proxy.core.meters import EventMeter, Reading, StreamMeter, body_meter, read_body, stream_meter
from proxy.core.meters.chat_shape import ChatShaped, chat_answer
from proxy.core.meters.embeddings import count_embeddings, embeddings_meter, read_embeddings
from proxy.core.meters.rerank import count_rerank, read_rerank
from proxy.core.meters.transcriptions import read_transcription
from proxy.core.rerank_shapes import send_rerank, show_rerank
from proxy.core.transcription_shapes import send_transcription, show_transcription
from proxy.core.usage import UsageType

_TEXT: Final = (UsageType.INPUT, UsageType.CACHED_INPUT, UsageType.OUTPUT, UsageType.REASONING)

ROUTE_USAGE_TYPES: Final[Mapping[str, tuple[UsageType, ...]]] = MappingProxyType(
    {
        "/v1/chat/completions": _TEXT,
        "/v1/completions": _TEXT,
        "/v1/embeddings": (UsageType.INPUT,),
        "/v1/rerank": (UsageType.RERANK,),
        "/v2/rerank": (UsageType.RERANK,),
        "/v1/audio/transcriptions": (UsageType.AUDIO_MINUTES,),
        "/v1/audio/translations": (UsageType.AUDIO_MINUTES,),
    }
)
"""What a call to each documented route can use: each needs a price before a model may name the route."""


class Endpoint(msgspec.Struct, frozen=True):
    """A route that is served.

    Args:
        route: documented path, for example ``/v1/chat/completions``.
        method: HTTP method.
        usage_types: everything that a call can use.
        prepare: checks a request and makes it ready: (body or form, route, terms) -> call.
        read_body: reads a whole answer: (engine, body, call) -> reading.
        stream_meter: makes the meter of a streamed answer: (engine, call) -> meter; None: there are no streams.
        body_meter: makes the meter of a whole answer that is too large for memory, as it passes: (engine, call) ->
            meter; None: every answer is collected.
        takes_form: whether a request is ``multipart/form-data`` instead of JSON.
        send: makes what one upstream is sent: (call, engine) -> sent; None: ``body`` to ``upstream_route``, as JSON.
        count: counts what an answer did not tell, where ``read_body`` had to estimate and the model has a tokenizer:
            call -> the same call, which knows. It may take seconds: it is run in a thread, then ``read_body`` again.
        show: makes the customer's shape of a whole answer: (engine, body, call, call id) -> shown; None: it is relayed
            untouched.
    """

    route: str
    method: str
    usage_types: tuple[UsageType, ...]
    prepare: Callable[[bytes | Form, str, Terms], PreparedCall]
    read_body: Callable[[Engine, bytes, PreparedCall], Reading]
    stream_meter: Callable[[Engine, PreparedCall], EventMeter] | None = None
    body_meter: Callable[[Engine, PreparedCall], StreamMeter] | None = None
    takes_form: bool = False
    send: Callable[[PreparedCall, Engine], Sent] | None = None
    show: Callable[[Engine, bytes, PreparedCall, str], Shown] | None = None
    count: Callable[[PreparedCall], PreparedCall] | None = None


def _text_stream(engine: Engine, call: PreparedCall) -> EventMeter:
    return stream_meter(
        engine,
        forward_usage=call.forward_usage,
        strip_continuous=call.strip_continuous,
        choices=call.choices,
        prompt_bytes=call.prompt_bytes,
    )


def _text_body(engine: Engine, body: bytes, call: PreparedCall) -> Reading:
    return read_body(engine, body, choices=call.choices, prompt_bytes=call.prompt_bytes)


def _text_passing(engine: Engine, call: PreparedCall) -> StreamMeter:
    return body_meter(
        engine,
        choices=call.choices,
        prompt_bytes=call.prompt_bytes,
        output_tokens_max=call.output_tokens_max,
    )


CHAT_COMPLETIONS: Final = Endpoint(
    "/v1/chat/completions",
    "POST",
    ROUTE_USAGE_TYPES["/v1/chat/completions"],
    prepare_chat,
    _text_body,
    _text_stream,
    _text_passing,
)


def _completion_stream(engine: Engine, call: PreparedCall) -> EventMeter:
    meter = _text_stream(engine, call)
    return ChatShaped(meter) if isinstance(call, PromptedChat) else meter


def _completion_shown(engine: Engine, body: bytes, call: PreparedCall, call_id: str) -> Shown:  # noqa: ARG001
    return Shown(chat_answer(body) if isinstance(call, PromptedChat) else body)


COMPLETIONS: Final = Endpoint(
    "/v1/completions",
    "POST",
    ROUTE_USAGE_TYPES["/v1/completions"],
    prepare_completion,
    _text_body,
    _completion_stream,
    show=_completion_shown,
)

EMBEDDINGS: Final = Endpoint(
    "/v1/embeddings",
    "POST",
    ROUTE_USAGE_TYPES["/v1/embeddings"],
    prepare_embeddings,
    read_embeddings,
    body_meter=embeddings_meter,
    count=count_embeddings,
)


def _rerank(route: str) -> Endpoint:
    return Endpoint(
        route,
        "POST",
        ROUTE_USAGE_TYPES[route],
        prepare_rerank,
        read_rerank,
        send=send_rerank,
        show=show_rerank,
        count=count_rerank,
    )


RERANK_V1: Final = _rerank("/v1/rerank")
RERANK_V2: Final = _rerank("/v2/rerank")


def _transcription(route: str) -> Endpoint:
    return Endpoint(
        route,
        "POST",
        ROUTE_USAGE_TYPES[route],
        prepare_transcription,
        read_transcription,
        takes_form=True,
        send=send_transcription,
        show=show_transcription,
    )


AUDIO_TRANSCRIPTIONS: Final = _transcription(TRANSCRIPTIONS)
AUDIO_TRANSLATIONS: Final = _transcription(TRANSLATIONS)

_ROWS: Final = (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    EMBEDDINGS,
    RERANK_V1,
    RERANK_V2,
    AUDIO_TRANSCRIPTIONS,
    AUDIO_TRANSLATIONS,
)

ENDPOINTS: Final[Mapping[str, Endpoint]] = MappingProxyType({endpoint.route: endpoint for endpoint in _ROWS})
"""Everything that is served, by route."""
