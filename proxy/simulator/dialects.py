"""Embeddings and rerank in the shapes of llama.cpp, SGLang, TEI, Ollama, OpenAI and Cohere.

What belongs here: what each of them takes, refuses and answers, as its source or its documentation says. What does not:
vectors and relevance (embeddings.py, ranking.py); what was recorded has a module of its own (infinity.py).

What matters to whoever meters: SGLang's rerank answers a bare list whose items say what was read; TEI's answers one
that says nothing; Cohere reports search units.
"""

import secrets
from typing import Final, NoReturn
from uuid import uuid4

from proxy.simulator.answers import Whole
from proxy.simulator.embeddings import Embedding, embedded, inputs_of, read_embedding
from proxy.simulator.options import Options
from proxy.simulator.ranking import Ranking, answered, read_ranking, text_of
from proxy.simulator.requests import RefusedError
from proxy.simulator.shapes import Json

_DOCUMENTS_PER_SEARCH_UNIT: Final = 100


def _item(index: int, mark: str) -> Json:
    """Return an item as OpenAI orders it."""
    return {"object": "embedding", "index": index, "embedding": mark}


def item_index_last(index: int, mark: str) -> Json:
    """Return an item as Infinity, TEI and Ollama order it."""
    return {"object": "embedding", "embedding": mark, "index": index}


def _item_object_last(index: int, mark: str) -> Json:
    return {"embedding": mark, "index": index, "object": "embedding"}


def usage_of(call: Embedding | Ranking, count: int | None = None) -> Json:
    """Return the member ``usage`` (of ``count`` instead of tokens), or nothing where it is to be left out."""
    if call.switches.no_usage:
        return {}
    if count is None or call.switches.prompt_tokens is not None:
        count = call.reported
    return {"usage": {"prompt_tokens": count, "total_tokens": count}}


# llama.cpp's llama-server


def llama_cpp_embed(body: Json, options: Options, header: str = "") -> Whole:
    """Answer llama-server's ``POST /v1/embeddings``: it does not look at the model's name."""
    if "input" not in body or body["input"] in ("", []):
        _llama_cpp_refuse('"input" or "content" must be provided')
    call = read_embedding(body, options, header)
    head = {"model": call.model, "object": "list"} | usage_of(call)
    packed: Json = {"encoding_format": "base64"} if call.is_base64 else {}
    return embedded(call, head, lambda index, mark: _item_object_last(index, mark) | packed, {})


def llama_cpp_rerank(body: Json, options: Options, header: str = "") -> Whole:
    """Answer llama-server's ``POST /v1/rerank``: without documents; with ``texts`` in TEI's shape."""
    if not isinstance(body.get("query"), str):
        _llama_cpp_refuse('"query" must be provided')
    field = "texts" if "texts" in body else "documents"
    if not isinstance(body.get(field), list) or not body[field]:
        _llama_cpp_refuse('"documents" must be a non-empty string array')
    ranking = read_ranking(body, options, header, documents=field)
    if field == "texts":
        return answered(ranking, [{"index": one.index, "score": one.relevance} for one in ranking.best])
    results = [{"index": one.index, "relevance_score": one.relevance} for one in ranking.best]
    head = {"model": ranking.model, "object": "list"}
    return answered(ranking, head | usage_of(ranking) | {"results": results})


def llama_cpp_bad_json(message: str, position: int) -> NoReturn:
    """Refuse a body that is no JSON."""
    _llama_cpp_refuse(f"parse error at position {position}: {message}")


def _llama_cpp_refuse(message: str) -> NoReturn:
    raise RefusedError(400, {"error": {"code": 400, "message": message, "type": "invalid_request_error"}})


# SGLang


def sglang_embed(body: Json, options: Options, header: str = "") -> Whole:
    """Answer SGLang's ``POST /v1/embeddings``."""
    if not body.get("input"):
        _sglang_refuse("Input cannot be empty")
    call = read_embedding(body, options, header)
    usage = usage_of(call)
    if usage:
        usage["usage"] |= {"completion_tokens": 0, "prompt_tokens_details": None, "reasoning_tokens": 0}
    return embedded(call, {}, _item_object_last, {"model": call.model, "object": "list"} | usage)


def sglang_rerank(body: Json, options: Options, header: str = "") -> Whole:
    """Answer SGLang's ``POST /v1/rerank``: a bare list; each item says what was read for it."""
    if not str(body.get("query") or "").strip():
        _sglang_refuse("Query cannot be empty")
    if not isinstance(body.get("documents"), list) or not body["documents"]:
        _sglang_refuse("Documents cannot be empty")
    ranking = read_ranking(body, options, header)
    shown = body.get("return_documents") is not False
    results = [
        {
            "score": one.relevance,
            "document": one.text if shown else None,
            "index": one.index,
            "meta_info": {
                "id": secrets.token_hex(16),
                "finish_reason": None,
                "prompt_tokens": one.tokens,
                "e2e_latency": 0.01,
            },
        }
        for one in ranking.best
    ]
    if ranking.switches.no_usage:
        for result in results:
            result["meta_info"] = None
    return answered(ranking, results)


