"""Forms: ``multipart/form-data`` (RFC 7578), read as it comes in.

What belongs here: parts, their headers and their bounds. What does not: where files wait (spool.py), how a body comes
in (exchange.py), and what a field means (core/calls/).

The parser is python-multipart's: it is fed pieces cut anywhere, keeps none of them, and calls back. What it lets pass
and we do not is refused here, so that what an upstream is sent can be read in one way only.
"""

import asyncio
import contextlib
import logging
import re
import secrets
import urllib.parse
from collections.abc import AsyncGenerator, Callable
from typing import Final, Protocol

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from proxy.core.calls import Form, FormFile
from proxy.core.errors import ApiError, invalid_parameter, invalid_request
from proxy.web.spool import Spool, SpooledFile

FEED_BYTES: Final = 65_536
"""What is parsed in one go."""
PARTS_MAX: Final = 64
FILES_MAX: Final = 4
VALUE_BYTES_MAX: Final = 65_536
PART_HEADERS_MAX: Final = 8
HEADER_BYTES_MAX: Final = 4096
"""Of one header of a part."""
OVERHEAD_BYTES_MAX: Final = 131_072
"""What may be neither a value nor a file: headers, boundaries, and what stands before and after them."""
MEASURED: Final = "file"
"""The field whose file is measured as audio."""

NOT_A_FORM: Final = "The request must be multipart/form-data with a boundary"
BROKEN: Final = "The form is broken"
TOO_MANY: Final = "The form has too many parts"
COMPRESSED: Final = "Forms cannot be sent with a Content-Encoding"

_TEXT: Final = ("text/", "application/json")
_PLAIN_ENCODINGS: Final = frozenset({b"", b"7bit", b"8bit", b"binary"})
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_EXTENDED_NAME: Final = re.compile(rb"""filename\*\s*=\s*"?([\w-]+)'[^']*'([^;"\s]+)""", re.IGNORECASE)

# It warns of every broken form, and quotes it: what customers send is not for the log.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


class Meter(Protocol):
    """Measures how long audio plays, as it passes."""

    def feed(self, piece: bytes | memoryview) -> None:
        """Take the next bytes."""

    def duration_ms(self) -> int | None:
        """Return how long it plays, after the last piece; None: it cannot be read as audio."""


class _Part:
    """A part that is being read: its value, or its file."""

    __slots__ = ("content", "content_type", "file_name", "meter", "name", "value")

    def __init__(self, name: str, file_name: str, content_type: str) -> None:
        self.name = name
        self.file_name = file_name
        self.content_type = content_type
        self.value = bytearray()
        self.content: SpooledFile | None = None
        self.meter: Meter | None = None


