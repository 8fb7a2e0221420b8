"""Calls: from a request to what must be known before it may go on. Pure.

What belongs here: the contract, and one module a family of routes: checking documented parameters, finding the model,
bounding what the call can use, and the changes that an upstream's copy of the request needs. What does not: who calls,
and whether the limits have room.
"""

from proxy.core.calls.contract import Form, FormFile, PreparedCall, Sent, Shown, Source, Terms

__all__ = ["Form", "FormFile", "PreparedCall", "Sent", "Shown", "Source", "Terms"]
