"""The PDF: what it says, that it carries the XML, and that it is always the same."""

import hashlib
import io
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import facturx
import pytest
from msgspec.structs import replace
from pypdf import PdfReader

from proxy.billing.documents import files_of
from proxy.billing.documents.amounts import cents_typeset, day_typeset
from proxy.billing.documents.glyphs import REPLACEMENT, coverage, drawable
from proxy.billing.documents.xmp import UnexpectedPdfError, as_factur_x
from proxy.core.invoicing.crediting import Part
from proxy.core.invoicing.document import DocumentKind
from proxy.core.invoicing.terms import DrawnCredit
from proxy.core.parties import Address, Language, VatTreatment
from tests.billing.documents.samples import (
    HEADS,
    SELLER,
    TERMS,
    buyer,
    credit_note,
    deposit,
    invoice,
    item,
    many_lines,
)


def text_of(pdf: bytes) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf)).pages)


def pages_of(document) -> list[str]:
    return [page.extract_text() for page in PdfReader(io.BytesIO(files_of(document, TERMS).pdf)).pages]


def test_the_pdf_carries_the_very_xml_that_is_kept_beside_it(samples):
    for _, files in samples.values():
        reader = PdfReader(io.BytesIO(files.pdf))
        assert reader.attachments == {"factur-x.xml": [files.xml]}
        (associated,) = reader.root_object["/AF"]
        specification = associated.get_object()
        assert specification["/AFRelationship"] == "/Alternative"
        assert specification["/UF"] == "factur-x.xml"
        assert specification["/EF"]["/F"]["/Subtype"] == "/text/xml"


def test_a_reader_of_factur_x_finds_the_xml():
    files = files_of(invoice(), TERMS)

    name, xml = facturx.get_facturx_xml_from_pdf(files.pdf, check_xsd=True, check_schematron=False)

    assert (name, xml) == ("factur-x.xml", files.xml)


def test_metadata_says_that_it_is_factur_x():
    reader = PdfReader(io.BytesIO(files_of(invoice(), TERMS).pdf))
    xmp = reader.root_object["/Metadata"].get_data().decode()

    assert "<fx:DocumentFileName>factur-x.xml</fx:DocumentFileName>" in xmp
    assert "<fx:DocumentType>INVOICE</fx:DocumentType>" in xmp
    assert "<fx:Version>1.0</fx:Version>" in xmp
    assert "<fx:ConformanceLevel>EN 16931</fx:ConformanceLevel>" in xmp
    assert "<pdfaid:part>3</pdfaid:part><pdfaid:conformance>B</pdfaid:conformance>" in xmp
    assert reader.metadata.title == "Facture F-2026-000042"
    assert reader.metadata.author == SELLER.name
    assert reader.metadata["/CreationDate"] == reader.metadata["/ModDate"] == "D:20260903000000Z"
    assert reader.root_object["/Lang"] == "fr"
    assert reader.root_object["/MarkInfo"]["/Marked"], "it can be read aloud"


def test_totals_on_the_page_are_those_of_the_document(samples):
    for name, (document, files) in samples.items():
        text = text_of(files.pdf)
        language = document.buyer.language
        cents = (document.net_cents, document.vat.vat_cents, document.gross_cents, document.due_cents)
        for amount in (*cents, *(line.net_cents for line in document.lines)):
            assert cents_typeset(amount, language) in text, (name, amount)
        assert document.number in text
        assert day_typeset(document.issue_date, language) in text
        if document.due_cents and document.kind is not DocumentKind.CREDIT_NOTE:
            assert text.count(day_typeset(document.due_date, language)) >= 2, "at the top, and beneath the totals"


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (invoice(), ["Facture\n", "Net à payer", "par million", "par minute", "Tokens en entrée, en cache, standard"]),
        (invoice(buyer(language=Language.ENGLISH)), ["Invoice\n", "Amount due", "per million", "€2\u202f222.22"]),
        (invoice(drawn=DrawnCredit.DEPOSIT_LINE), ["Crédit prépayé utilisé", "D-2026-000007", "−500,00\u00a0€"]),
        (invoice(drawn=DrawnCredit.PAID_AMOUNT), ["Déjà réglé −600,00\u00a0€"]),
        (deposit(), ["Facture d’acompte\n", "Crédit prépayé", "acquittée", "10\u00a0juillet\u00a02026"]),
        (credit_note(invoice()), ["Avoir\n", "annule en totalité la facture F-2026-000042", "Net à votre crédit"]),
        (credit_note(invoice(), (Part(1),)), ["Cet avoir corrige la facture F-2026-000042"]),
        (credit_note(deposit()), ["annule en totalité la facture d’acompte D-2026-000007"]),
        (invoice(buyer(VatTreatment.REVERSE_CHARGE)), ["Autoliquidation", "Allemagne", "DE136695976"]),
        (invoice(buyer(VatTreatment.EXPORT, Language.ENGLISH)), ["No French VAT", "United States"]),
    ],
)
def test_the_page_says_what_kind_of_document_it_is(document, said):
    text = text_of(files_of(document, TERMS).pdf)

    assert [each for each in said if each not in text] == []


