"""What is in the XML: every business term, read back with XPath."""

import pytest
from lxml import etree
from msgspec.structs import replace

from proxy.billing.documents.cii import invoice_xml
from proxy.billing.documents.elements import NAMESPACES
from proxy.core.invoicing.crediting import Part
from proxy.core.invoicing.document import DocumentKind, LineKind
from proxy.core.invoicing.terms import DrawnCredit, InvoicingTerms
from proxy.core.money import PICO_PER_EURO, cents_half_up
from proxy.core.parties import Language, VatTreatment
from tests.billing.documents.samples import HEADS, TERMS, buyer, credit_note, deposit, invoice, item

AGREEMENT = "//ram:ApplicableHeaderTradeAgreement"
SETTLEMENT = "//ram:ApplicableHeaderTradeSettlement"
TOTALS = f"{SETTLEMENT}/ram:SpecifiedTradeSettlementHeaderMonetarySummation"
LINE = "//ram:IncludedSupplyChainTradeLineItem"


class Read:
    """An XML, read."""

    def __init__(self, document, terms=TERMS):
        self.root = etree.fromstring(invoice_xml(document, terms))

    def all(self, path: str, within=None) -> list:
        found = (self.root if within is None else within).xpath(path, namespaces=NAMESPACES)
        return [each.text if isinstance(each, etree._Element) else str(each) for each in found]

    def one(self, path: str, within=None) -> str:
        (found,) = self.all(path, within)
        return found

    def lines(self) -> list:
        return self.root.xpath(LINE, namespaces=NAMESPACES)


def test_quantity_times_price_is_exactly_what_a_line_is_worth(samples):
    """The official rules do not look at this. In integers: price and quantity have no more than six decimals."""
    for name, (document, _) in samples.items():
        read = Read(document)
        for line, element in zip(document.lines, read.lines(), strict=True):
            whole, _, fraction = read.one(".//ram:ChargeAmount", element).partition(".")
            assert len(fraction) <= 6
            price_pico = int(whole) * PICO_PER_EURO + int(fraction.ljust(12, "0"))
            quantity = int(read.one(".//ram:BilledQuantity", element))
            base = int(read.one(".//ram:BasisQuantity", element))
            assert quantity * price_pico == line.exact_pico * base, (name, line.number)
            if (
                document.kind is not DocumentKind.CREDIT_NOTE
            ):  # theirs are rounded in total (core/invoicing/crediting.py)
                assert cents_half_up(line.exact_pico) == line.net_cents


def test_totals_are_those_of_the_document(samples):
    def cents(text: str) -> int:
        sign = -1 if text.startswith("-") else 1
        whole, fraction = text.removeprefix("-").split(".")
        assert len(fraction) == 2
        return sign * (int(whole) * 100 + int(fraction))

    for document, _ in samples.values():
        read = Read(document)
        assert cents(read.one(f"{TOTALS}/ram:LineTotalAmount")) == document.net_cents
        assert cents(read.one(f"{TOTALS}/ram:TaxBasisTotalAmount")) == document.vat.base_cents
        assert cents(read.one(f"{TOTALS}/ram:TaxTotalAmount")) == document.vat.vat_cents
        assert read.one(f"{TOTALS}/ram:TaxTotalAmount/@currencyID") == "EUR"
        assert cents(read.one(f"{TOTALS}/ram:GrandTotalAmount")) == document.gross_cents
        assert cents((read.all(f"{TOTALS}/ram:TotalPrepaidAmount") or ["0.00"])[0]) == document.paid_cents
        assert cents(read.one(f"{TOTALS}/ram:DuePayableAmount")) == document.due_cents
        sums = [cents(text) for text in read.all(f"{LINE}//ram:LineTotalAmount")]
        assert sums == [line.net_cents for line in document.lines]


