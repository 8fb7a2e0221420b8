"""What is read off a rerank answer: the ranking, and the tokens that are billed."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from proxy.core.calls import Terms
from proxy.core.calls.rerank import RerankCall, prepare_rerank
from proxy.core.catalogue import Engine, Model, TokenizerError, Upstream
from proxy.core.meters import Reading
from proxy.core.meters.rerank import SLICE_TEXTS, count_rerank, ranking_of, read_rerank, tokens_of
from proxy.core.rerank_shapes import show_rerank
from proxy.core.usage import NOTHING, Quantity, Source, UsageType
from proxy.tokenizers import read_tokenizer
from tests.meters.recordings import WIRE, Recording, load
from tests.support.tokenizer import PAIR_TOKENS, write_tokenizer

ROUTE = "/v1/rerank"
CONTEXT = 512
RECORDED = [load(path) for path in sorted(WIRE.glob("*-rerank/rerank_*.http"))]
WHOLE = [one for one in RECORDED if one.status == 200]
REFUSED = [one for one in RECORDED if one.status != 200]


def call_for(request, *, engine: Engine = Engine.VLLM, context: int = CONTEXT, tokenizer=None) -> RerankCall:
    upstream = Upstream("u", "http://127.0.0.1:9900", engine)
    model = Model("m", (ROUTE,), context, (upstream,), "m", tokenizer=tokenizer)
    return prepare_rerank(json.dumps({**request, "model": "m"}).encode(), ROUTE, Terms({"m": model}, 1024))


def asked(*documents: str, query: str = "a query", **more):
    return {"query": query, "documents": list(documents or ("first", "second")), **more}


def answer(**more):
    results = [{"index": 1, "relevance_score": 0.75}, {"index": 0, "relevance_score": 0.5}]
    return {"id": "x", "results": results, **more}


def read(found, call: RerankCall | None = None, engine: Engine = Engine.VLLM) -> Reading:
    body = found if isinstance(found, bytes) else json.dumps(found).encode()
    return read_rerank(engine, body, call or call_for(asked()))


def tokens(reading: Reading) -> tuple[int, Source]:
    assert reading.complete
    (quantity,) = reading.usage.quantities
    assert quantity.type is UsageType.RERANK
    return quantity.amount, quantity.source


def name_of(recording: Recording) -> str:
    return recording.name


# Recorded


def test_there_are_recordings():
    assert (len(WHOLE), len(REFUSED)) == (7, 11)


@pytest.mark.parametrize("recording", [one for one in WHOLE if "vllm" in one.name], ids=name_of)
def test_a_recorded_answer_of_vllm_has_the_tokens_and_the_ranking_that_it_states(recording: Recording):
    call = call_for(recording.request)
    stated = json.loads(recording.body)["usage"]["total_tokens"]
    assert tokens(read(recording.body, call)) == (stated, Source.REPORTED)
    assert ranked(recording, call) == by_hand(recording)


@pytest.mark.parametrize("recording", [one for one in WHOLE if "infinity" in one.name], ids=name_of)
def test_a_recorded_answer_of_infinity_is_ranked_and_its_characters_are_not_taken_for_tokens(recording: Recording):
    query, documents = recording.request["query"], recording.request["documents"]
    stated = json.loads(recording.body)
    assert stated["usage"]["total_tokens"] == sum(len(query) + len(text.strip()) for text in documents)
    call = call_for(recording.request, engine=Engine.INFINITY)
    by_rule = sum(min(CONTEXT, quarter(query) + quarter(text)) for text in documents)
    assert tokens(read(recording.body, call, Engine.INFINITY)) == (by_rule, Source.ESTIMATED)
    assert ranked(recording, call, Engine.INFINITY) == by_hand(recording)


def quarter(text: str) -> int:
    return -(-len(text.encode()) // 4)


def ranked(recording: Recording, call: RerankCall, engine: Engine = Engine.VLLM):
    return json.loads(show_rerank(engine, recording.body, call, "id").body)["results"]


def by_hand(recording: Recording):
    """The results of a recorded answer, with the documents that were asked about."""
    return [
        {
            "index": result["index"],
            "relevance_score": result["relevance_score"],
            "document": {"text": recording.request["documents"][result["index"]]},
        }
        for result in json.loads(recording.body)["results"]
    ]


@pytest.mark.parametrize("recording", REFUSED, ids=name_of)
def test_a_recorded_refusal_used_nothing(recording: Recording):
    reading = read(recording.body)
    assert (reading.usage, reading.complete) == (NOTHING, False)


# Constructed from the sources of engines

# As SGLang answers: python/sglang/srt/entrypoints/openai/serving_rerank.py and protocol.py.
SGLANG = [
    {"score": 0.9, "document": "second", "index": 1, "meta_info": {"id": "a", "prompt_tokens": 11, "e2e_latency": 0.1}},
    {"score": 0.1, "document": "first", "index": 0, "meta_info": {"id": "b", "prompt_tokens": 9, "e2e_latency": 0.1}},
]
# As TEI answers: router/src/http/types.rs, Rank.
TEI = [{"index": 1, "score": 0.99}, {"index": 0, "text": "first", "score": 1.2e-05}]
# As llama.cpp answers: tools/server/server-common.cpp, format_response_rerank.
LLAMA_CPP = {
    "model": "m",
    "object": "list",
    "usage": {"prompt_tokens": 21, "total_tokens": 21},
    "results": [{"index": 1, "relevance_score": 3.5}, {"index": 0, "relevance_score": -7.25}],
}
# The same before it counted: examples/server/utils.hpp.
LLAMA_CPP_OLD = {
    "model": "m",
    "object": "list",
    "usage": {"prompt_tokens": 0, "total_tokens": 0},
    "results": [{"index": 0, "relevance_score": -7.25}, {"index": 1, "relevance_score": 3.5}],
}
# As Cohere answers: types/rerank_response.py and types/api_meta.py of its Python client.
COHERE = {
    "id": "07734bd2",
    "results": [{"index": 1, "relevance_score": 0.99}, {"index": 0, "relevance_score": 0.1}],
    "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
}
ESTIMATED = 2 * quarter("a query") + quarter("first") + quarter("second")


@pytest.mark.parametrize(
    ("engine", "found", "amount", "source"),
    [
        (Engine.SGLANG, SGLANG, 20, Source.REPORTED),
        (Engine.SGLANG, SGLANG[:1], ESTIMATED, Source.ESTIMATED),
        (Engine.SGLANG, [SGLANG[0], {**SGLANG[1], "meta_info": None}], ESTIMATED, Source.ESTIMATED),
        (Engine.SGLANG, [SGLANG[0], {**SGLANG[1], "meta_info": {"prompt_tokens": 0}}], ESTIMATED, Source.ESTIMATED),
        (Engine.TEI, TEI, ESTIMATED, Source.ESTIMATED),
        (Engine.LLAMA_CPP, LLAMA_CPP, 21, Source.REPORTED),
        (Engine.LLAMA_CPP, LLAMA_CPP_OLD, ESTIMATED, Source.ESTIMATED),
        (Engine.COHERE, COHERE, ESTIMATED, Source.ESTIMATED),
        (Engine.COHERE, {**COHERE, "meta": {"tokens": {"input_tokens": 17}}}, 17, Source.REPORTED),
    ],
)
def test_each_engine_says_its_tokens_in_its_own_place_or_not_at_all(engine, found, amount, source):
    assert tokens(read(found, call_for(asked(), engine=engine), engine)) == (amount, source)
    ranking = ranking_of(engine, json.dumps(found).encode(), call_for(asked(), engine=engine))
    assert ranking is not None
    assert ranking.results[0][0] == 1


def test_numbers_are_trusted_in_a_fixed_order():
    usage, meta = {"total_tokens": 40, "prompt_tokens": 30}, {"tokens": {"input_tokens": 20}}
    assert tokens(read(answer(usage=usage, meta=meta)))[0] == 40
    assert tokens(read(answer(usage={**usage, "total_tokens": 0}, meta=meta)))[0] == 30
    assert tokens(read(answer(usage={}, meta=meta)))[0] == 20


@pytest.mark.parametrize("number", [0, -1, 1.5, 40.0, True, "40", None, [40], {}, 2 * CONTEXT + 1, 10**30])
def test_a_number_that_cannot_be_is_not_believed(number):
    usage = {"total_tokens": number, "prompt_tokens": number}
    reading = read(answer(usage=usage, meta={"tokens": {"input_tokens": number}}))
    assert tokens(reading) == (ESTIMATED, Source.ESTIMATED)


def test_the_most_that_can_be_is_believed():
    assert tokens(read(answer(usage={"total_tokens": 2 * CONTEXT}))) == (2 * CONTEXT, Source.REPORTED)


@pytest.mark.parametrize("strange", [7, "x", [], {"tokens": 7}, {"tokens": []}])
def test_usage_of_another_shape_does_no_harm(strange):
    assert tokens(read(answer(usage=strange, meta=strange)))[1] is Source.ESTIMATED


# What is no ranking


@pytest.mark.parametrize(
    "found",
    [
        b"", b"{", b"null", b"7", b"<html>", b"\xff", b'{"results":' + b"[" * 100_000, b"[" * 100_000,
        {}, {"results": None}, {"results": []}, [], {"detail": "Not Found"}, {"usage": {"total_tokens": 4}},
        [{"index": 0}], [{"score": 0.5}], [{"index": 0, "score": None}], [{"index": 0, "score": "0.5"}],
        [{"index": 0, "score": [0.5]}], [{"index": "0", "score": 1}], [{"index": 0.0, "score": 1}],
        [{"index": -1, "score": 1}], [{"index": 2, "score": 1}], [{"index": 0, "score": 1}, {"index": 0, "score": 1}],
        [7], ["first"],
    ],
)  # fmt: skip
def test_what_is_no_ranking_of_these_documents_is_no_answer(found):
    assert read(found) == Reading(NOTHING, complete=False)


def test_an_error_with_a_good_status_is_never_priced():
    assert read({"error": {"message": "no"}}) == Reading(NOTHING, complete=False, failed=True)
    assert read(answer(error={"message": "no"}, usage={"total_tokens": 4})).usage == NOTHING


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_and_never_raise(body: bytes):
    assert read(body).usage == NOTHING


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_RESULT = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("index", "relevance_score", "score", "meta_info", "document"), _JSON)
)
_ANSWER = st.lists(_RESULT, max_size=3) | st.fixed_dictionaries(
    {"results": st.lists(_RESULT, max_size=3) | _JSON}, optional={"usage": _JSON, "meta": _JSON, "error": _JSON}
)


@given(_ANSWER, st.sampled_from(Engine))
@settings(max_examples=300, deadline=None)
def test_any_json_is_read_and_what_is_complete_can_be_shown(found, engine: Engine):
    body, call = json.dumps(found).encode(), call_for(asked())
    reading = read(body, call, engine)
    if reading.complete:
        assert reading.usage.amount(UsageType.RERANK) >= 1
        json.loads(show_rerank(engine, body, call, "id").body)


@given(st.permutations(sorted(answer())), st.permutations(["index", "relevance_score", "document"]), st.booleans())
@settings(max_examples=50, deadline=None)
def test_the_order_of_keys_changes_nothing(outer, inner, spaced):
    given_answer = answer(usage={"total_tokens": 33})
    results = [
        {key: {**result, "document": {"index": 9, "score": 9}}[key] for key in inner}
        for result in given_answer["results"]
    ]
    mixed = {key: results if key == "results" else given_answer[key] for key in [*outer, "usage"]}
    body = json.dumps(mixed, indent=1 if spaced else None).encode()
    call = call_for(asked())
    assert tokens(read(body, call)) == (33, Source.REPORTED)
    ranking = ranking_of(Engine.VLLM, body, call)
    assert ranking is not None
    assert ranking.results == [(1, b"0.75"), (0, b"0.5")]


# Counted


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return read_tokenizer(write_tokenizer(tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"))


def counted(request, tokenizer, **more) -> Quantity:
    call = count_rerank(call_for(request, tokenizer=tokenizer, **more))
    assert isinstance(call, RerankCall)
    ranking = ranking_of(Engine.TEI, json.dumps(TEI).encode(), call)
    assert ranking is not None
    return tokens_of(ranking, call)


def test_what_no_engine_told_is_counted_with_the_query_once_a_document_and_special_tokens(tokenizer):
    request = asked("un deux trois", "un, deux", query="combien ?")
    query, first, second = 2, 3, 3
    expected = (query + first + PAIR_TOKENS) + (query + second + PAIR_TOKENS)
    assert counted(request, tokenizer) == Quantity(UsageType.RERANK, expected, Source.MEASURED)


def test_a_count_is_what_the_library_makes_of_pairs(tokenizer):
    request = asked(*["mot " * size for size in range(2 * SLICE_TEXTS)], query="une question, deux")
    pairs = [(request["query"], text) for text in request["documents"]]
    encoded = tokenizer._vocabulary.encode_batch(pairs)
    assert counted(request, tokenizer, context=10**6).amount == sum(len(one) for one in encoded)


def test_a_pair_is_counted_no_further_than_the_context(tokenizer):
    assert counted(asked("mot " * 1000, "mot"), tokenizer, context=100).amount == 100 + (2 + 1 + PAIR_TOKENS)


def test_a_document_is_counted_no_further_than_was_asked_for(tokenizer):
    request = asked("mot " * 1000, "mot", max_tokens_per_doc=10)
    assert counted(request, tokenizer).amount == (2 + 10 + PAIR_TOKENS) + (2 + 1 + PAIR_TOKENS)


def test_an_estimate_is_no_longer_than_context_and_wish_either():
    def estimated(*documents, context=CONTEXT, **more):
        return tokens(read(answer(), call_for(asked(*documents, query="", **more), context=context)))[0]

    assert estimated("x" * 4000, "x" * 8, context=100) == 100 + 2
    assert estimated("x" * 4000, "x" * 8, max_tokens_per_doc=10) == 10 + 2
    assert estimated("", "") == 1


def test_an_estimate_goes_by_the_bytes_of_the_text_and_not_of_its_escapes():
    escaped = call_for(asked("é" * 40, '"\n' * 40))
    assert b"\\u00e9" in escaped.body
    assert tokens(read(answer(), escaped))[0] == 2 * quarter("a query") + 20 + 20


def test_what_an_engine_told_wins_over_a_count(tokenizer):
    call = count_rerank(call_for(asked(), tokenizer=tokenizer))
    assert isinstance(call, RerankCall)
    assert call.tokens_counted is not None
    assert tokens(read(answer(usage={"total_tokens": 40}), call)) == (40, Source.REPORTED)


def test_nothing_is_counted_without_a_tokenizer_or_when_not_all_is_text(tokenizer):
    plain = call_for(asked())
    assert count_rerank(plain) is plain
    seeing = call_for({"query": "q", "documents": ["x", {"content": [{"type": "text", "text": "y"}]}]})
    seeing = structs.replace(seeing, model=structs.replace(seeing.model, tokenizer=tokenizer))
    assert count_rerank(seeing) is seeing
    assert tokens(read(answer(), seeing))[0] > 2


def test_a_count_is_never_zero(tokenizer):
    assert counted(asked("", ""), tokenizer, context=0).amount == 1


def test_a_tokenizer_that_gives_up_says_so(tokenizer):
    with pytest.raises(TokenizerError):
        tokenizer.count(["\ud800"])
