"""The holder: the settings in use, and reloading them while the proxy runs.

What belongs here: replacing the settings by new ones, or keeping them when the new ones hold mistakes. What
does not: when to reload (the app, on SIGHUP), and telling others.
"""

from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import inspect

from proxy.clock import unix_ms
from proxy.settings.loader import load_settings
from proxy.settings.mistakes import Mistake, SettingsError
from proxy.settings.types import Settings

S = TypeVar("S", bound=msgspec.Struct)


class SettingsHolder:
    """Holds the settings in use.

    Reading the files takes some milliseconds and blocks; whoever holds an event loop may do it in a thread.

    Args:
        config_dir: the folder of the files.
        environ: environment variables, read again at every reload.
        clock_ms: Unix milliseconds.

    Attributes:
        current: the settings in use; replaced as a whole, so a reader takes it once and sees one state.
        reloads: how often new settings were taken.
        failed_reloads: how often they held mistakes and the old ones were kept.
        restart_needed: settings of proxy.yaml whose new value waits for a restart, for example ``listen``;
            ``current`` holds their old value.

    Raises:
        SettingsError: the first load found mistakes.
    """

    def __init__(self, config_dir: Path, environ: Mapping[str, str], clock_ms: Callable[[], int] = unix_ms) -> None:
        self._config_dir: Final = config_dir
        self._environ: Final = environ
        self._clock_ms: Final = clock_ms
        self.current: Settings = load_settings(config_dir, environ, now_ms=clock_ms())
        self.reloads = 0
        self.failed_reloads = 0
        self.restart_needed: tuple[str, ...] = ()

    def reader(self, path: str = "") -> Callable[[], Any]:
        """Return what reads the settings in use, or one of them, each time that it is called.

        Args:
            path: attributes, with dots between them; empty: all settings.
        """
        return partial(attrgetter(f"current.{path}" if path else "current"), self)  # in C: a call asks several times

    def reload(self) -> list[Mistake]:
        """Read the configuration again; return its mistakes, or an empty list when it was taken.

        Prices that have been in force must be unchanged.
        """
        try:
            new = load_settings(self._config_dir, self._environ, now_ms=self._clock_ms(), previous=self.current.prices)
        except SettingsError as error:
            self.failed_reloads += 1
            return list(error.mistakes)
        proxy, self.restart_needed = _keep_until_restart(self.current.proxy, new.proxy)
        self.current = msgspec.structs.replace(new, proxy=proxy)
        self.reloads += 1
        return []


def needs_restart(field: inspect.Field) -> bool:
    """Whether a setting is marked as one that a reload does not change."""
    return isinstance(field.type, inspect.Metadata) and bool((field.type.extra or {}).get("restart"))


def _keep_until_restart(old: S, new: S, prefix: str = "") -> tuple[S, tuple[str, ...]]:
    """Return the new settings with the old values where only a restart changes them, and their names."""
    kept: dict[str, object] = {}
    waiting: list[str] = []
    kind = inspect.type_info(type(new))
    assert isinstance(kind, inspect.StructType)
    for field in kind.fields:
        before, after = getattr(old, field.name), getattr(new, field.name)
        if isinstance(after, msgspec.Struct):
            kept[field.name], inner = _keep_until_restart(before, after, f"{prefix}{field.name}.")
            waiting += inner
        elif needs_restart(field) and before != after:
            kept[field.name] = before
            waiting.append(f"{prefix}{field.name}")
    return msgspec.structs.replace(new, **kept), tuple(waiting)
