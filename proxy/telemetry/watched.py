"""Watched values: what other rooms know already and is read only when somebody scrapes.

What belongs here: the readings and what happens when one fails. What does not: what is read.
"""

from collections.abc import Callable, Iterator, Mapping

from proxy.telemetry import families
from proxy.telemetry.catalogue import CATALOGUE, WATCH_FAILURES, Described, kind_of

Read = Callable[[], float | None]
"""Reads one value; None: not known now. Called on the event loop, so it must not block."""
ReadEach = Callable[[], Mapping[str, float]]
"""Reads a value for each value of one label, of which there are few."""

EACH_MAX = 256
"""Most series that one ``ReadEach`` may show."""


class Watched:
    """The watched values, by name."""

    def __init__(self) -> None:
        self._help: dict[str, str] = {}
        self._singles: dict[str, list[tuple[dict[str, str], Read]]] = {}
        self._each: dict[str, tuple[str, ReadEach]] = {}
        self._failures = 0

    def add(self, name: str, help_text: str, read: Read, labels: Mapping[str, str]) -> None:
        """Watch one value; the same name may be watched with several values of the same labels.

        Raises:
            ValueError: the name is watched already with these labels, or with other label names.
        """
        self._name(name, help_text)
        singles = self._singles.setdefault(name, [])
        if name in self._each or any(dict(labels) == others or labels.keys() != others.keys() for others, _ in singles):
            raise ValueError(f"{name} is watched already with these labels, or with others")
        singles.append((dict(sorted(labels.items())), read))

    def add_each(self, name: str, help_text: str, label: str, read: ReadEach) -> None:
        """Watch a value for each value of a label.

        Raises:
            ValueError: the name is watched already.
        """
        self._name(name, help_text)
        if name in self._each or name in self._singles:
            raise ValueError(f"{name} is watched already")
        self._each[name] = (label, read)

    def _name(self, name: str, help_text: str) -> None:
        if not name.startswith("tollgate_"):
            raise ValueError(f"{name} does not begin with tollgate_")
        described = CATALOGUE.get(name)
        self._help.setdefault(name, help_text or (described.help if described else ""))

    def text(self) -> Iterator[str]:
        """Read and write everything; a value whose reading fails is left out and counted."""
        for name, singles in self._singles.items():
            readings = [(tuple(labels.values()), self._one(read)) for labels, read in singles]
            known = [(labels, value) for labels, value in readings if value is not None]
            yield from families.values(self._described(name, tuple(singles[0][0])), known)
        for name, (label, read) in self._each.items():
            every = list(self._every(read).items())[:EACH_MAX]
            yield from families.values(self._described(name, (label,)), [((key,), value) for key, value in every])
        yield from families.values(WATCH_FAILURES, [((), self._failures)])

    def _described(self, name: str, labels: tuple[str, ...]) -> Described:
        return Described(name, kind_of(name), labels, self._help[name])

    def _one(self, read: Read) -> float | None:
        try:
            value = read()
            return None if value is None else float(value)
        except Exception:  # noqa: BLE001  one broken value must not hide the others
            self._failures += 1
            return None

    def _every(self, read: ReadEach) -> Mapping[str, float]:
        try:
            return {label: float(value) for label, value in read().items()}
        except Exception:  # noqa: BLE001  as above
            self._failures += 1
            return {}
