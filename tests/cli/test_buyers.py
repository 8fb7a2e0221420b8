"""What operators type and read of who is invoiced."""

import json

import pytest
from click.testing import CliRunner

from proxy.cli.accounts import accounts

FRENCH = [
    *("--name", "Acme SAS", "--address", "3 rue des Lilas", "--postcode", "69003", "--city", "Lyon"),
    *("--country", "FR", "--siren", "732 829 320", "--vat-number", "FR44732829320", "--email", "pay@acme.example"),
]
GERMAN = [
    *("--name", "Acme GmbH", "--address", "Hauptstr. 1", "--postcode", "10115", "--city", "Berlin"),
    *("--country", "DE", "--vat", "reverse_charge", "--vat-number", "DE 136 695 976", "--language", "en"),
    *("--email", "pay@acme.example"),
]
AMERICAN = [
    *("--name", "Acme Inc.", "--address", "1 Main St", "--city", "Springfield", "--country", "US"),
    *("--vat", "export", "--vat-number", "12-3456789", "--email", "pay@acme.example"),
]


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("TOLLGATE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("TOLLGATE_DATABASE_URL", raising=False)
    assert run("create", "acme", "--tier", "tier1").exit_code == 0


def run(*words):
    return CliRunner().invoke(accounts, words)


def set_buyer(*words):
    result = run("buyer", "set", "acme", *words)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*words):
    result = run("buyer", "set", "acme", *words)
    assert result.exit_code == 1, result.output
    return result.stderr


def changed(words, **options):
    """Return options with some of them otherwise."""
    named = dict(zip(words[::2], words[1::2], strict=True))
    named |= {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    return [word for pair in named.items() if pair[1] is not None for word in pair]


def test_a_buyer_is_set_changed_and_remembered():
    assert "no buyer yet" in run("buyer", "show", "acme").stdout
    assert set_buyer(*FRENCH) == "Invoices of acme are made out to Acme SAS from now on.\n"
    assert "nothing changed" in set_buyer(*FRENCH)
    set_buyer(*GERMAN)
    shown = run("buyer", "show", "acme").stdout
    assert shown.startswith("Acme GmbH\nHauptstr. 1\n10115 Berlin DE\nVAT number: DE136695976\nVAT: reverse charge\n")
    document = json.loads(run("buyer", "show", "acme", "--json").stdout)
    assert document["buyer"]["name"] == "Acme GmbH"
    assert [each["buyer"]["name"] for each in document["history"]] == ["Acme SAS", "Acme GmbH"]
    first, second = document["history"]
    assert first["set_ms"] < second["set_ms"]
    assert first["buyer"]["siren"] == "732829320"


def test_each_treatment_has_its_rate():
    assert json.loads(set_buyer(*FRENCH, "--json"))["buyer"]["vat_rate_bp"] == 2000
    assert json.loads(set_buyer(*FRENCH, "--vat-rate", "5.5", "--json"))["buyer"]["vat_rate_bp"] == 550
    assert json.loads(set_buyer(*GERMAN, "--json"))["buyer"]["vat_rate_bp"] == 0
    american = json.loads(set_buyer(*AMERICAN, "--json"))["buyer"]
    assert (american["vat_rate_bp"], american["vat_number"]) == (0, "12-3456789")
    assert run("buyer", "set", "acme", *FRENCH, "--vat-rate", "1.234").exit_code == 2


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        (changed(FRENCH, siren=None), "siren: a company in France has one"),
        (changed(FRENCH, siren="732829321"), "siren: expected a SIREN"),
        (changed(FRENCH, siret="73282932000075"), "siret: expected a SIRET"),
        (changed(FRENCH, siret="30326504500029", vat_number=None), "siret: it begins with the siren"),
        (changed(FRENCH, vat_number="FR40303265045"), "vat-number: it ends with the siren"),
        (changed(FRENCH, vat_number="FR45732829320"), "vat-number: expected a VAT number"),
        (changed(FRENCH, vat_rate="0"), "vat-rate: French VAT has a rate"),
        (changed(FRENCH, email="nobody"), "email: expected"),
        (changed(FRENCH, payment_days="61"), "payment-days: at most 60"),
        (changed(FRENCH, postcode=None), "postcode: missing"),
        (changed(FRENCH, country="France"), "country: expected a country's code"),
        (changed(FRENCH, name="  "), "name: missing"),
        (changed(FRENCH, purchase_order="two\nlines"), "purchase-order: one line"),
        (changed(GERMAN, vat_number=None), "vat-number: reverse charge needs"),
        (changed(GERMAN, vat_number="DE136695977"), "vat-number: expected a VAT number"),
        (changed(GERMAN, vat_number="FR44732829320"), "vat-number: reverse charge needs"),
        (changed(GERMAN, email=None), "email: who has no siren needs one"),
        (changed(GERMAN, country="US"), "country: reverse charge is for buyers in another member state"),
        (changed(FRENCH, vat="reverse_charge"), "country: reverse charge is for buyers in another member state"),
        (changed(GERMAN, vat_rate="19"), "vat-rate: none where VAT is reverse_charge"),
        (changed(GERMAN, siren="732829320"), "only companies in France"),
        (changed(AMERICAN, country="IT", postcode="00100", vat_number=None), "country: export is for buyers outside"),
        (changed(AMERICAN, country="MC"), "country: export is for buyers outside"),
    ],
)
def test_what_makes_no_sense_is_refused(words, mistake):
    assert mistake in refused(*words)
    assert "no buyer yet" in run("buyer", "show", "acme").stdout


def test_every_mistake_is_told_at_once():
    told = refused(*changed(FRENCH, siren="1", email="x", city=" ", payment_days="-1"))
    assert [line.split(":")[0].strip() for line in told.splitlines()[1:]] == ["city", "siren", "email", "payment-days"]


def test_an_account_that_does_not_exist_has_no_buyer():
    assert run("buyer", "set", "nobody", *FRENCH).exit_code == 1
    assert run("buyer", "show", "nobody").exit_code == 1
