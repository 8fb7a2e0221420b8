"""What a new connection to Redis needs before the first verb.

What belongs here: the functions, loaded where they are missing, and whether the states found there are to be believed.
What does not: the functions' text and name (library.py).
"""

import logging
import re

import hiredis

from proxy.limiter import LimiterUnavailableError, library
from proxy.limiter.commands import pack
from proxy.limiter.wire import Link

_RUN_ID = re.compile(rb"run_id:([0-9a-f]+)")

_MARK = "tollgate_run_"
"""Begins the name of a library that does nothing: it says in which run the states beside it were made or forgotten.
A library belongs to the data of its node, as they are saved, loaded and replicated, and to no slot."""

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


async def renew_states(link: Link) -> None:
    """Forget what a primary of a cluster may know of old: it was started again, or has taken another's place.

    It is forgotten step by step; whoever is interrupted, or comes meanwhile, goes on where it has got to.

    Raises:
        LimiterUnavailableError: it was, and cannot forget.
    """
    info = await link.send(pack("INFO", "server"))
    run = _RUN_ID.search(info) if isinstance(info, bytes) else None
    listed = await link.send(pack("FUNCTION", "LIST", "LIBRARYNAME", f"{_MARK}*"))
    if run is None or isinstance(listed, hiredis.ReplyError):
        _log.warning("a primary that has been started again will not be noticed: it does not say which run it is")
        return
    mark, others = f"{_MARK}{run[1].decode()}", [library_name(entry) for entry in listed]
    if mark in others:
        return
    if others:
        _log.warning("a primary was started again or has taken another's place: what it knows is forgotten")
        while await _forgets(link, run[1]):
            pass
    code = f"#!lua name={mark}\nredis.register_function('{mark}', function() return 1 end)"
    for words in (("LOAD", "REPLACE", code), *(("DELETE", name) for name in others)):
        answer = await link.send(pack("FUNCTION", *words))
        if isinstance(answer, hiredis.ReplyError) and words[0] == "LOAD":
            _log.warning("a primary that is started again will not be noticed: %s", answer)


async def _forgets(link: Link, run: bytes) -> bool:
    """Let a primary forget some of what it knows; say whether there is more."""
    answer = await link.send(pack("FCALL", f"{library.NAME}_renew", "0", run))
    if isinstance(answer, hiredis.ReplyError):
        raise LimiterUnavailableError(f"a primary that was started again does not forget what it knew: {answer}")
    return bool(answer)


def library_name(listed: list[bytes]) -> str:
    """Return the name of a library as ``FUNCTION LIST`` shows it: names and values in turn."""
    return listed[listed.index(b"library_name") + 1].decode()


async def load_library(link: Link) -> None:
    """Load the functions. Raises LimiterUnavailableError when Redis does not take them."""
    answer = await link.send(pack("FUNCTION", "LOAD", "REPLACE", library.CODE))
    if isinstance(answer, hiredis.ReplyError):
        link.lose("no functions")
        raise LimiterUnavailableError(f"Redis does not take the limiter's functions: {answer}")
    _log.info("loaded the functions %s into Redis", library.NAME)
