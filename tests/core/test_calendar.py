"""Months and days are the account's own."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.calendar import day_bounds_ms, day_of, is_month, month_after, month_bounds_ms, month_of, zone

HOUR_MS = 3_600_000
ZONES = ["Europe/Paris", "UTC", "America/Havana", "America/Santiago", "Asia/Kolkata", "Pacific/Auckland", "Asia/Beirut"]


def ms(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 1000


@pytest.mark.parametrize(("month", "hours"), [("2026-10", 745), ("2027-03", 743), ("2026-11", 720), ("2028-02", 696)])
def test_a_paris_month_is_as_long_as_it_really_is(month, hours):
    start, end = month_bounds_ms(month, "Europe/Paris")
    assert end - start == hours * HOUR_MS


def test_november_begins_in_paris_an_hour_before_it_does_in_utc():
    assert month_of(ms(2026, 10, 31, 22, 59, 59), "Europe/Paris") == "2026-10"
    assert month_of(ms(2026, 10, 31, 23), "Europe/Paris") == "2026-11"
    assert month_of(ms(2026, 10, 31, 23), "UTC") == "2026-10"


def test_july_begins_in_paris_two_hours_before_it_does_in_utc():
    assert month_bounds_ms("2026-07", "Europe/Paris")[0] == ms(2026, 6, 30, 22)


def test_both_instants_of_the_repeated_hour_lie_in_one_day():
    assert day_of(ms(2026, 10, 25, 0, 30), "Europe/Paris") == "2026-10-25"
    assert day_of(ms(2026, 10, 25, 1, 30), "Europe/Paris") == "2026-10-25"
    start, end = day_bounds_ms("2026-10-25", "Europe/Paris")
    assert end - start == 25 * HOUR_MS


def test_a_day_whose_midnight_is_skipped_begins_with_the_change():
    # Havana went from 23:59:59 on 9 March 2024 to 01:00 on the 10th, at 05:00 UTC.
    assert day_bounds_ms("2024-03-10", "America/Havana")[0] == ms(2024, 3, 10, 5)


def test_a_day_whose_midnight_comes_twice_begins_with_the_first():
    # Havana went from 01:00 back to 00:00 on 3 November 2024; the first midnight was at 04:00 UTC.
    assert day_bounds_ms("2024-11-03", "America/Havana")[0] == ms(2024, 11, 3, 4)


@given(st.integers(ms(2000, 1, 1), ms(2045, 1, 1)), st.sampled_from(ZONES))
def test_every_instant_lies_within_its_day_and_its_month(now_ms, timezone):
    day, month = day_of(now_ms, timezone), month_of(now_ms, timezone)
    day_start, day_end = day_bounds_ms(day, timezone)
    month_start, month_end = month_bounds_ms(month, timezone)
    assert month_start <= day_start <= now_ms < day_end <= month_end
    assert day.startswith(month)


@given(st.integers(2000, 2045), st.integers(1, 12), st.sampled_from(ZONES))
def test_a_month_ends_where_the_next_begins(year, number, timezone):
    month = f"{year}-{number:02d}"
    start, end = month_bounds_ms(month, timezone)
    assert month_of(start, timezone) == month
    assert month_of(start - 1, timezone) < month
    assert month_bounds_ms(month_after(month), timezone)[0] == end


def test_december_is_followed_by_january():
    assert month_after("2026-12") == "2027-01"


@pytest.mark.parametrize("text", ["2026-13", "2026-00", "2026-1", "26-01", "2026-01-01", "2026-01\n", "", "٢٠٢٦-01"])
def test_what_is_no_month_is_refused(text):
    assert not is_month(text)
    with pytest.raises(ValueError, match="not a month"):
        month_bounds_ms(text, "UTC")


@pytest.mark.parametrize("name", ["Europe/Pariss", "Europe", "../etc/passwd", "", "/etc/localtime"])
def test_what_is_no_zone_is_refused(name):
    with pytest.raises(ValueError, match="not a time zone"):
        zone(name)
