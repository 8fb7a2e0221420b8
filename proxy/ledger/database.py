"""The connection to the ledger's database.

What belongs here: engines, pools, timeouts, transactions, and the translation of foreign exceptions. What
does not: statements.

Two engines, one behaviour: ``write()`` is a transaction that may wait for a lock but never fails half-way for
lack of one (BEGIN IMMEDIATE on SQLite), ``read()`` sees one snapshot for all its statements (WAL on SQLite,
REPEATABLE READ on PostgreSQL).
"""

import contextlib
import enum
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import URL, Connection, Insert, Table, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from proxy.ledger.errors import LedgerRefusedError, LedgerUnavailableError

_CONNECT_TIMEOUT_S: Final = 5.0
_POOL_TIMEOUT_S: Final = 5.0
_LOCK_TIMEOUT_S: Final = 5.0
_REFUSING_SQLSTATES: Final = ("22", "23")  # data exceptions and violated constraints (PostgreSQL, appendix A)


class _Mode(enum.Enum):
    READ = "read"
    WRITE = "write"


class Database:
    """A bounded pool of connections to one SQLite file or one PostgreSQL database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.is_postgresql: Final = engine.dialect.name == "postgresql"

    @classmethod
    def open(cls, url: str, *, pool_size: int = 5, command_timeout_s: float = 10.0) -> Self:
        """Make the pool; nothing is connected yet.

        Args:
            url: ``postgresql://user:password@host/database`` (``sslmode=`` is understood) or ``sqlite:///path``.
            pool_size: most connections at once; a further caller waits, five seconds at most.
            command_timeout_s: for one statement on PostgreSQL; for a lock on SQLite at most five seconds.

        Raises:
            ValueError: the URL is neither.
        """
        parsed = _parse(url)
        if parsed.get_backend_name() == "postgresql":
            engine = _postgresql_engine(parsed, pool_size, command_timeout_s)
        else:
            engine = _sqlite_engine(parsed, pool_size)
        return cls(engine)

    def read(self) -> contextlib.AbstractAsyncContextManager[AsyncConnection]:
        """A connection whose statements see one snapshot. Raises ``LedgerUnavailableError``."""
        return self._transaction(_Mode.READ)

    def write(self) -> contextlib.AbstractAsyncContextManager[AsyncConnection]:
        """A transaction: committed when the block ends, rolled back when it raises.

        Raises:
            LedgerUnavailableError: the database is away, too slow, locked, or chose this transaction to break
                a deadlock.
            LedgerRefusedError: a constraint or a type stands against it.
        """
        return self._transaction(_Mode.WRITE)

    @contextlib.asynccontextmanager
    async def _transaction(self, mode: _Mode) -> AsyncIterator[AsyncConnection]:
        with _translated():
            async with self._engine.connect() as plain:
                options: dict[str, Any] = {"tollgate_mode": mode}
                if self.is_postgresql and mode is _Mode.READ:
                    options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
                connection = await plain.execution_options(**options)
                async with connection.begin():
                    yield connection

    def insert(self, table: Table) -> Insert:
        """Return an INSERT that leaves rows alone which are there already."""
        if self.is_postgresql:
            return postgresql.insert(table).on_conflict_do_nothing()
        return sqlite.insert(table).on_conflict_do_nothing()

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        raise ValueError("the database URL cannot be read") from None  # the cause would show the password
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+asyncpg")
    if backend == "sqlite" and parsed.database and parsed.database != ":memory:":
        return parsed.set(drivername="sqlite+aiosqlite")
    raise ValueError("the database URL must begin with postgresql:// or be sqlite:///path")


def _postgresql_engine(url: URL, pool_size: int, command_timeout_s: float) -> AsyncEngine:
    if "sslmode" in url.query:  # libpq's name; the driver calls it ssl and takes the same values
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": url.query["sslmode"]})
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=_POOL_TIMEOUT_S,
        pool_recycle=1800,
        hide_parameters=True,
        connect_args={
            "timeout": _CONNECT_TIMEOUT_S,
            "command_timeout": command_timeout_s,
            "server_settings": {
                "application_name": "tollgate",
                "idle_in_transaction_session_timeout": "30000",
                "jit": "off",
            },
        },
    )


def _sqlite_engine(url: URL, pool_size: int) -> AsyncEngine:
    with contextlib.suppress(OSError):  # what is wrong with the folder is told when the file is opened
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=_POOL_TIMEOUT_S,
        hide_parameters=True,
        connect_args={"timeout": _LOCK_TIMEOUT_S, "cached_statements": 64},
    )
    event.listen(engine.sync_engine, "connect", _configure_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: DBAPIConnection, _record: object) -> None:
    connection.isolation_level = None  # transactions begin in _begin_sqlite, not where the driver thinks
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get("tollgate_mode")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if mode is _Mode.WRITE else "BEGIN")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (IntegrityError, DataError, OverflowError) as exc:  # OverflowError: an integer that SQLite cannot hold
        raise LedgerRefusedError(f"the ledger refused it: {_kind(exc)}") from exc
    except DBAPIError as exc:
        state = getattr(exc.orig, "sqlstate", None) or ""
        if state.startswith(_REFUSING_SQLSTATES):
            raise LedgerRefusedError(f"the ledger refused it: {_kind(exc)}") from exc
        raise LedgerUnavailableError(f"the ledger does not answer: {_kind(exc)}") from exc
    except (SQLAlchemyError, OSError, TimeoutError) as exc:
        raise LedgerUnavailableError(f"the ledger does not answer: {_kind(exc)}") from exc


def _kind(exc: BaseException) -> str:
    cause = getattr(exc, "orig", None) or exc
    while cause.__cause__ is not None:  # the driver's own exception, below SQLAlchemy's wrappers
        cause = cause.__cause__
    return type(cause).__name__
