"""What a customer asks for when a batch is created or cancelled. Pure.

What belongs here: the documented parameters, checked, and the documented refusals. What does not: whether there is such
a file or batch (ledger/batches/).
"""

from typing import Any, Final

import msgspec

from proxy.core.batches.expiry import ANCHOR, SECONDS_PROBLEM, is_span
from proxy.core.batches.ids import may_be_id
from proxy.core.batches.lines import BATCH_ENDPOINTS
from proxy.core.batches.objects import Batch
from proxy.core.batches.shown import COMPLETION_WINDOW
from proxy.core.calls.checking import Checker
from proxy.core.errors import ApiError, invalid_parameter, invalid_request

METADATA_MAX: Final = 16
METADATA_KEY_CHARS_MAX: Final = 64
METADATA_VALUE_CHARS_MAX: Final = 512


class WantedBatch(msgspec.Struct):
    """The documented members of the request that creates a batch."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: dict[str, Any] | None = None

    @property
    def output_expires_after_s(self) -> int | None:
        """How long results are wanted, in seconds; None: as long as any."""
        return None if self.output_expires_after is None else self.output_expires_after["seconds"]


_METADATA: Final = (
    f"must be an object of at most {METADATA_MAX} pairs of texts, keys of at most {METADATA_KEY_CHARS_MAX} characters "
    f"and values of at most {METADATA_VALUE_CHARS_MAX}"
)
_PROBLEMS: Final = {
    "input_file_id": "must be the id of a file that was uploaded with purpose 'batch'",
    "endpoint": f"must be one of {', '.join(BATCH_ENDPOINTS)}",
    "completion_window": f"must be '{COMPLETION_WINDOW}'",
    "metadata": _METADATA,
    "output_expires_after": f"must be an object with 'anchor', '{ANCHOR}', and 'seconds', which {SECONDS_PROBLEM}",
}
_checked: Final = Checker(WantedBatch, _PROBLEMS)


def wanted_batch(body: bytes) -> WantedBatch:
    """Return what is asked for. Raises ApiError (400, with the parameter's name)."""
    wanted = _checked.decoded(body)
    if not may_be_id(wanted.input_file_id):
        raise no_input_file()
    if wanted.endpoint not in BATCH_ENDPOINTS:
        raise _wrong("endpoint")
    if wanted.completion_window != COMPLETION_WINDOW:
        raise _wrong("completion_window")
    if wanted.metadata is not None and not _is_short(wanted.metadata):
        raise _wrong("metadata")
    if wanted.output_expires_after is not None and not _is_expiry(wanted.output_expires_after):
        raise _wrong("output_expires_after")
    return wanted


def _is_expiry(expires_after: dict[str, Any]) -> bool:
    return expires_after.get("anchor") == ANCHOR and is_span(expires_after.get("seconds"))


def _is_short(metadata: dict[str, str]) -> bool:
    return len(metadata) <= METADATA_MAX and all(
        len(key) <= METADATA_KEY_CHARS_MAX and len(value) <= METADATA_VALUE_CHARS_MAX for key, value in metadata.items()
    )


def no_input_file() -> ApiError:
    """Return the 400 for a file that the account does not have, whoever has one of this id."""
    return invalid_parameter("input_file_id", "names no file of yours")


def other_purpose() -> ApiError:
    """Return the 400 for a file that is not for a batch."""
    return _wrong("input_file_id")


def batch_not_found() -> ApiError:
    """Return the 404 for a batch that the account does not have, whoever has one of this id."""
    return ApiError(404, "No batch of yours has this id", "invalid_request_error", "batch_id", "batch_not_found")


def no_such_cursor() -> ApiError:
    """Return the 400 for a page that begins after nothing."""
    return invalid_parameter("after", "names nothing of yours")


def too_late(batch: Batch) -> ApiError:
    """Return the 400 for a batch that can no longer be cancelled."""
    return invalid_request(f"A batch with status '{batch.status.value}' cannot be cancelled")


def too_many_batches(unfinished_max: int) -> ApiError:
    """Return the 429 for an account with very many batches under way."""
    return ApiError(
        429,
        f"No more than {unfinished_max} batches of an account can be unfinished at once.",
        "rate_limit_error",
        None,
        "batch_limit_exceeded",
    )


def no_tokens(enqueued_max: int) -> ApiError:
    """Return the 429 for an account that has used up its allowance."""
    return ApiError(
        429,
        f"The limit of {enqueued_max} enqueued tokens has been reached. Try again when other batches have ended.",
        "rate_limit_error",
        None,
        "token_limit_exceeded",
    )


def _wrong(param: str) -> ApiError:
    return invalid_parameter(param, _PROBLEMS[param])
