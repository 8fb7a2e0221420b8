"""What can be viewed, and how it is asked for.

What belongs here: the values between the web layer and the views. What does not: paths (web/routes.py).
"""

from enum import StrEnum
from typing import Final

import msgspec


class View(StrEnum):
    """What is asked for: a word for metrics."""

    MODELS = "models"
    MODEL = "model"
    USAGE = "usage"
    RECEIPT = "receipt"


ROUTES: Final = {
    View.MODELS: "/v1/models",
    View.MODEL: "/v1/models/{id}",
    View.USAGE: "/v1/usage",
    View.RECEIPT: "/v1/usage/calls/{id}",
}
"""The route of each as logs and documents write it."""


class Asked(msgspec.Struct, frozen=True):
    """A request for a view.

    Args:
        view: what is asked for.
        name: which one of them: what its path names, percent-decoded; empty where there is one only.
        token: the bearer token; None: there is none.
        started_s: when it came, monotonic seconds.
        client_request_id: the client's own name for it, if it gave one.
    """

    view: View
    name: str
    token: str | None
    started_s: float
    client_request_id: str | None = None
