"""``python -m proxy.shipping``: the process that brings a serving process's entries to the ledger.

What belongs here: signals, logs, and the two pipes. What does not: what it does (proxy/ledger/shipping_child.py).
It is started by a serving process, takes its orders from standard input, and ends with it. It reads no settings.
"""

import os
import signal
import sys


def main() -> None:
    """Ship until the parent says that it is enough."""
    # Ctrl+C, and whoever ends a group of processes, means the parent: it says when everything is shipped. This comes
    # before the imports, which take half a second.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    import asyncio  # noqa: PLC0415

    from proxy.garbage import settle_garbage  # noqa: PLC0415
    from proxy.ledger.shipping_child import ship  # noqa: PLC0415
    from proxy.telemetry.logs import configure  # noqa: PLC0415

    # Four thousand entries at once are no garbage, and looked like it fifty times.
    settle_garbage()
    # The pipe to the parent is for messages alone: whatever else is printed goes where logs go.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as messages:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        asyncio.run(ship(sys.stdin.fileno(), messages, lambda begin: configure(begin.log_level)))


if __name__ == "__main__":
    main()
