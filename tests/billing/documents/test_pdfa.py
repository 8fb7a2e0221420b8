"""PDF/A-3b, as veraPDF sees it: every document keeps it, and what breaks it is found."""

from msgspec.structs import replace

from proxy.billing.documents import files_of, pdf, xmp
from proxy.billing.documents.glyphs import coverage
from proxy.core.parties import VatTreatment
from tests.billing.documents.samples import SELLER, TERMS, buyer, invoice, many_lines
from tests.support.verapdf import pdfa_3b_mistakes


def test_every_document_is_pdf_a_3b(samples, tmp_path):
    hard = {
        "many-lines": many_lines(200),
        "draft": invoice(number="", seller=replace(SELLER, demonstration=True)),
        "every-glyph": invoice(buyer(name="".join(map(chr, sorted(coverage()))))),
        "names-in-any-script": invoice(
            buyer(VatTreatment.EXPORT, name="株式会社 ﷽ 👩‍👩‍👧 \u202eabc\u202c \x07 \ud800")
        ),
    }
    made = {name: files for name, (_, files) in samples.items()}
    made |= {name: files_of(document, TERMS) for name, document in hard.items()}
    for name, files in made.items():
        (tmp_path / f"{name}.pdf").write_bytes(files.pdf)

    found = pdfa_3b_mistakes(sorted(tmp_path.glob("*.pdf")))

    assert {path.name: mistakes for path, mistakes in found.items() if mistakes} == {}
    assert len(found) == len(made) > 80


def test_what_breaks_pdf_a_is_found(tmp_path, monkeypatch):
    good = files_of(invoice(), TERMS).pdf
    breaks = {
        "no-identifier": good.replace(b"/ID[", b"/IX["),
        "other-part": good.replace(b"<pdfaid:part>3<", b"<pdfaid:part>1<"),
        "no-relationship": good.replace(b"/AFRelationship", b"/AFRelationshop"),
        "no-metadata": good.replace(b"/Metadata ", b"/Metadatb "),
    }
    monkeypatch.setattr(xmp, "_schema", lambda: b"")
    breaks["factur-x-without-its-schema"] = files_of(invoice(), TERMS).pdf
    monkeypatch.undo()
    monkeypatch.setattr(pdf, "_STANDARD", "1.7")
    monkeypatch.setattr(pdf, "as_factur_x", lambda made: made)
    breaks["plain-pdf"] = files_of(invoice(), TERMS).pdf
    assert good not in breaks.values()
    for name, content in (breaks | {"good": good}).items():
        (tmp_path / f"{name}.pdf").write_bytes(content)

    found = pdfa_3b_mistakes(sorted(tmp_path.glob("*.pdf")))

    assert {path.stem for path, mistakes in found.items() if mistakes} == set(breaks)
    said = {path.stem: mistakes for path, mistakes in found.items()}
    assert "6.6.2.3" in said["factur-x-without-its-schema"]
    assert "6.6.4" in said["other-part"]
    assert "6.8" in said["no-relationship"]
