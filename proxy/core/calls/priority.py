"""The priority of a call, for the engine that takes one.

What belongs here: how a tier's priority is said to an engine. What does not: which upstream is told (models.yaml,
``priority_field``), and the order of calls that wait here (core/fairness.py).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from proxy.core.catalogue import Engine
from proxy.core.patching import patch_object

PRIORITY_SIGNS: Final[Mapping[Engine, int]] = MappingProxyType({Engine.VLLM: -1, Engine.SGLANG: 1})
"""Engines that take a ``priority``. vLLM begins with the lowest (``--scheduling-policy priority``; releases before V1
refuse any but 0 without it), SGLang with the highest (``--enable-priority-scheduling``)."""


BATCH_PRIORITY: Final = -1
"""Of lines of batches: below that of every tier (from 0)."""


def with_priority(body: bytes, priority: int, engine: Engine) -> bytes:
    """Return a JSON request with its tier's priority, or ``BATCH_PRIORITY``, in place of any that the client may claim.

    Raises:
        ApiError: 400 when the body has more members than anybody means.
    """
    return patch_object(body, {"priority": b"%d" % (PRIORITY_SIGNS[engine] * priority)})
