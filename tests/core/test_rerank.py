"""A rerank request is checked and bounded; each engine is sent what it takes; customers get one answer."""

import json

import pytest

from proxy.core.calls import Terms
from proxy.core.calls.rerank import DOCUMENTS_MAX, TEMPLATE_TOKENS, RerankCall, prepare_rerank
from proxy.core.catalogue import Engine, Model, Upstream
from proxy.core.errors import ApiError
from proxy.core.rerank_shapes import send_rerank, show_rerank

V1, V2 = "/v1/rerank", "/v2/rerank"
MODEL = "nvidia/llama-nemotron-rerank-vl-1b-v2"
CONTEXT = 8192
PARIS, LYON, FRANCE = "Paris est la capitale.", "Lyon est une grande ville.", "La France est un pays d'Europe."
RANKED = (
    b'{"results":[{"index":0,"relevance_score":0.98740000},{"index":2,"relevance_score":5.231E-1},'
    b'{"index":1,"relevance_score":-0.0}],"usage":{"prompt_tokens":40,"total_tokens":40}}'
)


def model(*engines: Engine, upstream_model: str = MODEL, context: int = CONTEXT) -> Model:
    upstreams = tuple(Upstream(f"u{at}", "http://127.0.0.1:9900", engine) for at, engine in enumerate(engines))
    return Model(MODEL, (V1, V2), context, upstreams, upstream_model)


def prepare(body, *engines: Engine, route: str = V1, upstream_model: str = MODEL, context: int = CONTEXT) -> RerankCall:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    made = model(*(engines or (Engine.VLLM,)), upstream_model=upstream_model, context=context)
    return prepare_rerank(raw, route, Terms({MODEL: made}, 1024))


def ask(*documents, **more):
    return {"model": MODEL, "query": "capitale ?", "documents": list(documents or (PARIS, LYON, FRANCE)), **more}


def sent(call: RerankCall, engine: Engine):
    made = send_rerank(call, engine)
    assert isinstance(made.body, bytes)
    return made.route, json.loads(made.body)


def shown(call: RerankCall, body: bytes = RANKED, engine: Engine = Engine.VLLM):
    return json.loads(show_rerank(engine, body, call, "7f3a2b1c").body)


def refusal(body, *engines: Engine):
    with pytest.raises(ApiError) as caught:
        prepare(body, *engines)
    return caught.value


# Requests

DOCUMENTS = f"must be an array of 1 to {DOCUMENTS_MAX} strings, or objects with the text to rank"
POSITIVE = "must be an integer of at least 1"


@pytest.mark.parametrize(
    ("more", "param", "problem"),
    [
        ({"model": 5}, "model", "must be a string that names a model"),
        ({"query": 5}, "query", "must be a string"),
        ({"query": None}, "query", "must be a string"),
        ({"query": {"content": []}}, "query", "must be a string"),
        ({"documents": "Paris"}, "documents", DOCUMENTS),
        ({"documents": None}, "documents", DOCUMENTS),
        ({"documents": {"content": []}}, "documents", DOCUMENTS),
        ({"documents": []}, "documents", DOCUMENTS),
        ({"documents": ["x"] * (DOCUMENTS_MAX + 1)}, "documents", DOCUMENTS),
        ({"documents": ["x", 5]}, "documents", DOCUMENTS),
        ({"documents": ["x", None]}, "documents", DOCUMENTS),
        ({"documents": ["x", ["y"]]}, "documents", DOCUMENTS),
        ({"documents": [{}]}, "documents", DOCUMENTS),
        ({"documents": [{"title": "x"}]}, "documents", DOCUMENTS),
        ({"documents": [{"text": 5}]}, "documents", DOCUMENTS),
        ({"documents": [{"text": "x"}], "rank_fields": ["title"]}, "documents", DOCUMENTS),
        ({"top_n": 0}, "top_n", POSITIVE),
        ({"top_n": -1}, "top_n", POSITIVE),
        ({"top_n": 1.5}, "top_n", POSITIVE),
        ({"top_n": "2"}, "top_n", POSITIVE),
        ({"top_n": True}, "top_n", POSITIVE),
        ({"return_documents": "no"}, "return_documents", "must be a boolean"),
        ({"rank_fields": "title"}, "rank_fields", "must be an array of strings"),
        ({"rank_fields": []}, "rank_fields", "must be an array of strings"),
        ({"max_chunks_per_doc": 0}, "max_chunks_per_doc", POSITIVE),
        ({"max_tokens_per_doc": 0}, "max_tokens_per_doc", POSITIVE),
    ],
)
def test_a_wrong_parameter_is_named(more, param, problem):
    error = refusal(ask(**more))
    assert error.status == 400
    assert json.loads(error.body) == {
        "error": {
            "message": f"Invalid parameter '{param}': {problem}",
            "type": "invalid_request_error",
            "param": param,
        }
    }


