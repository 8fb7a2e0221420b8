"""Whatever a customer is called, wherever it lives: there is an XML that the rules accept, and a PDF."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader

from proxy.billing.documents import files_of
from proxy.billing.documents.elements import legal_text
from proxy.billing.documents.validating import rule_mistakes
from proxy.core.parties import Address, VatTreatment
from tests.billing.documents.samples import TERMS, buyer, invoice, item

SOMETHING = st.text(st.characters(), min_size=1, max_size=60).filter(lambda text: text.strip(" \t\r\n"))
ADDRESSES = st.builds(
    Address,
    lines=st.lists(SOMETHING, min_size=1, max_size=3).map(tuple),
    postcode=st.text(max_size=10),
    city=SOMETHING,
    country=st.sampled_from(["FR", "DE", "US", "JP", "MA"]),
)


@settings(max_examples=60, deadline=None)
@given(name=SOMETHING, address=ADDRESSES, reference=st.text(max_size=60), model=SOMETHING)
def test_any_text_gives_a_valid_xml_and_a_pdf(name, address, reference, model):
    who = buyer(VatTreatment.EXPORT, name=name, address=address, reference=reference, purchase_order=reference)

    files = files_of(invoice(who, used=((item(model=model), 5),), late=()), TERMS)

    mistakes = [each for each in rule_mistakes(files.xml) if not each.startswith("PEPPOL-EN16931-R008")]
    assert mistakes == []
    assert len(PdfReader(io.BytesIO(files.pdf)).pages) >= 1


@given(st.text())
def test_text_in_xml_is_what_it_was_but_for_what_xml_cannot_hold(text):
    kept = legal_text(text)

    assert len(kept) == len(text)
    assert all(new in (old, "\ufffd") for new, old in zip(kept, text, strict=True))
