"""Mistakes in the configuration: where, and what.

What belongs here: the value, the error that carries all of them, and how a wrong text is shown without
showing a secret. What does not: finding them.
"""

import difflib
import re
from collections.abc import Iterable
from typing import Final

import msgspec

_SHOWN_CHARS: Final = 60
_USERINFO: Final = re.compile(r"^(\w+://)?.*@", re.DOTALL)
_SECRET_PARAMETER: Final = re.compile(r"((?:password|passwd|secret|token|key)=)[^&\s]*", re.IGNORECASE)

KeyPath = tuple[str | int, ...]
"""Where a value stands in a file: keys, and positions in lists."""


class Mistake(msgspec.Struct, frozen=True):
    """One mistake.

    Args:
        file: as the operator knows it, for example ``config/tiers.yaml``; ``environment`` for a variable.
        line: counted from 1; None where there is no line (a missing file, a variable).
        path: the setting, for example ``tiers.tier1.requests``; empty for the file as a whole.
        message: what was expected and what was found. It never holds a secret.
        column: counted from 1.
    """

    file: str
    line: int | None
    path: str
    message: str
    column: int | None = None

    def __str__(self) -> str:
        """Return ``file:line: path: message``, the form that editors and CI systems link."""
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (where, self.path, self.message) if part)


class SettingsError(Exception):
    """The configuration holds mistakes: all of them, in order of file and line."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes: Final = tuple(sorted(mistakes, key=_order))
        super().__init__("\n".join(map(str, self.mistakes)))


def _order(mistake: Mistake) -> tuple[str, int, int]:
    return mistake.file, mistake.line or 0, mistake.column or 0


def path_text(path: KeyPath) -> str:
    """Write a path as ``versions[0].standard.input``; a key with a point is quoted: ``models["a.b"]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.search(r"[.\s\[\]\"]", part) or not part:
            text += f'["{shown(part)}"]'
        else:
            text += f".{shown(part)}" if text else shown(part)
    return text


def masked(text: str) -> str:
    """Return the text without what may be a password: everything before an ``@``, and ``password=…``."""
    return _SECRET_PARAMETER.sub(r"\1***", _USERINFO.sub(lambda found: f"{found.group(1) or ''}***@", text))


def shown(text: str) -> str:
    """Return a wrong value as a message may quote it: masked, on one line, cut to a readable length."""
    line = "".join(char if char.isprintable() else "?" for char in masked(text))
    return line if len(line) <= _SHOWN_CHARS else line[: _SHOWN_CHARS - 1] + "…"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for a near miss, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