@pytest.mark.parametrize("missing", ["model", "query", "documents"])
def test_a_missing_parameter_is_named(missing):
    body = ask()
    del body[missing]
    error = refusal(body)
    assert (error.status, error.param) == (400, missing)
    assert str(error) == f"Invalid parameter '{missing}': is required"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"model":"\xff"}', b"\xef\xbb\xbf{}"])
def test_a_body_that_is_no_json_object_is_refused(body):
    assert refusal(body).status == 400


def test_documents_that_are_no_utf8_are_refused_since_they_would_be_sent_back():
    body = json.dumps(ask("x")).encode().replace(b'"x"', b'"\xff"')
    assert str(refusal(body)) == "The request body is not valid JSON"


def test_an_unknown_model_and_one_of_another_route_are_not_found():
    assert refusal(ask(model="nope")).status == 404
    chat_only = Model(MODEL, ("/v1/chat/completions",), CONTEXT, (Upstream("u", "http://127.0.0.1:1"),), MODEL)
    with pytest.raises(ApiError) as caught:
        prepare_rerank(json.dumps(ask()).encode(), V1, Terms({MODEL: chat_only}, 1024))
    assert caught.value.status == 404


def test_as_many_documents_as_may_be_are_taken():
    assert len(prepare(ask(*["x"] * DOCUMENTS_MAX)).documents) == DOCUMENTS_MAX


def test_what_is_ranked_of_an_object_is_its_text_or_the_fields_that_are_named():
    titled = {"title": "Capitale", "pages": 3, "text": "Paris"}
    assert texts(prepare(ask("a", titled))) == ["a", "Paris"]
    assert texts(prepare(ask("a", titled, rank_fields=["title"]))) == ["a", "Capitale"]
    assert texts(prepare(ask(titled, rank_fields=["text", "pages", "nowhere", "title"]))) == ["Paris\n3\nCapitale"]
    assert texts(prepare(ask({"title": "é", "tags": ["x", "y"]}, rank_fields=["tags"]))) == ['["x", "y"]']


def texts(call: RerankCall):
    return [json.loads(text) for text in call.texts]


