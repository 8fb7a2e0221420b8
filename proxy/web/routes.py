"""Routes: which request is which call or view.

What belongs here: paths and methods. What does not: what a call or a view is (core/endpoints.py, views/).

A path is taken as it was sent: nothing is resolved, and only the name in it is percent-decoded, once. What is not
found here does not exist.
"""

import urllib.parse
from collections.abc import Mapping
from typing import Final

import msgspec

from proxy.core.endpoints import ENDPOINTS, Endpoint
from proxy.views.contract import LOOKS, METHODS, ROUTES, View
from proxy.web.exchange import Exchange

_OPTIONS: Final = b"OPTIONS"


class Route(msgspec.Struct, frozen=True):
    """A route that is served: a call's or a view's.

    Args:
        methods: that are answered otherwise than by 405.
        endpoint: of a call.
        view: otherwise.
        name: which of the view's things the path names, decoded.
    """

    methods: tuple[bytes, ...]
    endpoint: Endpoint | None = None
    view: View | None = None
    name: str = ""

    @property
    def allow(self) -> bytes:
        """The methods as a header value."""
        return b", ".join(self.methods)


def _of_view(view: View, name: str = "") -> Route:
    return Route((*METHODS.get(view, LOOKS), _OPTIONS), view=view, name=name)


_TABLE: Final[Mapping[bytes, Route]] = {
    **{
        path.encode(): Route((endpoint.method.encode(), _OPTIONS), endpoint=endpoint)
        for path, endpoint in ENDPOINTS.items()
    },
    **{path.encode(): _of_view(view) for view, path in ROUTES.items() if "{" not in path},
}
_NAMED: Final = sorted(
    (
        (path.partition("{")[0].encode(), path.partition("}")[2].encode(), view)
        for view, path in ROUTES.items()
        if "{" in path
    ),
    key=lambda named: -len(named[1]),
)
"""What stands before and after the name in a path; the longer ends are looked for first."""


def find_route(exchange: Exchange) -> Route | None:
    """Return what a request's target names, whatever its query says; None: nothing that is served."""
    route = _TABLE.get(exchange.target)
    if route is not None:
        return route
    path = exchange.path
    return _TABLE.get(path) or _named(path)


def _named(path: bytes) -> Route | None:
    for prefix, end, view in _NAMED:
        name = path[len(prefix) : len(path) - len(end)]
        if name and path.startswith(prefix) and path.endswith(end):
            return _of_view(view, urllib.parse.unquote_to_bytes(name).decode("utf-8", "replace"))
    return None