class FormReader:
    """Reads one form; to be closed when the call is over, for its files end with it.

    Args:
        content_type: of the request.
        spool: where files wait.
        new_meter: makes what measures the file named ``MEASURED``.

    Raises:
        ApiError: 400 when the request is no form.
    """

    def __init__(self, content_type: bytes, spool: Spool, new_meter: Callable[[], Meter]) -> None:
        self._spool = spool
        self._new_meter = new_meter
        self._parts = 0
        self._fields: list[tuple[str, str]] = []
        self._files: dict[str, _Part] = {}
        self._part: _Part | None = None
        self._headers: dict[bytes, bytes] = {}
        self._header_name = self._header_value = b""
        self._overhead = 0
        self._began = self._ended = False
        self._parser = MultipartParser(
            _boundary(content_type),
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
            max_header_count=PART_HEADERS_MAX,
            max_header_size=HEADER_BYTES_MAX,
        )

    async def read(self, pieces: AsyncGenerator[bytes, None]) -> Form:
        """Return the form, once. Raises ApiError: 400 when it is broken, 503 when the disk is full."""
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                for start in range(0, len(piece), FEED_BYTES):
                    self.feed(piece[start : start + FEED_BYTES])
                    await asyncio.sleep(0)  # others have their turn: some files are hard to measure
                for part in self._files.values():
                    assert part.content is not None
                    await part.content.flush()
        return self.form()

    def feed(self, piece: bytes) -> None:
        """Take the next bytes. Raises ApiError (400)."""
        self._overhead += len(piece)  # less what turns out to be a value or a file
        if not self._began:  # the parser would pass over more than line ends here, depending on where they are cut
            piece = piece.lstrip(b"\r\n")
            self._began = bool(piece)
        try:
            self._parser.write(piece)
        except FormParserError as exc:
            raise invalid_request(BROKEN) from exc
        if self._overhead > OVERHEAD_BYTES_MAX:
            raise invalid_request(BROKEN)

    def form(self) -> Form:
        """Return what has been read. Raises ApiError (400) when that is not all of it."""
        if not self._ended:
            raise invalid_request(BROKEN)
        files = {name: _file(part) for name, part in self._files.items()}
        return Form(tuple(self._fields), files, f"tollgate-{secrets.token_hex(16)}")

    def close(self) -> None:
        """Let go of the files."""
        for part in self._files.values():
            if part.content is not None:
                part.content.close()

    # What the parser calls

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise invalid_request(TOO_MANY)
        self._headers = {}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        name, value = self._header_name.lower(), self._header_value.strip(b" \t")
        self._header_name = self._header_value = b""
        if name in self._headers or _CONTROL.search(value):
            raise invalid_request(BROKEN)
        self._headers[name] = value

    def _on_headers_finished(self) -> None:
        part, is_file = _part_of(self._headers)
        if is_file:
            if part.name in self._files:
                raise invalid_parameter(part.name, "must be sent once")
            if len(self._files) >= FILES_MAX:
                raise invalid_request(TOO_MANY)
            part.content = self._spool.new()
            self._files[part.name] = part
            if part.name == MEASURED:
                part.meter = self._new_meter()
        self._part = part

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        assert part is not None
        self._overhead -= end - start
        piece = data[start:end]
        if part.content is None:
            part.value += piece
            if len(part.value) > VALUE_BYTES_MAX:
                raise invalid_parameter(part.name, f"must be at most {VALUE_BYTES_MAX} bytes")
            return
        part.content.add(piece)
        if part.meter is not None:
            part.meter.feed(piece)

    def _on_part_end(self) -> None:
        part, self._part = self._part, None
        if part is None:
            raise invalid_request(BROKEN)  # it ends before its headers do
        if part.content is None:
            try:
                self._fields.append((part.name, part.value.decode()))
            except UnicodeDecodeError:
                raise invalid_parameter(part.name, "must be UTF-8 text") from None

    def _on_end(self) -> None:
        self._ended = True


def _boundary(content_type: bytes) -> bytes:
    try:
        kind, options = parse_options_header(content_type)
    except ValueError:
        raise _not_a_form() from None
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > 256:  # noqa: PLR2004 - RFC 2046 says 70
        raise _not_a_form()
    return boundary


def _not_a_form() -> ApiError:
    return invalid_request(NOT_A_FORM)


def _part_of(headers: dict[bytes, bytes]) -> tuple[_Part, bool]:
    """Return what a part's headers say of it, and whether it is a file. Raises ApiError (400).

    A part with a file name is a file; so is one without it whose type is no text's: not every client names what it
    did not read from a disk.
    """
    disposition = headers.get(b"content-disposition", b"")
    kind, options = parse_options_header(disposition)
    name = options.get(b"name", b"")
    if kind != b"form-data" or not name:
        raise invalid_request(BROKEN)
    if headers.get(b"content-transfer-encoding", b"").lower() not in _PLAIN_ENCODINGS:
        raise invalid_request("The parts of a form cannot be sent with a Content-Transfer-Encoding")
    file_name = options.get(b"filename")
    extended = _EXTENDED_NAME.search(disposition)
    if file_name is None and extended is not None:  # RFC 7578 forbids it; clients of some years ago send nothing else
        file_name = urllib.parse.unquote_to_bytes(extended[2])
    content_type = headers.get(b"content-type", b"").decode("latin-1")
    is_file = file_name is not None or bool(content_type and not content_type.lower().startswith(_TEXT))
    try:
        return _Part(name.decode(), (file_name or b"").decode(errors="replace"), content_type), is_file
    except UnicodeDecodeError:
        raise invalid_request(BROKEN) from None


def _file(part: _Part) -> FormFile:
    assert part.content is not None
    duration_ms = part.meter.duration_ms() if part.meter is not None else None
    return FormFile(part.file_name, part.content_type, part.content, duration_ms)
