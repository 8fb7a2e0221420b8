"""One YAML file: its nodes, and the mistakes found in it.

What belongs here: reading a file into yaml's node graph (never into values: a scalar keeps its text, its line
and its column), syntax errors, and where each setting stands. What does not: types (walker.py) and meaning
(checks.py).
"""

from pathlib import Path
from typing import Final

import yaml

from proxy.settings.mistakes import KeyPath, Mistake, masked, path_text

FILE_BYTES_MAX: Final = 4_194_304

Place = tuple[int, int]
"""Line and column, both counted from 1."""


class Document:
    """A file while it is being read: collects mistakes and remembers the place of every setting.

    Args:
        path: the file.
        name: what mistakes call it.

    ``places`` holds where each setting stands; ``kept`` the positions, in the file, of a list's sound items.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path: Final = path
        self.name: Final = name
        self.mistakes: Final[list[Mistake]] = []
        self.places: Final[dict[KeyPath, Place]] = {}
        self.kept: Final[dict[KeyPath, tuple[int, ...]]] = {}
        self._wrong: Final[set[KeyPath]] = set()

    def add(self, path: KeyPath, message: str, place: Place | None = None) -> None:
        """Report a mistake about a setting, at ``place`` or where it (or what is around it) stands."""
        around = path
        while place is None and around:
            place = self.places.get(around)
            around = around[:-1]
        line, column = place or (None, None)
        self._wrong.add(path)
        self.mistakes.append(Mistake(self.name, line, path_text(path), message, column))

    def is_sound(self, path: KeyPath) -> bool:
        """Whether nothing was reported about this setting, what is in it, or what it is in."""
        return not any(wrong[: len(path)] == path or path[: len(wrong)] == wrong for wrong in self._wrong)

    def children(self, path: KeyPath) -> list[str]:
        """Return the keys that were written under a setting, sound or not, in the order of the file."""
        depth = len(path) + 1
        return [str(known[-1]) for known in self.places if len(known) == depth and known[:-1] == path]

    def compose(self, *, required: bool) -> yaml.Node | None:
        """Read the file; None (with the reason reported) when there is nothing that can be walked."""
        try:
            with self.path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            if required:
                self.add((), "the file is missing")
            return None
        except OSError as exc:
            self.add((), f"the file cannot be read: {exc.strerror}")
            return None
        if len(data) > FILE_BYTES_MAX:
            self.add((), f"the file is larger than {FILE_BYTES_MAX} bytes")
            return None
        return self._parse(data)

    def _parse(self, data: bytes) -> yaml.Node | None:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            self.add((), "expected UTF-8 text", (data.count(b"\n", 0, exc.start) + 1, 1))
            return None
        try:
            return yaml.compose(text, Loader=yaml.SafeLoader) or yaml.compose("{}", Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark or exc.context_mark
            problem = exc.problem or "unreadable"
            if problem.startswith("but "):  # the sentence begins in the context
                problem = f"{exc.context}, {problem}"
            self.add((), f"not valid YAML: {masked(problem)}", place_of(mark) if mark else None)
        except yaml.reader.ReaderError as exc:
            place = (text.count("\n", 0, exc.position) + 1, 1)
            self.add((), "not valid YAML: a character that may not be in a text file", place)
        except RecursionError:
            self.add((), "nested too deeply")
        return None


def place_of(mark: yaml.error.Mark) -> Place:
    """Return line and column of a mark, counted from 1."""
    return mark.line + 1, mark.column + 1
