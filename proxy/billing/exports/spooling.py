"""Files that are written to their place only when they are whole.

What belongs here: the place where they are until then. What does not: what is in them.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, Final

from proxy.billing.exports.output import Output, writing

_COPIED_BYTES: Final = 1 << 20
"""How much is copied at a time."""


@contextlib.contextmanager
def spooled(out: BinaryIO) -> Iterator[Output]:
    """Yield where to write, and copy it to ``out`` when the block ends; when it raises, not a byte of it.

    Raises:
        OutputError: there is no room for it.
    """
    with contextlib.ExitStack() as stack:
        with writing():
            file = stack.enter_context(tempfile.TemporaryFile())
        yield Output(file)
        with writing():
            file.seek(0)
            shutil.copyfileobj(file, out, _COPIED_BYTES)
