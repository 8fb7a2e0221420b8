"""Lists come in pages, by documented parameters."""

import pytest

from proxy.core.batches.pages import Order, Page, page_of
from proxy.core.errors import ApiError
from proxy.views.queries import parameters_of


def page(query, **options):
    return page_of(parameters_of(query), **options)


def test_a_list_begins_with_its_newest_twenty():
    assert page(b"") == Page(20, None, Order.DESCENDING)


def test_parameters_are_decoded_and_those_that_nobody_knows_are_passed_over():
    assert page(b"limit=100&after=batch%5F1&colour=red&purpose=") == Page(100, "batch_1")
    assert page(b"limit=5&limit=7").limit == 7


@pytest.mark.parametrize("limit", [b"0", b"101", b"-1", b"", b"1.5", b"ten", b"1e1", b"9" * 50, "²".encode()])
def test_a_limit_is_a_number_from_1_to_100(limit):
    with pytest.raises(ApiError) as refused:
        page(b"limit=" + limit)
    assert (refused.value.status, refused.value.param) == (400, "limit")
    assert str(refused.value) == "Invalid parameter 'limit': must be an integer between 1 and 100"


def test_a_list_of_its_own_has_bounds_of_its_own():
    assert page(b"", limit_default=10_000, limit_max=10_000).limit == 10_000
    assert page(b"limit=10000", limit_max=10_000).limit == 10_000


def test_an_order_is_known_where_a_list_has_one():
    assert page(b"order=asc", has_order=True).order is Order.ASCENDING
    assert page(b"order=asc").order is Order.DESCENDING
    with pytest.raises(ApiError) as refused:
        page(b"order=up", has_order=True)
    assert refused.value.param == "order"


def test_a_cursor_is_short():
    with pytest.raises(ApiError) as refused:
        page(b"after=" + b"x" * 129)
    assert refused.value.param == "after"


def test_a_query_of_very_many_parameters_is_not_read():
    assert parameters_of(b"&".join(b"a%d=1" % number for number in range(1000))) == {}