@pytest.mark.parametrize(
    ("document", "code", "mode"),
    [
        (invoice(), "380", "S1"),
        (invoice(drawn=DrawnCredit.DEPOSIT_LINE), "380", "S4"),
        (invoice(drawn=DrawnCredit.PAID_AMOUNT), "380", "S4"),
        (deposit(), "386", "S2"),
        (credit_note(invoice()), "381", "S1"),
        (credit_note(invoice(drawn=DrawnCredit.DEPOSIT_LINE)), "381", "S4"),
        (credit_note(invoice(drawn=DrawnCredit.DEPOSIT_LINE), (Part(1),)), "381", "S1"),
        (credit_note(deposit()), "381", "S1"),
    ],
)
def test_a_kind_has_its_type_code_and_billing_mode(document, code, mode):
    read = Read(document)

    assert read.one("//rsm:ExchangedDocument/ram:TypeCode") == code
    assert read.one("//ram:BusinessProcessSpecifiedDocumentContextParameter/ram:ID") == mode
    assert read.one("//ram:GuidelineSpecifiedDocumentContextParameter/ram:ID") == "urn:cen.eu:en16931:2017"


def test_number_and_dates():
    read = Read(invoice())

    assert read.one("//rsm:ExchangedDocument/ram:ID") == "F-2026-000042"
    assert read.one("//ram:IssueDateTime/udt:DateTimeString") == "20260903"
    assert read.one("//ram:DueDateDateTime/udt:DateTimeString") == "20261003"
    assert read.one("//ram:ActualDeliverySupplyChainEvent//udt:DateTimeString") == "20260831"
    period = f"{SETTLEMENT}/ram:BillingSpecifiedPeriod"
    assert read.all(f"{period}//udt:DateTimeString") == ["20260801", "20260831"]
    assert set(read.all("//udt:DateTimeString/@format")) == {"102"}
    assert read.one(f"{SETTLEMENT}/ram:InvoiceCurrencyCode") == "EUR"


def test_a_draft_has_a_number_that_says_so():
    assert Read(invoice(number="")).one("//rsm:ExchangedDocument/ram:ID") == "DRAFT"


def test_tokens_are_priced_by_the_million_and_minutes_by_the_minute():
    by_model = {Read(invoice()).one(".//ram:Name", each): each for each in Read(invoice()).lines()}
    read = Read(invoice())
    units = {
        name: (
            read.one(".//ram:ChargeAmount", line),
            read.one(".//ram:BasisQuantity", line),
            read.one(".//ram:BasisQuantity/@unitCode", line),
            read.one(".//ram:BilledQuantity", line),
            read.one(".//ram:BilledQuantity/@unitCode", line),
        )
        for name, line in by_model.items()
    }

    assert units["bge-reranker-v2-m3"] == ("4", "1000000", "C62", "999999", "C62")
    assert units["qwen3-embedding:8b"] == ("0.9", "1000000", "C62", "3", "C62")
    assert units["whisper-large-v3"] == ("0.01", "1", "MIN", "4321", "MIN")


def test_a_minute_whose_price_has_more_than_six_decimals_is_priced_by_the_million():
    from proxy.core.usage import UsageType

    read = Read(invoice(used=((item(usage=UsageType.AUDIO_MINUTES, price=123_456_789), 7),), late=()))

    assert read.one(".//ram:ChargeAmount") == "123.456789"
    assert read.one(".//ram:BasisQuantity") == "1000000"
    assert read.one(".//ram:BilledQuantity/@unitCode") == "MIN"


def test_a_line_says_in_the_ledgers_words_what_was_used():
    read = Read(invoice())
    line = next(each for each in read.lines() if read.one(".//ram:Name", each) == "qwen3-embedding:8b")

    names = read.all(".//ram:ApplicableProductCharacteristic/ram:Description", line)
    values = read.all(".//ram:ApplicableProductCharacteristic/ram:Value", line)
    assert dict(zip(names, values, strict=True)) == {
        "model": "qwen3-embedding:8b",
        "usage_type": "input",
        "tariff_class": "batch",
        "price_version": "2025-01",
    }
    assert read.one(".//ram:SpecifiedTradeProduct/ram:Description", line) == "Tokens en entrée, différé (batch)"


def test_a_late_line_has_its_day_and_says_why_it_is_there():
    document = invoice()
    read = Read(document)
    late = [each for line, each in zip(document.lines, read.lines(), strict=True) if line.kind is LineKind.LATE]

    assert [read.all(".//ram:BillingSpecifiedPeriod//udt:DateTimeString", each) for each in late] == [
        ["20260730", "20260730"],
        ["20260731", "20260731"],
    ]
    assert read.one(".//ram:Content", late[0]) == "Enregistré après la facture de juillet\u00a02026"


