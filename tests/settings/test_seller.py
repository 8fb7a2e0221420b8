"""Who sells, and on what terms, as seller.yaml says it."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from proxy.core.invoicing.terms import Bookkeeping, DrawnCredit, InvoicingTerms
from proxy.core.parties import Address, Bank, Seller
from proxy.settings import seller_file
from proxy.settings.holder import SettingsHolder
from proxy.settings.identifiers import countries
from tests.settings.support import NOW_MS, ROOT, edit, load, sound_folder

SELLER = Seller(
    name="Compagnie Imaginaire de Démonstration",
    legal_form="SAS",
    capital="10 000 EUR",
    siren="123456782",
    siret="12345678200010",
    rcs="Paris",
    vat_number="FR11123456782",
    address=Address(("1 rue de l'Exemple",), "75000", "Paris", "FR"),
    email="facturation@imaginaire.example",
    bank=Bank("FR7699999000011234567890152", "TESTFRPPXXX", "Compagnie Imaginaire de Démonstration"),
)


def test_a_seller_is_read_and_blanks_in_its_numbers_do_not_matter(tmp_path: Path):
    assert load(sound_folder(tmp_path)).seller == SELLER


def test_terms_that_are_left_out_are_the_usual_ones(tmp_path: Path):
    assert load(sound_folder(tmp_path)).invoicing == InvoicingTerms()


def test_terms_that_are_written_hold(tmp_path: Path):
    folder = sound_folder(tmp_path)
    with (folder / "seller.yaml").open("a") as file:
        file.write(
            "terms:\n  timezone: America/Guadeloupe\n  grace_days: 5\n  payment_days: 45\n  late_interest_fr: 12 %\n"
            "  late_interest_en: 12%\n  invoice_series: FA\n  credit_note_series: AV\n  deposit_series: AC\n"
            "  drawn_credit: paid_amount\n  bookkeeping:\n    journal: V1\n    journal_title: Ventes API\n"
            '    customers: "4111"\n    advances: "4191"\n    sales: 706API\n    vat: "44571"\n'
        )
    assert load(folder).invoicing == InvoicingTerms(
        "America/Guadeloupe", 5, 45, "12 %", "12%", "FA", "AV", "AC", DrawnCredit.PAID_AMOUNT,
        Bookkeeping("V1", "Ventes API", "4111", "4191", "706API", "44571"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        (seller_file.SellerEntry, Seller),
        (seller_file.AddressEntry, Address),
        (seller_file.BankEntry, Bank),
        (seller_file.TermsEntry, InvoicingTerms),
        (seller_file.BookkeepingEntry, Bookkeeping),
    ],
)
def test_all_that_documents_use_can_be_written_and_nothing_else(entry: type, value: type):
    def facts(shape: type) -> dict[str, object]:
        return {field.name: field.default for field in msgspec.structs.fields(shape) if field.name != "bookkeeping"}

    assert facts(entry) == facts(value)


def test_the_seller_that_comes_with_it_is_a_demonstration_on_the_usual_terms():
    shipped = load(ROOT / "config")
    assert shipped.seller is not None
    assert shipped.seller.demonstration
    assert shipped.invoicing == InvoicingTerms()


def test_without_a_seller_everything_else_is_as_it_was(tmp_path: Path):
    folder = sound_folder(tmp_path)
    with_seller = load(folder)
    (folder / "seller.yaml").unlink()
    assert load(folder) == msgspec.structs.replace(with_seller, seller=None)


def test_a_reload_takes_another_seller_and_keeps_the_old_one_on_a_mistake(tmp_path: Path):
    folder = sound_folder(tmp_path)
    holder = SettingsHolder(folder, {}, lambda: NOW_MS)
    edit(folder, "seller.yaml", "legal_form: SAS", "legal_form: SARL")
    assert holder.reload() == []
    assert holder.current.seller == msgspec.structs.replace(SELLER, legal_form="SARL")
    edit(folder, "seller.yaml", "FR76", "FR75")
    assert [mistake.path for mistake in holder.reload()] == ["seller.bank.iban"]
    assert holder.current.seller == msgspec.structs.replace(SELLER, legal_form="SARL")


def test_the_countries_are_all_those_of_iso_3166():
    assert {"FR", "DE", "MC", "GP", "US", "AX"} <= countries()
    assert 240 <= len(countries()) <= 260
    assert all(len(code) == 2 and code.isascii() and code.isupper() for code in countries())


def test_who_reads_no_seller_does_not_load_what_checks_one():
    program = (
        "import sys, proxy.settings.loader; print(sorted(name for name in sys.modules if name.startswith('stdnum')))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
