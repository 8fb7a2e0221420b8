"""The endpoint table: which routes are served, and what a call to each can use.

What belongs here: the documented routes and their usage types (API documentation, section Endpoints). A route
that is not in the table does not exist for a customer. What does not: handling a call (gateway.py).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from proxy.core.usage import UsageType

_TEXT: Final = (UsageType.INPUT, UsageType.CACHED_INPUT, UsageType.OUTPUT, UsageType.REASONING)

ROUTE_USAGE_TYPES: Final[Mapping[str, tuple[UsageType, ...]]] = MappingProxyType(
    {
        "/v1/chat/completions": _TEXT,
        "/v1/completions": _TEXT,
        "/v1/embeddings": (UsageType.INPUT,),
        "/v1/rerank": (UsageType.RERANK,),
        "/v2/rerank": (UsageType.RERANK,),
        "/v1/audio/transcriptions": (UsageType.AUDIO_MINUTES,),
    }
)
"""What a call to each documented route can use: each needs a price before a model may name the route."""


class Endpoint(msgspec.Struct, frozen=True):
    """A route that is served.

    Args:
        route: documented path, for example ``/v1/chat/completions``.
        method: HTTP method.
        usage_types: everything that a call can use.
    """

    route: str
    method: str
    usage_types: tuple[UsageType, ...]


CHAT_COMPLETIONS: Final = Endpoint("/v1/chat/completions", "POST", ROUTE_USAGE_TYPES["/v1/chat/completions"])

ENDPOINTS: Final[Mapping[str, Endpoint]] = MappingProxyType({CHAT_COMPLETIONS.route: CHAT_COMPLETIONS})
"""Everything that is served, by route."""
