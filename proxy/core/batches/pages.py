"""Pages of a list: which part of it is asked for. Pure.

What belongs here: the documented parameters of a list, checked. What does not: finding the rows (ledger/batches/).
"""

from enum import StrEnum
from typing import Final

import msgspec

from proxy.core.batches.ids import may_be_id
from proxy.core.errors import invalid_parameter

LIMIT_DEFAULT: Final = 20
LIMIT_MAX: Final = 100
"""Of batches (OpenAI's API reference, List batch)."""

_DIGITS_MAX: Final = 9


class Order(StrEnum):
    """By time of creation."""

    ASCENDING = "asc"
    DESCENDING = "desc"


class Page(msgspec.Struct, frozen=True):
    """A part of a list.

    Args:
        limit: most items.
        after: id of the item that it comes after; None: it begins the list.
        order: of the list.
    """

    limit: int = LIMIT_DEFAULT
    after: str | None = None
    order: Order = Order.DESCENDING


def page_of(
    parameters: dict[str, str],
    *,
    limit_max: int = LIMIT_MAX,
    limit_default: int = LIMIT_DEFAULT,
    has_order: bool = False,
) -> Page:
    """Return the page that is asked for.

    Args:
        parameters: of the query; those that are not documented are passed over.
        limit_max: of this list.
        limit_default: of this list.
        has_order: whether the list has an ``order``.

    Raises:
        ApiError: 400 with the parameter's name.
    """
    limit_text = parameters.get("limit")
    limit = limit_default
    if limit_text is not None:
        is_number = limit_text.isascii() and limit_text.isdigit() and len(limit_text) <= _DIGITS_MAX
        limit = int(limit_text) if is_number else 0
        if not 1 <= limit <= limit_max:
            raise invalid_parameter("limit", f"must be an integer between 1 and {limit_max}")
    after = parameters.get("after") or None
    if after is not None and not may_be_id(after):
        raise invalid_parameter("after", "must be an id")
    order = Order.DESCENDING
    if has_order and "order" in parameters:
        try:
            order = Order(parameters["order"])
        except ValueError:
            raise invalid_parameter("order", "must be 'asc' or 'desc'") from None
    return Page(limit, after, order)
