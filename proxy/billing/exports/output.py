"""Where an export is written to: counted, sealed, and with errors of its own.

What belongs here: what stands between a format and a file or a pipe. What does not: which file (cli/export.py) and
whose pipe (child.py).

A disk that is full is no fault of the ledger: within a transaction an OSError would be taken for one, so it becomes an
``OutputError`` here.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import BinaryIO


class OutputError(Exception):
    """What was made cannot be written: no space, no right, or nobody who reads it any more."""


class Output:
    """Passes bytes on.

    Args:
        out: to where.

    Attributes:
        length: bytes so far.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._digest = hashlib.sha256()
        self.length = 0

    def write(self, data: bytes) -> int:
        """Write all of it. Raises ``OutputError``."""
        with writing():
            self._out.write(data)
        self._digest.update(data)
        self.length += len(data)
        return len(data)

    def sha256(self) -> str:
        """Return the SHA-256 of what was written, lower-case hex."""
        return self._digest.hexdigest()


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Tell errors of files from those of the ledger. Raises ``OutputError``."""
    try:
        yield
    except OSError as exc:
        raise OutputError(exc.strerror or type(exc).__name__) from exc
