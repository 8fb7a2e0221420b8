"""What a customer asks for with a file. Pure.

What belongs here: the documented parameters of an upload and of the list of files, checked, and the documented
refusals. What does not: the bytes of a form (web/forms.py), and whether there is such a file (ledger/batches/).
"""

import re
from typing import Final

import msgspec

from proxy.core.batches.objects import Purpose
from proxy.core.calls import Form, Source
from proxy.core.errors import ApiError, invalid_parameter

LIMIT_MAX: Final = 10_000
"""Of a page of files, and its default (OpenAI's API reference, List files)."""
FILENAME_CHARS_MAX: Final = 255
EXPIRES_S_MIN: Final = 3600
EXPIRES_S_MAX: Final = 2_592_000
"""The documented bounds of ``expires_after[seconds]``."""
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
    if fields.get(_ANCHOR) != "created_at":
        raise invalid_parameter(_ANCHOR, "must be 'created_at'")
    text = fields.get(_SECONDS, "")
    is_number = text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX
    seconds = int(text) if is_number else 0
    if not EXPIRES_S_MIN <= seconds <= EXPIRES_S_MAX:
        raise invalid_parameter(_SECONDS, f"must be an integer between {EXPIRES_S_MIN} and {EXPIRES_S_MAX}")
    return seconds


def expiry_ms(created_ms: int, days: int, wanted_s: int | None) -> int | None:
    """Return when a file is deleted, Unix milliseconds; None: when its owner does it.

    Args:
        created_ms: when it was made.
        days: how long files are kept; 0: until their owner deletes them.
        wanted_s: what its owner wants; None: as long as can be.
    """
    spans_ms = [days * 86_400_000] if days else []
    if wanted_s is not None:
        spans_ms.append(wanted_s * 1000)
    return created_ms + min(spans_ms) if spans_ms else None


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
