"""The contract of a file store.

What belongs here: what every store promises. What does not: any store.

Names are made by us and never by a customer: letters, digits, ``-``, ``_`` and ``.``, in parts that ``/`` separates.
"""

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec


class Written(msgspec.Struct, frozen=True):
    """What has been written.

    Args:
        size_bytes: how long it is.
        sha256: of its bytes, lower-case hex.
    """

    size_bytes: int
    sha256: str


class FileStoreError(Exception):
    """The store does not answer, or refuses: nothing is known of what was written. It may be tried again."""


class FileMissingError(FileStoreError):
    """There is no file of this name."""


class FileStore(Protocol):
    """Keeps bytes under names."""

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> Written:
        """Keep a file, durably and whole or not at all; one of the same name is replaced.

        When ``chunks`` raises, or the writer is cancelled, nothing has changed.

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

    async def close(self) -> None:
        """Let go of connections."""
        ...
