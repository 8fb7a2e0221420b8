"""The endpoint table as a whole."""

from proxy.core.endpoints import ENDPOINTS


def test_no_answer_that_may_be_relayed_as_it_comes_would_have_to_be_made_anew():
    """A large answer passes without ``show``: a row that has both would show two shapes."""
    assert [route for route, row in ENDPOINTS.items() if row.show is not None and row.body_meter is not None] == []