def test_everything_that_the_law_and_finance_want_is_there():
    text = text_of(files_of(invoice(), TERMS).pdf)
    said = [
        *(SELLER.name, "SAS", "10 000 EUR", "RCS Paris", "FR11123456782", "1 rue de l’Exemple"),
        *("Ateliers de l’Œuvre & Fils", "SIREN 987\u202f654\u202f324", "FR38987654324", "PO-2026-77", "SERVICE-42"),
        *("1–31\u00a0août\u00a02026", "30\u00a0juil.\u00a02026", "Enregistré après la facture de juillet"),
        *("FR76 9999 9000 0112 3456 7890 152", "TESTFRPPXXX", "tarif 2025-01", "1\u202f234\u202f567\u202f891"),
        *("prestations de services", "trois fois le taux", "40 €", "Pas d’escompte"),
        *(*HEADS, "−0,0007695\u00a0€", "Page 1/1"),
    ]

    assert [each for each in said if each not in text] == []


def test_a_draft_and_a_specimen_are_marked_on_every_page():
    def marks(document) -> set[str]:
        return {mark for mark in ("BROUILLON", "SPÉCIMEN") if all(mark in page for page in pages_of(document))}

    demonstration = replace(SELLER, demonstration=True)
    assert marks(replace(many_lines(40), number="")) == {"BROUILLON"}
    assert marks(invoice(seller=demonstration)) == {"SPÉCIMEN"}
    assert marks(invoice(seller=demonstration, number="")) == {"BROUILLON", "SPÉCIMEN"}
    assert marks(invoice()) == set()


def test_two_hundred_lines_run_over_pages_that_repeat_what_columns_are():
    document = many_lines(200)
    pages = pages_of(document)

    assert len(pages) > 3
    assert all("Désignation" in page and f"Page {at}/{len(pages)}" in page for at, page in enumerate(pages, 1))
    assert all("F-2026-000042" in page for page in pages)
    numbers = [line for page in pages for line in page.splitlines() if line.split(" ")[0].isdecimal()]
    assert {int(line.split(" ")[0]) for line in numbers} >= set(range(1, 203))


def test_days_without_use_stand_in_the_chart_and_a_month_without_any_has_none():
    assert " ".join(map(str, range(1, 32))) in text_of(files_of(invoice(), TERMS).pdf)
    assert "Consommation par jour" not in text_of(files_of(invoice(used=(), late=LATE_ONLY), TERMS).pdf)


LATE_ONLY = ((item(), 55_555, "2026-07-30"),)


@pytest.mark.parametrize(
    "name",
    [
        '#panic("no")',
        "*bold* _italic_ `raw` $x^2$",
        "<label> @reference",
        "[content] {code}",
        "// comment /* and */ more",
        r"back\slash \u{41} \ ",
        "= Heading",
        "a -- b --- c ~ d",
        '"quoted" \'quoted\' {"json": [1]}',
        '#sys.inputs #read("page.typ")',
        "https://example.com/a_b",
    ],
)
def test_a_name_is_never_code(name):
    document = invoice(buyer(name=name, purchase_order=name), used=((item(model=name), 5),))

    text = text_of(files_of(document, TERMS).pdf)

    assert text.count(name.strip()) >= 3


