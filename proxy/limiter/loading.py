"""What a new connection to Redis needs before the first verb.

What belongs here: the functions, loaded where they are missing, and which generation of states to use. What does not:
the functions' text and name (library.py).
"""

import logging
import re

import hiredis

from proxy.limiter import LimiterUnavailableError, library
from proxy.limiter.commands import pack
from proxy.limiter.wire import Link

_RUN_ID = re.compile(rb"run_id:([0-9a-f]+)")

_log = logging.getLogger(__name__)


async def ensure_library(link: Link) -> None:
    """Load the functions if Redis does not have them. Raises LimiterUnavailableError when it takes none."""
    answer = await link.send(pack("FUNCTION", "LIST", "LIBRARYNAME", library.NAME))
    if isinstance(answer, hiredis.ReplyError):
        link.lose("no functions")
        raise LimiterUnavailableError(f"Redis does not take functions: {answer}")
    if not answer:
        await load_library(link)


async def generation_of(link: Link) -> int | None:
    """Return the generation of states to use; None where Redis does not say who it is, or keeps that elsewhere."""
    info = await link.send(pack("INFO", "server"))
    run = _RUN_ID.search(info) if isinstance(info, bytes) else None
    if run is None:
        return None
    answer = await link.send(pack("FCALL", f"{library.NAME}_attach", "1", "tollgate:run", run[1]))
    if isinstance(answer, hiredis.ReplyError):
        _log.warning("a Redis that has been started again will not be noticed: %s", answer)
        return None
    return int(answer)


async def load_library(link: Link) -> None:
    """Load the functions. Raises LimiterUnavailableError when Redis does not take them."""
    answer = await link.send(pack("FUNCTION", "LOAD", "REPLACE", library.CODE))
    if isinstance(answer, hiredis.ReplyError):
        link.lose("no functions")
        raise LimiterUnavailableError(f"Redis does not take the limiter's functions: {answer}")
    _log.info("loaded the functions %s into Redis", library.NAME)
