"""Where Redis is: what its URL says.

What belongs here: reading the URL, and whatever of it every node of a cluster is addressed with. What does not: what is
found there (router.py).
"""

import re
import ssl
from typing import Any

import msgspec
from redis.asyncio.connection import SSLConnection, parse_url

_AUTHORITY = re.compile(r"(rediss?://)(?:([^/?]*)@)?([^/?@]*)(.*)", re.DOTALL)


class Target(msgspec.Struct, frozen=True):
    """A server to connect to. See ``parse_targets``."""

    host: str
    port: int
    path: str | None
    username: str | None
    password: str | None
    db: int
    tls: ssl.SSLContext | None

    def __repr__(self) -> str:
        """Leave the secrets out."""
        return self.path or f"{self.host}:{self.port}/{self.db}"

    def at(self, host: str, port: int) -> "Target":
        """Return another node of the same cluster: it takes the same password, and speaks TLS if this one does."""
        return msgspec.structs.replace(self, host=host, port=port)


def parse_targets(url: str) -> tuple[Target, ...]:
    """Read a ``redis://``, ``rediss://`` or ``unix://`` URL, with redis-py's query parameters for TLS.

    A cluster may be named by several of its nodes, as in ``redis://:password@one:6379,two:6379``.

    Raises:
        ValueError: it is none.
    """
    found = _AUTHORITY.fullmatch(url)
    hosts = found[3].split(",") if found else []
    if found is None or len(hosts) == 1:
        return (_parse_target(url),)
    if not all(hosts):
        raise ValueError("a host of a Redis URL is empty")
    login = f"{found[2]}@" if found[2] is not None else ""
    first = _parse_target(f"{found[1]}{login}{hosts[0]}{found[4]}")
    others = (_parse_target(f"{found[1]}{host}") for host in hosts[1:])
    return (first, *(first.at(other.host, other.port) for other in others))


def _parse_target(url: str) -> Target:
    options: dict[str, Any] = dict(parse_url(url))
    tls = None
    if options.get("connection_class") is SSLConnection:
        tls = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if options.get("ssl_certfile"):
            tls.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
        if options.get("ssl_check_hostname") in (False, "false", "False"):
            tls.check_hostname = False
        if options.get("ssl_cert_reqs") == "none":
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    return Target(
        host=options.get("host", "localhost"),
        port=options.get("port", 6379),
        path=options.get("path"),
        username=options.get("username"),
        password=options.get("password"),
        db=options.get("db", 0),
        tls=tls,
    )