def sglang_bad_json(message: str, position: int) -> NoReturn:
    """Refuse a body that is no JSON."""
    _sglang_refuse(f"JSON decode error at {position}: {message}")


def _sglang_refuse(message: str) -> NoReturn:
    error = {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}
    raise RefusedError(400, error)


# Text Embeddings Inference


def tei_embed(body: Json, options: Options, header: str = "") -> Whole:
    """Answer TEI's ``POST /v1/embeddings``."""
    inputs = inputs_of(body.get("input"))
    if not inputs or None in inputs or "" in inputs:
        raise RefusedError(400, {"message": "`inputs` cannot be empty", "code": 400, "type": "Empty"})
    call = read_embedding(body, options, header)
    return embedded(call, {"object": "list"}, item_index_last, {"model": call.model} | usage_of(call))


def tei_rerank(body: Json, options: Options, header: str = "") -> Whole:
    """Answer TEI's ``POST /rerank``: it reads ``texts``, and its bare list says nothing of what was read."""
    for field in ("query", "texts"):
        if field not in body:
            problem = f"Failed to deserialize the JSON body into the target type: missing field `{field}`"
            raise RefusedError(422, {"error": problem, "error_type": "Validation"})
    if not isinstance(body["texts"], list) or not body["texts"]:
        raise RefusedError(400, {"error": "`texts` cannot be empty", "error_type": "Empty"})
    ranking = read_ranking(body, options, header, documents="texts")
    shown = body.get("return_text") is True
    results = [
        {"index": one.index} | ({"text": one.text} if shown else {}) | {"score": one.relevance}
        for one in ranking.documents
    ]
    return answered(ranking, results)


def tei_bad_json(message: str, position: int) -> NoReturn:
    """Refuse a body that is no JSON."""
    raise RefusedError(422, {"error": f"{message} at {position}", "error_type": "Validation"})


# Ollama and OpenAI


def openai_embed(body: Json, options: Options, header: str = "") -> Whole:
    """Answer OpenAI's ``POST /v1/embeddings``; Ollama's has its items in another order."""
    if not body.get("input"):
        openai_refuse("'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs.")
    call = read_embedding(body, options, header)
    return embedded(call, {"object": "list"}, _item, {"model": call.model} | usage_of(call))


def ollama_embed(body: Json, options: Options, header: str = "") -> Whole:
    """Answer Ollama's ``POST /v1/embeddings``."""
    if not body.get("input"):
        openai_refuse("invalid input")
    call = read_embedding(body, options, header)
    return embedded(call, {"object": "list"}, item_index_last, {"model": call.model} | usage_of(call))


def openai_bad_json(message: str, position: int) -> NoReturn:
    """Refuse a body that is no JSON."""
    openai_refuse(f"We could not parse the JSON body of your request. ({message} at {position})")


def openai_refuse(message: str) -> NoReturn:
    """Refuse in OpenAI's shape."""
    raise RefusedError(
        400, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}
    )


# Cohere


def cohere_rerank(body: Json, options: Options, header: str = "") -> Whole:
    """Answer Cohere's ``POST /v1/rerank``: search units of a hundred documents; texts only where asked for."""
    return _cohere(body, options, header, version="1", shown=body.get("return_documents") is True)


def cohere_rerank_v2(body: Json, options: Options, header: str = "") -> Whole:
    """Answer Cohere's ``POST /v2/rerank``: as the first version, never with texts."""
    return _cohere(body, options, header, version="2", shown=False)


def cohere_bad_json(message: str, position: int) -> NoReturn:
    """Refuse a body that is no JSON."""
    raise RefusedError(400, {"id": str(uuid4()), "message": f"invalid request: {message} at {position}"})


def _cohere(body: Json, options: Options, header: str, *, version: str, shown: bool) -> Whole:
    for field in ("query", "documents"):
        if not body.get(field):
            problem = f"invalid request: {field} must not be empty"
            raise RefusedError(400, {"id": str(uuid4()), "message": problem})
    ranking = read_ranking(body, options, header)
    results = [
        ({"document": {"text": text_of(one.text)}} if shown else {})
        | {"index": one.index, "relevance_score": one.relevance}
        for one in ranking.best
    ]
    units = -(-len(ranking.documents) // _DOCUMENTS_PER_SEARCH_UNIT)
    meta: Json = {"api_version": {"version": version}}
    meta |= {} if ranking.switches.no_usage else {"billed_units": {"search_units": units}}
    return answered(ranking, {"id": str(uuid4()), "results": results, "meta": meta})
