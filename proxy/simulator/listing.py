"""``GET /v1/models`` of a simulated engine.

What belongs here: the shapes of vLLM and Infinity, both recorded; every other engine is shown as vLLM.
"""

import secrets
import time

from proxy.core.catalogue import Engine
from proxy.simulator.options import Options
from proxy.simulator.shapes import Json


def list_models(options: Options) -> Json:
    """Return the body of the answer."""
    names = options.models or ("simulated",)
    if options.engine is Engine.INFINITY:
        return {"data": [_infinity_model(name) for name in names], "object": "list"}
    return {"object": "list", "data": [_model(name, options) for name in names]}


def _infinity_model(name: str) -> Json:
    stats = {"queue_fraction": 0.0, "queue_absolute": 0, "results_pending": 0, "batch_size": 32}
    head: Json = {"id": name, "stats": stats, "object": "model", "owned_by": "infinity", "created": int(time.time())}
    return head | {"backend": "torch", "capabilities": ["rerank" if "rank" in name else "embed"]}


def _model(name: str, options: Options) -> Json:
    created = int(time.time())
    permission = {
        "id": f"modelperm-{secrets.token_hex(8)}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": name,
        "parent": None,
        "max_model_len": options.max_model_len,
        "permission": [permission],
    }
