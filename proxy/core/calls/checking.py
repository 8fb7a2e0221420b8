"""Checking what was received, with the documented errors.

What belongs here: what every family of routes checks in the same way. What does not: which parameters there are.
"""

import re
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

import msgspec

from proxy.core.calls.contract import Form, Terms
from proxy.core.catalogue import Model
from proxy.core.errors import ApiError, invalid_parameter, invalid_request, model_not_found

T = TypeVar("T")

_PATH: Final = re.compile(r"at `\$\.(\w+)")
_MISSING: Final = re.compile(r"missing required field `(\w+)`")


class Checker(Generic[T]):
    """Decodes JSON bodies of one type.

    Args:
        wanted: a msgspec Struct of the members that are documented or decide what a call may cost.
        problems: what is wrong with a member that is not of its type, by its name, as the customer is told.
    """

    def __init__(self, wanted: type[T], problems: Mapping[str, str]) -> None:
        self._decode = msgspec.json.Decoder(wanted).decode
        self._problems = problems

    def decoded(self, body: bytes) -> T:
        """Return the members. Raises ApiError (400, with the parameter's name where one is at fault)."""
        try:
            return self._decode(body)
        except msgspec.ValidationError as exc:
            raise self._documented(str(exc)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise invalid_request("The request body is not valid JSON") from exc

    def _documented(self, text: str) -> ApiError:
        """Turn msgspec's account of a fault into the documented one."""
        if (missing := _MISSING.search(text)) is not None:
            return invalid_parameter(missing[1], "is required")
        if (path := _PATH.search(text)) is not None and path[1] in self._problems:
            return invalid_parameter(path[1], self._problems[path[1]])
        return invalid_request("The request body must be a JSON object")


def json_of(received: bytes | Form) -> bytes:
    """Return a body that is no form."""
    assert isinstance(received, bytes)
    return received


def find_model(name: str, route: str, terms: Terms) -> Model:
    """Return the model that a call names. Raises ApiError (404) when there is none, or none for this route."""
    model = terms.models.get(name)
    if model is None or route not in model.endpoints:
        raise model_not_found(name)
    return model