def test_no_name_is_wider_than_its_place():
    """What runs out of its column would be over what stands beside it, or beyond the paper."""
    address = Address(("X" * 180, "Y", "Z"), "1", "W" * 90, "FR")
    document = invoice(buyer(name="N" * 300, address=address), used=((item(model="m" * 400), 10**13),), late=())

    runs = re.findall("X+|N+|W+|m+", text_of(files_of(document, TERMS).pdf))

    assert max(len(run) for run in runs) < 30, "a line of the page holds no more of them"


def test_a_long_run_is_copied_from_the_page_as_it_is():
    """It may be broken on the page, but a reference that is copied must still be that reference."""
    order = "PO-2026/" + "0123456789" * 6

    text = text_of(files_of(invoice(buyer(purchase_order=order)), TERMS).pdf)

    assert order in text.replace("\n", "")
    assert HEADS[0] in text
    assert "\u200b" not in text


def test_a_character_that_the_fonts_lack_is_drawn_as_a_square_and_kept_in_the_xml():
    files = files_of(invoice(buyer(name="株式会社 Ünïcode ﷽ Łódź Ωmega Жук")), TERMS)

    assert "□□□□ Ünïcode □ Łódź Ωmega Жук" in text_of(files.pdf)
    assert "株式会社 Ünïcode ﷽ Łódź Ωmega Жук" in files.xml.decode()


def test_the_fonts_have_latin_1_the_euro_and_what_documents_are_typeset_with():
    latin = {point for point in range(0x20, 0x180) if not (0x7F <= point < 0xA0 or point in (0xAD, 0x149))}

    assert latin <= coverage()
    assert {ord(each) for each in f"€−–’“”…\u202f\u00a0{REPLACEMENT}"} <= coverage()
    assert drawable("e\u0301 \t\n a\u200db\x00") == "é    ab"


def test_every_character_that_the_fonts_have_can_be_drawn():
    everything = "".join(map(chr, sorted(coverage())))

    text = text_of(files_of(invoice(buyer(name=everything)), TERMS).pdf)

    assert REPLACEMENT * 2 not in text


def test_the_same_document_gives_the_same_bytes_anywhere():
    """Nothing depends on the clock, the time zone, the locale, the order of hashes or what was made before."""
    program = (
        "import hashlib\n"
        "from proxy.billing.documents import files_of\n"
        "from tests.billing.documents.samples import *\n"
        "files = files_of(invoice(drawn=DrawnCredit.DEPOSIT_LINE), TERMS)\n"
        "print(hashlib.sha256(files.xml + files.pdf).hexdigest())\n"
    )
    environment = os.environ | {
        "TZ": "Pacific/Auckland",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "7",
        "SOURCE_DATE_EPOCH": "1",
    }

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path.cwd(), env=environment, capture_output=True, text=True, check=True
    )

    files_of(deposit(), TERMS)
    files = files_of(invoice(drawn=DrawnCredit.DEPOSIT_LINE), TERMS)
    assert done.stdout.strip() == hashlib.sha256(files.xml + files.pdf).hexdigest()


def test_worker_processes_can_be_asked():
    document = invoice()
    assert pickle.loads(pickle.dumps((document, TERMS))) == (document, TERMS)

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as workers:
        assert workers.submit(files_of, document, TERMS).result() == files_of(document, TERMS)


def test_a_pdf_that_is_laid_out_otherwise_is_not_touched():
    pdf = files_of(invoice(), TERMS).pdf
    assert as_factur_x(pdf) != pdf, "as Typst lays it out"

    for old, new in (
        (b"/Type/Metadata", b"/Type/Nothing_"),
        (b"\nxref\n", b"\nxxxx\n"),
        (b"\ntrailer\n", b"\ntrialer\n"),
        (b"startxref", b"startxxxx"),
        (b"</rdf:Bag></pdfaExtension:schemas>", b"</rdf:Bag> </pdfaExtension:schemas>"),
        (b"</rdf:RDF>", b"</rdf:RDG>"),
    ):
        assert old in pdf
        with pytest.raises(UnexpectedPdfError):
            as_factur_x(pdf.replace(old, new))
