"""Instants as views write them: Unix seconds, and RFC 3339 in UTC. Pure."""

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def seconds_up(unix_ms: int) -> int:
    """Return whole Unix seconds, rounded up, as the limit headers do."""
    return -(-unix_ms // 1000)


def text_of_s(unix_s: int) -> str:
    """Return ``2026-11-24T11:00:00Z``."""
    return (_EPOCH + timedelta(seconds=unix_s)).strftime("%Y-%m-%dT%H:%M:%SZ")


def text_of_ms(unix_ms: int) -> str:
    """Return ``2026-11-24T11:00:00.123Z``."""
    moment = _EPOCH + timedelta(milliseconds=unix_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
