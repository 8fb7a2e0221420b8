"""What a customer asks for with a file. Pure.

What belongs here: the documented parameters of an upload and of the list of files, checked, and the documented
refusals. What does not: the bytes of a form (web/forms.py), and whether there is such a file (ledger/batches/).
"""

import re
from typing import Final

import msgspec

from proxy.core.batches.expiry import ANCHOR, SECONDS_PROBLEM, is_span
from proxy.core.batches.objects import Purpose
from proxy.core.calls import Form, Source
from proxy.core.errors import ApiError, invalid_parameter

LIMIT_MAX: Final = 10_000
"""Of a page of files, and its default (OpenAI's API reference, List files)."""
FILENAME_CHARS_MAX: Final = 255
_ANCHOR: Final = "expires_after[anchor]"
_SECONDS: Final = "expires_after[seconds]"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_DIGITS_MAX: Final = 9


class WantedFile(msgspec.Struct, frozen=True):
    """A file that is to be kept.

    Args:
        filename: as its owner calls it: at most 255 characters, none of them a control character.
        content: its bytes.
        expires_after_s: how long it is kept; None: as long as any.
    """

    filename: str
    content: Source
    expires_after_s: int | None


def wanted_file(form: Form) -> WantedFile:
    """Return what is asked for. Raises ApiError (400, with the parameter's name)."""
    fields = dict(form.fields)
    if fields.get("purpose") != Purpose.BATCH.value:
        raise invalid_parameter("purpose", f"must be '{Purpose.BATCH.value}'")
    file = form.files.get("file")
    if file is None:
        raise invalid_parameter("file", "must be a file")
    filename = _CONTROL.sub("", file.name)[-FILENAME_CHARS_MAX:] or "file"
    return WantedFile(filename, file.content, _expires_after_s(fields))


def _expires_after_s(fields: dict[str, str]) -> int | None:
    if not any(name.startswith("expires_after") for name in fields):
        return None
    if fields.get(_ANCHOR) != ANCHOR:
        raise invalid_parameter(_ANCHOR, f"must be '{ANCHOR}'")
    text = fields.get(_SECONDS, "")
    is_number = text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX
    seconds = int(text) if is_number else 0
    if not is_span(seconds):
        raise invalid_parameter(_SECONDS, SECONDS_PROBLEM)
    return seconds


def file_not_found() -> ApiError:
    """Return the 404 for a file that the account does not have, whoever has one of this id."""
    return ApiError(404, "No file of yours has this id", "invalid_request_error", "file_id", "file_not_found")


def file_in_use() -> ApiError:
    """Return the 400 for a file that cannot be deleted yet."""
    message = "This file is read by a batch that has not ended. Cancel the batch, or delete the file when it has ended"
    return ApiError(400, message, "invalid_request_error", "file_id", "file_in_use")


def no_room_for_files(files_max: int, bytes_max: int) -> ApiError:
    """Return the 400 for an account that keeps too much."""
    message = f"An account keeps at most {files_max} uploaded files and {bytes_max} bytes. Delete some of them first"
    return ApiError(400, message, "invalid_request_error", "file", "file_storage_exceeded")
