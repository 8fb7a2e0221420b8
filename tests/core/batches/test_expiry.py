"""A file is kept as long as its owner wants, and no longer than any."""

import pytest

from proxy.core.batches.expiry import expiry_ms, is_span

DAY_MS = 86_400_000


@pytest.mark.parametrize(
    ("days", "wanted_s", "expires_ms"),
    [
        (30, None, 5 + 30 * DAY_MS),
        (0, None, None),
        (30, 3600, 5 + 3_600_000),
        (1, 30 * 86_400, 5 + DAY_MS),
        (0, 3600, 5 + 3_600_000),
    ],
)
def test_the_shorter_of_both_counts(days, wanted_s, expires_ms):
    assert expiry_ms(5, days, wanted_s) == expires_ms


def test_only_whole_seconds_within_the_bounds_are_a_span():
    assert is_span(3600)
    assert is_span(2_592_000)
    for wrong in (None, True, 3599, 2_592_001, -3600, 3600.0, "3600", [3600], 10**30):
        assert not is_span(wrong), wrong