def test_drawn_credit_has_a_negative_quantity_and_names_its_deposit():
    read = Read(invoice(drawn=DrawnCredit.DEPOSIT_LINE))
    drawn = read.lines()[-1]

    assert read.one(".//ram:BilledQuantity", drawn) == "-1"
    assert read.one(".//ram:ChargeAmount", drawn) == "500.00"
    assert read.one(".//ram:LineTotalAmount", drawn) == "-500.00"
    assert "D-2026-000007" in read.one(".//ram:Content", drawn)
    assert read.all(f"{SETTLEMENT}/ram:InvoiceReferencedDocument/ram:IssuerAssignedID") == ["D-2026-000007"]
    assert read.one(f"{SETTLEMENT}/ram:InvoiceReferencedDocument//qdt:DateTimeString") == "20260710"


def test_credit_that_counts_as_paid_is_paid_with_its_vat():
    read = Read(invoice(drawn=DrawnCredit.PAID_AMOUNT))

    assert read.one(f"{TOTALS}/ram:TotalPrepaidAmount") == "600.00"
    assert read.one(f"{TOTALS}/ram:DuePayableAmount") == "2964.97"
    assert "-1" not in read.all("//ram:BilledQuantity")


@pytest.mark.parametrize("language", Language)
def test_vat_says_why_there_is_none(language):
    tax = f"{SETTLEMENT}/ram:ApplicableTradeTax"
    french = Read(invoice(buyer(VatTreatment.FRENCH, language)))
    reverse = Read(invoice(buyer(VatTreatment.REVERSE_CHARGE, language)))
    export = Read(invoice(buyer(VatTreatment.EXPORT, language)))

    assert french.all(f"{tax}/ram:CategoryCode") == ["S"]
    assert french.all(f"{tax}/ram:RateApplicablePercent") == ["20"]
    assert french.all(f"{tax}/ram:ExemptionReason") == []
    assert reverse.all(f"{tax}/ram:CategoryCode") == ["AE"]
    assert reverse.all(f"{tax}/ram:RateApplicablePercent") == ["0"]
    assert reverse.all(f"{tax}/ram:ExemptionReasonCode") == ["VATEX-EU-AE"]
    said = "Autoliquidation" if language is Language.FRENCH else "Reverse charge"
    assert said in reverse.one(f"{tax}/ram:ExemptionReason")
    assert export.all(f"{tax}/ram:CategoryCode") == ["G"]
    assert export.all(f"{tax}/ram:ExemptionReasonCode") == ["VATEX-EU-G"]


def test_a_credit_note_names_what_it_corrects_and_why():
    read = Read(credit_note(invoice(drawn=DrawnCredit.DEPOSIT_LINE)))

    assert read.all(f"{SETTLEMENT}/ram:InvoiceReferencedDocument/ram:IssuerAssignedID") == ["F-2026-000042"]
    assert read.one(f"{SETTLEMENT}/ram:InvoiceReferencedDocument//qdt:DateTimeString") == "20260903"
    notes = read.all("//ram:IncludedNote[ram:SubjectCode='AAI']/ram:Content")
    assert "Cet avoir annule en totalité la facture F-2026-000042 du 3\u00a0septembre\u00a02026" in notes
    assert "Motif : Prix erroné : 8,00 € au lieu de <6,00 €>" in notes
    assert read.all("//ram:SpecifiedTradeSettlementPaymentMeans") == []


