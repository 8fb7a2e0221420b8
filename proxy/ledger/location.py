"""Where the ledger and the outboxes lie.

What belongs here: the one translation of settings into a database URL and file names. What does not: opening
them.
"""

from pathlib import Path
from typing import Final

import msgspec

from proxy.settings.types import ProxySettings

_OUTBOX: Final = "outbox-{}.db"


class Location(msgspec.Struct, frozen=True):
    """Where a process finds what is durable.

    Args:
        database_url: ``postgresql://…`` or ``sqlite:///…``; may hold a password.
        state_dir: folder of the outboxes, and of the SQLite ledger.
    """

    database_url: str
    state_dir: Path

    def __repr__(self) -> str:
        """Leave the URL out: it may hold a password, and a repr ends up in logs."""
        return f"Location(state_dir={str(self.state_dir)!r})"

    def outbox(self, worker: int) -> Path:
        """Return the outbox of a worker process, counted from 0."""
        return self.state_dir / _OUTBOX.format(worker)

    def outboxes(self) -> list[Path]:
        """Return every outbox that is there, of workers past and present."""
        return sorted(self.state_dir.glob(_OUTBOX.format("*")))


def locate(proxy: ProxySettings) -> Location:
    """Return where the settings put the ledger: in the state folder, unless they name a database."""
    state_dir = Path(proxy.state_dir)
    url = proxy.database_url or f"sqlite:///{(state_dir / 'ledger.db').absolute()}"
    return Location(url, state_dir)