def test_a_model_that_sees_takes_content_where_every_server_of_its_is_a_vllm():
    seen = {"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}
    call = prepare(ask("a", seen))
    assert sent(call, Engine.VLLM)[1]["documents"] == ["a", seen]
    assert not call.is_text
    assert call.rerank_tokens_max == CONTEXT + len('"capitale ?"') + TEMPLATE_TOKENS + len('"a"')
    assert refusal(ask("a", seen), Engine.VLLM, Engine.TEI).param == "documents"


def test_tokens_are_bounded_by_bytes_and_by_the_context_for_each_document():
    call = prepare(ask("12345678", "x" * 10 * CONTEXT))
    assert call.rerank_tokens_max == (len('"capitale ?"') + TEMPLATE_TOKENS + len('"12345678"')) + CONTEXT
    assert prepare(ask("x"), context=16).rerank_tokens_max == 16
    assert (call.output_tokens_max, call.input_tokens_max, call.stream) == (0, 0, False)


# What engines are sent


@pytest.mark.parametrize("route", [V1, V2])
def test_a_vllm_is_sent_the_bytes_that_came(route):
    body = b'{ "model":"%b","query":"\\u00e9", "documents": ["a" ],\n"top_n" : 1, "priority":-3}' % MODEL.encode()
    made = send_rerank(prepare(body, route=route), Engine.VLLM)
    assert (made.route, made.body, made.content_type) == (route, body, b"application/json")


def test_the_models_name_at_the_server_replaces_the_customers():
    assert sent(prepare(ask(), upstream_model="served"), Engine.VLLM) == (V1, ask(model="served"))


@pytest.mark.parametrize("engine", [Engine.VLLM, Engine.INFINITY, Engine.LLAMA_CPP, Engine.SGLANG])
def test_objects_are_sent_as_texts_to_engines_that_take_strings(engine):
    objects = ask({"text": PARIS, "url": "x"}, LYON, {"text": FRANCE})
    route, body = sent(prepare(objects, engine), engine)
    assert route == V1
    assert body["documents"] == [PARIS, LYON, FRANCE]


@pytest.mark.parametrize("engine", [Engine.INFINITY, Engine.LLAMA_CPP, Engine.SGLANG])
def test_engines_without_v2_are_asked_by_v1(engine):
    assert sent(prepare(ask(), engine, route=V2), engine)[0] == V1


@pytest.mark.parametrize("engine", [Engine.INFINITY, Engine.SGLANG])
def test_engines_that_can_are_told_not_to_send_documents_back(engine):
    assert sent(prepare(ask(return_documents=True), engine), engine)[1]["return_documents"] is False


def test_a_sglang_is_asked_for_every_result_since_each_tells_its_own_tokens():
    assert sent(prepare(ask(top_n=1), Engine.SGLANG), Engine.SGLANG)[1]["top_n"] is None


def test_a_tei_is_sent_texts():
    body = json.dumps(ask({"text": PARIS}, LYON, top_n=1, query="où ?", truncate=True)).encode()
    assert sent(prepare(body, Engine.TEI), Engine.TEI) == ("/rerank", {"query": "où ?", "texts": [PARIS, LYON]})


def test_cohere_itself_ranks_objects_in_v1_and_strings_in_v2():
    objects = ask({"title": PARIS, "text": "x"}, rank_fields=["title"])
    assert sent(prepare(objects, Engine.COHERE), Engine.COHERE) == (V1, {**objects, "return_documents": False})
    route, body = sent(prepare(objects, Engine.COHERE, route=V2), Engine.COHERE)
    assert (route, body["documents"]) == (V2, [PARIS])


@pytest.mark.parametrize(("top_n", "passes"), [(None, 3), (4, 3), (10**30, 3), (3, 3), (2, 2)])
def test_no_engine_is_asked_for_more_results_than_there_are_documents(top_n, passes):
    call = prepare(ask(top_n=top_n))
    assert sent(call, Engine.VLLM)[1]["top_n"] == passes
    assert len(shown(call)["results"]) == passes


# What customers get


def test_the_documented_answer():
    assert shown(prepare(ask(top_n=2))) == {
        "id": "rerank-7f3a2b1c",
        "results": [
            {"index": 0, "relevance_score": 0.9874, "document": {"text": PARIS}},
            {"index": 2, "relevance_score": 0.5231, "document": {"text": FRANCE}},
        ],
        "usage": {"billed_units": {"search_units": 3}, "prompt_tokens": 40, "total_tokens": 40},
        "meta": {
            "api_version": {"version": "1"},
            "billed_units": {"search_units": 3},
            "tokens": {"input_tokens": 40},
        },
    }


def test_the_answer_of_v2_says_so_and_is_the_same_otherwise():
    first, second = shown(prepare(ask())), shown(prepare(ask(), route=V2))
    assert second["meta"].pop("api_version") == {"version": "2"}
    del first["meta"]["api_version"]
    assert first == second


def test_documents_are_left_out_when_the_customer_says_so_only():
    assert "document" in shown(prepare(ask(return_documents=None)))["results"][0]
    assert "document" in shown(prepare(ask(return_documents=True)))["results"][0]
    left_out = shown(prepare(ask(return_documents=False)))["results"]
    assert [set(result) for result in left_out] == [{"index", "relevance_score"}] * 3


def test_documents_come_back_byte_for_byte_and_scores_with_their_digits():
    body = (
        b'{"model":"%b","query":"q","documents":["\\u00c9t\\u00e9 \\/ \xc3\xa9", {"text" : "x", "n":1.0, "n":2}, "z"]}'
        % MODEL.encode()
    )
    answer = show_rerank(Engine.VLLM, RANKED, prepare(body), "id").body
    assert b'{"index":0,"relevance_score":0.98740000,"document":{"text":"\\u00c9t\\u00e9 \\/ \xc3\xa9"}}' in answer
    assert b'{"index":2,"relevance_score":5.231E-1,"document":{"text":"z"}}' in answer
    assert b'{"index":1,"relevance_score":-0.0,"document":{"text" : "x", "n":1.0, "n":2}}' in answer


def ranked(*results: tuple[int, str]) -> bytes:
    return '{{"results":[{}]}}'.format(
        ",".join(f'{{"index":{index},"relevance_score":{score}}}' for index, score in results)
    ).encode()


def test_results_are_sorted_and_cut_where_the_engine_does_neither():
    answer = shown(prepare(ask(top_n=2)), ranked((0, "-2"), (1, "7e0"), (2, "1")))
    assert [result["index"] for result in answer["results"]] == [1, 2]


def test_equal_scores_stay_in_the_engines_order():
    answer = shown(prepare(ask()), ranked((2, "1"), (0, "1.0"), (1, "1")))
    assert [result["index"] for result in answer["results"]] == [2, 0, 1]


@pytest.mark.parametrize("engine", [Engine.TEI, Engine.SGLANG, Engine.LLAMA_CPP])
def test_a_bare_list_becomes_the_documented_answer(engine):
    listed = b'[{"score":0.9,"index":1,"text":"t","document":"d","meta_info":null},{"index":0,"score":0.1}]'
    answer = shown(prepare(ask(PARIS, LYON)), listed, engine)
    assert answer["results"] == [
        {"index": 1, "relevance_score": 0.9, "document": {"text": LYON}},
        {"index": 0, "relevance_score": 0.1, "document": {"text": PARIS}},
    ]
