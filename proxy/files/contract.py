"""The contract of a file store.

What belongs here: what every store promises. What does not: any store.

Names are made by us and never by a customer: letters, digits, ``-``, ``_`` and ``.``, in parts that ``/`` separates.
"""

import re
from collections.abc import AsyncIterator
from typing import Final, Protocol

import msgspec

NAME_CHARS_MAX: Final = 512
_PART: Final = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}"
_NAME: Final = re.compile(rf"{_PART}(/{_PART})*", re.ASCII)
_PREFIX: Final = re.compile(rf"({_PART}(/{_PART})*/?)?", re.ASCII)


class Written(msgspec.Struct, frozen=True):
    """What has been written.

    Args:
        size_bytes: how long it is.
        sha256: of its bytes, lower-case hex.
    """

    size_bytes: int
    sha256: str


class Stored(msgspec.Struct, frozen=True):
    """A file that is there.

    Args:
        name: its name.
        size_bytes: how long it is.
        written_ms: when it was written, Unix milliseconds, by the store's clock.
    """

    name: str
    size_bytes: int
    written_ms: int


class FileStoreError(Exception):
    """The store does not answer, or refuses: nothing is known of what was written. It may be tried again."""


class FileMissingError(FileStoreError):
    """There is no file of this name."""


def checked_name(name: str) -> str:
    """Return a name that is one: no part of it begins with a dot, so none leads out of a folder.

    Raises:
        ValueError: it is none; whoever made it has a bug.
    """
    if len(name) > NAME_CHARS_MAX or not _NAME.fullmatch(name):
        raise ValueError(f"not the name of a file: {name[:NAME_CHARS_MAX]!r}")
    return name


def checked_prefix(prefix: str) -> str:
    """Return what names may begin with; empty: all. Raises ValueError."""
    if len(prefix) > NAME_CHARS_MAX or not _PREFIX.fullmatch(prefix):
        raise ValueError(f"no name begins so: {prefix[:NAME_CHARS_MAX]!r}")
    return prefix


class FileStore(Protocol):
    """Keeps bytes under names."""

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> Written:
        """Keep a file, durably and whole or not at all; one of the same name is replaced.

        When ``chunks`` raises, or the writer is cancelled before the last of them, nothing has changed.

        Raises:
            FileStoreError: it is not there, as far as is known.
        """
        ...

    def read(self, name: str, first_byte: int = 0, size_bytes: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes of a file, in pieces.

        Args:
            name: which file.
            first_byte: where to begin, from 0.
            size_bytes: how many; None: to its end.

        Raises:
            FileMissingError: there is none.
            FileStoreError: it cannot be read to the end that was asked for.
        """
        ...

    async def delete(self, name: str) -> None:
        """Delete a file; one that is not there is no mistake.

        Raises:
            FileStoreError: it may be there still.
        """
        ...

    def names(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names that begin so, in any order.

        Raises:
            FileStoreError: there may be more.
        """
        ...

    def stored(self, prefix: str) -> AsyncIterator[Stored]:
        """Yield what is there under names that begin so, in any order.

        Raises:
            FileStoreError: there may be more.
        """
        ...

    async def tidy(self, before_ms: int) -> int:
        """Remove what writers that were killed have left behind, and did not touch since; return how many.

        Args:
            before_ms: Unix milliseconds; what is younger may be somebody's who still writes.

        Raises:
            FileStoreError: there may be more.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
