"""Lines of output and error files. Pure.

What belongs here: their form, which is OpenAI's (its guide on batches), and what is said of lines that were not run.
What does not: lines of input files (lines.py).

A line whose upstream answered has a ``response``: its status, the id of its call and the very body that the call would
have got. Any other has an ``error``.
"""

from typing import Final

import msgspec

from proxy.core.batches.objects import LineMistake

EXPIRED: Final = LineMistake(
    "batch_expired", "This request could not be executed before the completion window expired."
)
CANCELLED: Final = LineMistake("batch_cancelled", "This request was not executed: the batch was cancelled.")
INSUFFICIENT_BUDGET: Final = LineMistake(
    "insufficient_budget",
    "This request was not executed: the worst case of its cost no longer fits what is left of the account's budget.",
)
FILE_MISSING: Final = LineMistake("file_not_found", "This request was not executed: the input file has been deleted.")

_to_json: Final = msgspec.json.Encoder().encode


def answered_line(call_id: str, custom_id: str, status: int, body: bytes) -> bytes:
    """Return the line of a request that got an answer, whole or an error; ``body`` is JSON."""
    if b"\n" in body or b"\r" in body:  # in JSON they stand between tokens only (RFC 8259, sections 2 and 7)
        body = body.replace(b"\r", b" ").replace(b"\n", b" ")
    return b'{"id":"%b","custom_id":%b,"response":{"status_code":%d,"request_id":"%b","body":%b},"error":null}\n' % (
        _id_of(call_id),
        _to_json(custom_id),
        status,
        call_id.encode(),
        body,
    )


def unanswered_line(call_id: str, custom_id: str, reason: LineMistake) -> bytes:
    """Return the line of a request that was not run."""
    return b'{"id":"%b","custom_id":%b,"response":null,"error":{"code":%b,"message":%b}}\n' % (
        _id_of(call_id),
        _to_json(custom_id),
        _to_json(reason.code),
        _to_json(reason.message),
    )


def _id_of(call_id: str) -> bytes:
    return b"batch_req_" + call_id.replace("-", "").encode()
