"""Queries of targets, as views read them. Pure."""

import urllib.parse
from typing import Final

_FIELDS_MAX: Final = 16


def parameters_of(query: bytes) -> dict[str, str]:
    """Return the parameters of a query string, percent-decoded; of several of one name the last, of very many none."""
    text = query.decode("latin-1")
    try:
        return dict(urllib.parse.parse_qsl(text, keep_blank_values=True, max_num_fields=_FIELDS_MAX))
    except ValueError:
        return {}
