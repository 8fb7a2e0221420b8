"""Numbers of documents, and the day on which a month may be invoiced."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.calendar import day_bounds_ms
from proxy.core.invoicing.errors import InvoicingError
from proxy.core.invoicing.numbers import Number, opens_ms, opens_on, parse_number
from proxy.core.invoicing.terms import InvoicingTerms


def test_a_number_is_its_series_its_year_and_its_place():
    assert str(Number("F", 2026, 1)) == "F-2026-000001"
    assert str(Number("F", 2026, 1_234_567)) == "F-2026-1234567"


@given(st.from_regex("[A-Z0-9]{1,8}", fullmatch=True), st.integers(2000, 9999), st.integers(1, 10**8))
def test_what_is_written_is_read(series, year, sequence):
    number = Number(series, year, sequence)
    assert parse_number(str(number)) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "F-2026-1",
        "F-2026-000000",
        "F-2026-0000001",
        "f-2026-000001",
        "F-26-000001",
        "F-2026-000001 ",
        "F2026000001",
    ],
)
def test_what_is_no_number_is_refused(text):
    with pytest.raises(InvoicingError, match="not the number"):
        parse_number(text)


@pytest.mark.parametrize(
    ("month", "grace_days", "day"),
    [
        ("2026-11", 0, "2026-12-01"),
        ("2026-11", 2, "2026-12-03"),
        ("2026-12", 2, "2027-01-03"),
        ("2027-02", 28, "2027-03-29"),
    ],
)
def test_a_month_opens_when_its_days_of_grace_are_over(month, grace_days, day):
    assert opens_on(month, InvoicingTerms(grace_days=grace_days)) == day


@pytest.mark.parametrize("timezone", ["Europe/Paris", "Pacific/Auckland", "America/Los_Angeles"])
def test_it_opens_where_the_account_is(timezone):
    assert opens_ms("2026-10", timezone, InvoicingTerms()) == day_bounds_ms("2026-11-03", timezone)[0]


def test_the_days_of_grace_are_days_where_the_clocks_change_too():
    opens = opens_ms("2027-02", "Europe/Paris", InvoicingTerms(grace_days=28))
    assert opens - day_bounds_ms("2027-03-01", "Europe/Paris")[0] == (28 * 24 - 1) * 3_600_000


def test_what_is_no_month_is_refused():
    with pytest.raises(ValueError, match="not a month"):
        opens_on("2026-13", InvoicingTerms())
