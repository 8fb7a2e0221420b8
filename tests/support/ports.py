"""TCP ports for servers of the tests, that no other process takes before the server does.

A port that the system picks can be given to an outgoing connection, or to a test in another process, before its server
binds it. These are below the system's own range, and each process has a slice of them for itself.

What belongs here: who may bind which port. What does not: the servers (services.py, process.py).
"""

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

LOWEST = 10_000
SLICE = 250
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """Return a TCP port that is free, and that nobody else is given before this process has gone through its slice.

    Raises:
        OSError: every port of the slice is taken.
    """
    for _ in range(SLICE):
        port = next(_ports)
        with socket.socket() as probe:
            # Like every server: what is left of old connections does not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("every port is taken")


def _own_slice() -> tuple[socket.socket, range]:
    """Return the first slice that is nobody's, and the socket that keeps it until this process ends."""
    ends = int(_EPHEMERAL.read_text().split()[0])
    for first in range(LOWEST, ends - SLICE, SLICE):
        guard = socket.socket()
        try:
            guard.bind(("127.0.0.1", first))
        except OSError:
            guard.close()
            continue
        return guard, range(first + 1, first + SLICE)
    raise OSError("every slice of ports is taken")


def _endless() -> Iterator[int]:
    guard, ports = _own_slice()
    with guard:
        yield from itertools.cycle(ports)


_ports = _endless()