def test_seller_and_buyer_can_be_found_by_their_identifiers():
    read = Read(invoice())
    seller, buyer_of = f"{AGREEMENT}/ram:SellerTradeParty", f"{AGREEMENT}/ram:BuyerTradeParty"

    assert read.one(f"{seller}/ram:GlobalID[@schemeID='0009']") == "12345678200010"
    assert read.one(f"{seller}/ram:SpecifiedLegalOrganization/ram:ID[@schemeID='0002']") == "123456782"
    assert read.one(f"{seller}/ram:SpecifiedTaxRegistration/ram:ID[@schemeID='VA']") == "FR11123456782"
    assert read.one(f"{seller}/ram:URIUniversalCommunication/ram:URIID[@schemeID='0225']") == "123456782"
    assert "10 000 EUR" in read.one(f"{seller}/ram:Description")
    assert read.one(f"{buyer_of}/ram:Name") == "Ateliers de l’Œuvre & Fils"
    assert read.one(f"{buyer_of}/ram:GlobalID[@schemeID='0009']") == "98765432400013"
    assert read.one(f"{buyer_of}/ram:SpecifiedLegalOrganization/ram:ID[@schemeID='0002']") == "987654324"
    assert read.one(f"{buyer_of}/ram:URIUniversalCommunication/ram:URIID[@schemeID='0225']") == "987654324"
    assert read.all(f"{buyer_of}/ram:PostalTradeAddress/*") == [
        "69002",
        "12 quai des Brumes",
        "Bâtiment B",
        "Lyon",
        "FR",
    ]
    assert read.one(f"{AGREEMENT}/ram:BuyerReference") == "SERVICE-42"
    assert read.one(f"{AGREEMENT}/ram:BuyerOrderReferencedDocument/ram:IssuerAssignedID") == "PO-2026-77"


def test_a_buyer_abroad_is_sent_to_by_mail():
    read = Read(invoice(buyer(VatTreatment.REVERSE_CHARGE)))
    buyer_of = f"{AGREEMENT}/ram:BuyerTradeParty"

    address = f"{buyer_of}/ram:URIUniversalCommunication/ram:URIID"
    assert read.one(f"{address}[@schemeID='EM']") == "rechnungen@mueller.example"
    assert read.one(f"{buyer_of}/ram:SpecifiedTaxRegistration/ram:ID") == "DE136695976"
    assert read.one("//ram:IncludedNote[ram:SubjectCode='BAR']/ram:Content") == "B2BINT"
    assert Read(invoice()).one("//ram:IncludedNote[ram:SubjectCode='BAR']/ram:Content") == "B2B"


def test_the_bank_is_there_when_something_is_to_be_paid():
    means = "//ram:SpecifiedTradeSettlementPaymentMeans"
    read = Read(invoice())

    assert read.one(f"{means}/ram:TypeCode") == "30"
    assert read.one(f"{means}//ram:IBANID") == "FR7699999000011234567890152"
    assert read.one(f"{means}//ram:BICID") == "TESTFRPPXXX"
    assert read.one(f"{SETTLEMENT}/ram:PaymentReference") == "F-2026-000042"
    assert Read(deposit()).all(means) == []
    assert Read(invoice(drawn=DrawnCredit.DEPOSIT_LINE, credit_cents=10**6)).all(means) == []


@pytest.mark.parametrize(
    ("language", "recovery", "interest", "discount"),
    [
        (Language.FRENCH, "40 €", "quatre fois le taux", "Pas d’escompte"),
        (Language.ENGLISH, "€40", "four times the rate", "No discount"),
    ],
)
def test_mandatory_mentions_are_notes_with_the_codes_of_the_french_rules(language, recovery, interest, discount):
    terms = InvoicingTerms(late_interest_fr="quatre fois le taux", late_interest_en="four times the rate")
    read = Read(invoice(buyer(language=language)), terms)

    def note(code: str) -> str:
        return read.one(f"//ram:IncludedNote[ram:SubjectCode='{code}']/ram:Content")

    assert recovery in note("PMT")
    assert interest in note("PMD")
    assert discount in note("AAB")
    assert "SAS" in note("REG")
    assert "10 000 EUR" in note("REG")
    assert "RCS Paris" in note("ABL")


def test_heads_of_the_chain_and_rounding_are_notes():
    notes = Read(invoice()).all("//ram:IncludedNote[ram:SubjectCode='AAI']/ram:Content")

    assert [note for note in notes if HEADS[0] in note and "412" in note]
    assert [note for note in notes if HEADS[1] in note and "383" in note]
    assert [note for note in notes if "2\u202f970,8107695\u00a0€" in note and "−0,0007695" in note]


def test_what_xml_cannot_hold_is_replaced():
    read = Read(replace(invoice(), buyer=buyer(name="a\x00b\ud800c\x1bd\ufffee & <f>")))

    assert read.one(f"{AGREEMENT}/ram:BuyerTradeParty/ram:Name") == "a\ufffdb\ufffdc\ufffdd\ufffde & <f>"


def test_the_same_document_gives_the_same_bytes():
    assert invoice_xml(invoice(), TERMS) == invoice_xml(invoice(), TERMS)
