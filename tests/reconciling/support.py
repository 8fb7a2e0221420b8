"""What the tests of reconciling have in common: a ledger, and a reconciler without patience."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from sqlalchemy import text

from proxy.ledger.database import Database
from proxy.ledger.location import Location
from proxy.reconciling.asking import Patience
from proxy.reconciling.findings import Finding, Source
from proxy.reconciling.limits import Store
from proxy.reconciling.reconciling import Asked, Reconciler
from proxy.reconciling.repairing import Repaired
from proxy.settings.loader import load_settings
from proxy.settings.types import Settings
from tests.ledger.support import NOON_MS
from tests.support.stack import CONFIG

AT_ONCE = Patience(looks=1, pause_s=0)


def settings_of(folder: Path, **environ: str) -> Settings:
    """Return the shipped configuration, with its state in a folder."""
    return load_settings(CONFIG, {"TOLLGATE_STATE_DIR": str(folder), **environ})


@contextlib.asynccontextmanager
async def reconciler(
    database: Database, folder: Path, *, store: Store | None = None, now_ms: int = NOON_MS, **environ: str
) -> AsyncIterator[Reconciler]:
    """A reconciler on a ledger; the outboxes are in the folder."""
    async with aiohttp.ClientSession() as session:
        location = Location("", folder)
        yield Reconciler(settings_of(folder, **environ), database, location, store, session, clock_ms=lambda: now_ms)


def asked(*sources: Source, **more: Any) -> Asked:
    """Return what is asked for: nothing is looked at twice."""
    return msgspec.structs.replace(Asked(sources=frozenset(sources), patience=AT_ONCE), **more)


async def repaired(desk: Reconciler, what: Asked) -> list[Repaired]:
    """Put right what was asked for, and return what was changed."""
    return [each async for each in desk.repair(what)]


async def execute(database: Database, statement: str, **values: object) -> None:
    """Change something by hand."""
    async with database.write() as connection:
        await connection.execute(text(statement), values)


def drifts(finding: Finding) -> list[tuple[str, str, str, int]]:
    """Return where, in what, which unit and by how much something has drifted."""
    return [
        (each.subject.place, each.subject.usage_type or each.subject.model, each.unit.value, each.drift)
        for each in finding.drifts
    ]
