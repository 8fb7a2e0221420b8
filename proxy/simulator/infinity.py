"""Embeddings and rerank as Infinity 0.0.78 answers them (recorded from a real server).

What belongs here: what it takes, refuses and answers; its usage counts characters and calls them tokens. What does not:
vectors and relevance (embeddings.py, ranking.py).
"""

import time
from collections.abc import Sequence
from typing import NoReturn
from uuid import uuid4

from proxy.simulator.answers import Whole
from proxy.simulator.dialects import item_index_last, usage_of
from proxy.simulator.embeddings import embedded, read_embedding
from proxy.simulator.options import Options
from proxy.simulator.ranking import answered, read_ranking
from proxy.simulator.requests import RefusedError
from proxy.simulator.shapes import Json


def embed(body: Json, options: Options, header: str = "") -> Whole:
    """Answer Infinity's ``POST /v1/embeddings``."""
    place = ["body", "text", "input"]
    if "input" not in body:
        _detail([{"type": "missing", "loc": place, "msg": "Field required", "input": body}])
    given = body["input"]
    faults: list[Json] = []
    if isinstance(given, list):
        listed = [*place, "list[constrained-str]"]
        faults = [_too_short(listed)] if not given else _not_texts(given, listed)
    if faults or not isinstance(given, str | list):
        _detail([*faults, _not_text([*place, "constrained-str"], given)])
    _check_model(body, options)
    call = read_embedding(body, options, header)
    head = {"object": "list"}
    tail = {"model": call.model} | usage_of(call, sum(_characters(one) for one in call.inputs))
    return embedded(call, head, item_index_last, tail | _tail())


def rerank(body: Json, options: Options, header: str = "") -> Whole:
    """Answer Infinity's ``POST /v1/rerank``."""
    for field in ("query", "documents"):
        if field not in body:
            _detail([{"type": "missing", "loc": ["body", field], "msg": "Field required", "input": body}])
    place = ["body", "documents"]
    if not isinstance(body["documents"], list):
        _detail(
            [{"type": "list_type", "loc": place, "msg": "Input should be a valid list", "input": body["documents"]}]
        )
    if not body["documents"]:
        _detail([_too_short(place)])
    if faults := _not_texts(body["documents"], place):
        _detail(faults)
    _check_model(body, options)
    ranking = read_ranking(body, options, header)
    shown = body.get("return_documents") is True
    results = [
        {"relevance_score": one.relevance, "index": one.index, "document": one.text if shown else None}
        for one in ranking.best
    ]
    read = sum(_characters(body["query"]) + _characters(one.text) for one in ranking.documents)
    tail = {"model": ranking.model} | usage_of(ranking, read) | _tail()
    return answered(ranking, {"object": "rerank", "results": results} | tail)


def bad_json(message: str, position: int) -> NoReturn:
    """Refuse a body that is no JSON."""
    fault = {"type": "json_invalid", "loc": ["body", position], "msg": "JSON decode error", "input": {}}
    _detail([fault | {"ctx": {"error": message}}])


def _characters(text: object) -> int:
    """Return what it counts of a text: it strips it first."""
    return len(text.strip()) if isinstance(text, str) else 0


def _tail() -> Json:
    return {"id": f"infinity-{uuid4()}", "created": int(time.time())}


def _detail(faults: list[Json]) -> NoReturn:
    raise RefusedError(422, {"detail": faults})


def _too_short(place: Sequence[object]) -> Json:
    context = {"field_type": "List", "min_length": 1, "actual_length": 0}
    problem = "List should have at least 1 item after validation, not 0"
    return {"type": "too_short", "loc": place, "msg": problem, "input": [], "ctx": context}


def _not_texts(given: Sequence[object], place: Sequence[object]) -> list[Json]:
    return [_not_text([*place, index], one) for index, one in enumerate(given) if not isinstance(one, str)]


def _not_text(place: Sequence[object], given: object) -> Json:
    return {"type": "string_type", "loc": place, "msg": "Input should be a valid string", "input": given}


def _check_model(body: Json, options: Options) -> None:
    model = body.get("model")
    if options.models and model not in options.models:
        problem = f"Invalid model: Engine for model name `{model}` not found. Available model names are"
        error = {"message": f"{problem} {list(options.models)}", "type": None, "param": None, "code": 400}
        raise RefusedError(400, {"error": error})
