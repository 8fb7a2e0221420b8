"""Lines of an input file: from bytes to a request that may be run, or to what is wrong with it.

What belongs here: one line by itself. What does not: lines together (checking.py), and running one (batching/).

A line is a JSON object: ``{"custom_id": …, "method": "POST", "url": …, "body": {…}}``. Codes of mistakes are those of
OpenAI and Azure OpenAI (their guides on batches) where they have one.
"""

from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.core.batches.objects import LineMistake
from proxy.core.calls import PreparedCall, Terms
from proxy.core.endpoints import ENDPOINTS, Endpoint
from proxy.core.errors import ApiError

BATCH_ENDPOINTS: Final = {route: endpoint for route, endpoint in ENDPOINTS.items() if not endpoint.takes_form}
"""Every endpoint that a line can name: a form is no JSON."""

CUSTOM_ID_CHARS_MAX: Final = 512
INVALID_JSON: Final = "invalid_json_line"
MISSING: Final = "missing_required_parameter"
INVALID: Final = "invalid_request"
URL_MISMATCH: Final = "url_mismatch"

_OBJECT: Final = ord("{")
_METHOD: Final = "POST"
_SHOWN_CHARS_MAX: Final = 100


class LineRequest(msgspec.Struct, frozen=True):
    """What a line asks for.

    Args:
        custom_id: what its owner calls it.
        body: of the call, JSON.
    """

    custom_id: str
    body: bytes


class _Line(msgspec.Struct):
    custom_id: str | None = None
    method: str | None = None
    url: str | None = None
    body: Raw | UnsetType = UNSET


_PROBLEMS: Final = {
    "custom_id": "must be a string",
    "method": "must be 'POST'",
    "url": "must be a string",
}
_decode: Final = msgspec.json.Decoder(_Line).decode


def is_blank(data: bytes) -> bool:
    """Whether there is nothing on a line."""
    return not data.strip()


def parse_line(data: bytes, number: int, route: str) -> LineRequest | LineMistake:
    """Read a line, its newline left out or not; ``number`` is its own, from 1, ``route`` the batch's endpoint."""
    try:
        line = _decode(data)
    except msgspec.ValidationError as exc:
        return _wrong_type(str(exc), number)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return LineMistake(INVALID_JSON, "This line is not valid JSON.", number)
    for param in ("custom_id", "method", "url"):
        if getattr(line, param) is None:
            return _missing(param, number)
    body = b"" if line.body is UNSET else bytes(line.body)
    if not body or body == b"null":
        return _missing("body", number)
    return _checked(line, body, number, route)


def _checked(line: _Line, body: bytes, number: int, route: str) -> LineRequest | LineMistake:
    assert line.custom_id is not None
    assert line.url is not None
    if not line.custom_id or len(line.custom_id) > CUSTOM_ID_CHARS_MAX:
        problem = f"must be a string of 1 to {CUSTOM_ID_CHARS_MAX} characters"
        return LineMistake(INVALID, f"Invalid parameter 'custom_id': {problem}.", number, "custom_id")
    if line.method != _METHOD:
        return LineMistake(INVALID, f"Invalid parameter 'method': {_PROBLEMS['method']}.", number, "method")
    if line.url != route:
        message = f"The url '{shortened(line.url)}' is not the endpoint of the batch, which is '{route}'."
        return LineMistake(URL_MISMATCH, message, number, "url")
    if body[0] != _OBJECT:
        return LineMistake(INVALID, "Invalid parameter 'body': must be an object.", number, "body")
    return LineRequest(line.custom_id, body)


def prepare_line(request: LineRequest, number: int, endpoint: Endpoint, terms: Terms) -> PreparedCall | LineMistake:
    """Make a line's call ready, as the endpoint makes any call ready; there are no streams in a batch."""
    try:
        call = endpoint.prepare(request.body, endpoint.route, terms)
    except ApiError as error:
        param = "body" if error.param is None else f"body.{error.param}"
        return LineMistake(error.code or INVALID, str(error), number, param)
    if call.stream:
        return LineMistake(INVALID, "Invalid parameter 'stream': must not be true in a batch.", number, "body.stream")
    return call


def tokens_max(call: PreparedCall) -> int:
    """Return what a call counts against the allowance of its account: all tokens that it can use."""
    return call.input_tokens_max + call.output_tokens_max + call.rerank_tokens_max


def shortened(text: str) -> str:
    """Return a customer's text as a message repeats it."""
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…"


def _missing(param: str, number: int) -> LineMistake:
    return LineMistake(MISSING, f"Missing required parameter: '{param}'.", number, param)


def _wrong_type(text: str, number: int) -> LineMistake:
    for param, problem in _PROBLEMS.items():
        if f"`$.{param}" in text:
            return LineMistake(INVALID, f"Invalid parameter '{param}': {problem}.", number, param)
    return LineMistake(INVALID_JSON, "This line is not a JSON object.", number)
