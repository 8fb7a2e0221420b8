"""A request for embeddings is checked, bounded, and given to the model as text."""

import json

import pytest

from proxy.core.calls import Terms
from proxy.core.calls.embeddings import EXTRA_TOKENS, IDS_MAX, INPUTS_MAX, prepare_embeddings
from proxy.core.catalogue import Model, TokenIds, Upstream
from proxy.core.errors import ApiError
from proxy.settings.vocabulary import cl100k_base

ROUTE = "/v1/embeddings"
TEXTS = ["Le texte à vectoriser", "👩‍👩‍👧‍👦 famille", "日本語", 'a\x00"\\\n']
IDS = [[2356, 69067, 3869, 4724, 12329], [9906, 1917, 0]]
TEXT_OF_IDS = ["Le texte à vectoriser", "Hello world!"]


def prepare(given, *, token_ids=TokenIds.CL100K_BASE, upstream_model="granite", vocabulary=cl100k_base, **more):
    upstream = Upstream("cluster", "http://127.0.0.1:9900")
    made = Model("granite", (ROUTE,), 512, (upstream,), upstream_model, token_ids=token_ids)
    chat = Model("chat", ("/v1/chat/completions",), 512, (upstream,), "chat")
    body = given if isinstance(given, bytes) else json.dumps({"model": "granite", "input": given, **more}).encode()
    terms = Terms({"granite": made, "other-name": made, "chat": chat}, 1024, vocabulary)
    return prepare_embeddings(body, ROUTE, terms)


def refusal(given, **more):
    with pytest.raises(ApiError) as caught:
        prepare(given, **more)
    assert caught.value.status == 400
    error = json.loads(caught.value.body)["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", "input")
    return error["message"].removeprefix("Invalid parameter 'input': ")


@pytest.mark.parametrize("given", ["hi", ["hi"], TEXTS, TEXTS[3]])
@pytest.mark.parametrize(
    "more", [{}, {"encoding_format": "base64", "dimensions": 8, "user": "u", "unknown": {"a": [1]}}]
)
def test_texts_pass_untouched(given, more):
    for raw in (json.dumps, lambda value: json.dumps(value, ensure_ascii=False, indent=1)):
        body = raw({"model": "granite", "input": given, **more}).encode()
        assert prepare(body).body == body


def test_a_renamed_model_is_all_that_changes():
    body = b'{ "input" : "\\u00e9" , "model":"other-name","x":1.0e2 }'
    assert prepare(body).body == body.replace(b"other-name", b"granite")


@pytest.mark.parametrize("nested", [True, False])
def test_token_ids_become_the_text_that_they_stand_for(nested):
    call = prepare(IDS if nested else IDS[0], encoding_format="base64", user="é")
    assert json.loads(call.body) == {
        "model": "granite",
        "input": TEXT_OF_IDS if nested else TEXT_OF_IDS[0],
        "encoding_format": "base64",
        "user": "é",
    }


def test_ids_of_an_input_that_was_cut_in_a_character_become_text_with_a_mark_for_it():
    whole = [9080, 22656, 45918, 252]  # 日本語, whose last character is two tokens
    assert json.loads(prepare([whole[:3], whole[3:]]).body)["input"] == ["日本\ufffd", "\ufffd"]


@pytest.mark.parametrize("given", [IDS, IDS[0]])
def test_a_model_may_take_its_own_ids(given):
    body = json.dumps({"model": "granite", "input": given}).encode()
    call = prepare(body, token_ids=TokenIds.UPSTREAM, vocabulary=None)
    assert call.body == body
    counts = [len(ids) for ids in (given if given is IDS else [given])]
    assert call.estimated_tokens == sum(counts)
    assert call.input_tokens_max == sum(counts) + EXTRA_TOKENS * len(counts)
    assert prepare([10**9], token_ids=TokenIds.UPSTREAM).estimated_tokens == 1


@pytest.mark.parametrize("given", [IDS, IDS[0]])
def test_a_model_may_refuse_ids(given):
    problem = "must be a text or a list of texts: this model takes no token ids"
    assert refusal(given, token_ids=TokenIds.REFUSE) == problem
    assert refusal(given, vocabulary=None) == problem
    assert prepare(TEXTS, token_ids=TokenIds.REFUSE).body


@pytest.mark.parametrize("given", [[100_256], [9906, 100_270], [[1], [200_000]], [2**31 - 1]])
def test_ids_of_another_encoding_are_refused(given):
    assert refusal(given) == "holds token ids that are not of cl100k_base: send the text instead"


@pytest.mark.parametrize("token_ids", list(TokenIds))
@pytest.mark.parametrize("given", ["", [], ["a", ""]])
def test_nothing_cannot_be_embedded(given, token_ids):
    assert refusal(given, token_ids=token_ids) == "must not be empty"


@pytest.mark.parametrize("token_ids", [TokenIds.CL100K_BASE, TokenIds.UPSTREAM])
@pytest.mark.parametrize("given", [[[]], [[1], []]])
def test_no_ids_cannot_be_embedded(given, token_ids):
    assert refusal(given, token_ids=token_ids) == "must not be empty"


@pytest.mark.parametrize("token_ids", list(TokenIds))
@pytest.mark.parametrize(
    "given",
    [
        5, None, True, {}, {"text": "a"}, ["a", 1], ["a", None], ["a", ["b"]], [1, "a"], [[1], "a"], [[1], 2], [["a"]],
        [1.5], [True], [None], [-1], [2**31], [10**30], [{}], [[[1]]],
    ],
)  # fmt: skip
def test_another_shape_is_refused(given, token_ids):
    assert refusal(given, token_ids=token_ids) == "must be a text or a list of texts"


def test_nothing_nested_too_deeply_is_looked_into():
    assert refusal(b'{"model":"granite","input":[[' + b"[" * 500 + b"]" * 500 + b"]]}")
    with pytest.raises(ApiError):
        prepare(b'{"model":"granite","input":' + b"[" * 100_000)


def test_at_most_2048_inputs_are_taken():
    problem = f"must hold at most {INPUTS_MAX} inputs"
    for one in ("a", "a\\", '"', '\\"', "a" * 60, [7]):
        assert prepare([one] * INPUTS_MAX).body
        assert refusal([one] * (INPUTS_MAX + 1)) == problem
        assert refusal([one] * 120_000) == problem


def test_long_texts_with_many_quotes_are_no_more_inputs_than_they_are():
    text = 'say "\\" and, "yes" \\' * 500
    assert prepare([text] * 300).input_tokens_max == 300 * 512
    assert prepare([text] * 39 + ["x\\"] * 2009).body
    assert refusal([text] * 39 + ["x\\"] * 2010) == f"must hold at most {INPUTS_MAX} inputs"


def test_at_most_half_a_million_ids_are_taken():
    assert prepare([220] * IDS_MAX).body
    assert refusal([220] * (IDS_MAX + 1)) == f"must hold at most {IDS_MAX} token ids"


def test_an_input_is_bounded_by_its_bytes_and_by_the_context():
    assert prepare("é").input_tokens_max == 6 + EXTRA_TOKENS  # \u00e9, as it was sent
    assert prepare("x" * 10_000).input_tokens_max == 512
    assert prepare(["abc", "x" * 10_000, "d"]).input_tokens_max == 3 + EXTRA_TOKENS + 512 + 1 + EXTRA_TOKENS
    assert prepare([IDS[1], [220] * 10_000]).input_tokens_max == len("Hello world!") + EXTRA_TOKENS + 512
    assert prepare([[1] * 10_000, [1]], token_ids=TokenIds.UPSTREAM).input_tokens_max == 512 + 1 + EXTRA_TOKENS


def test_an_input_is_estimated_by_a_stated_rule():
    assert prepare("abcde").estimated_tokens == 2
    assert prepare(["abcde", "a", "b"]).estimated_tokens == 4
    assert prepare("é" * 10).estimated_tokens == 5  # 20 bytes in UTF-8, 60 as they were sent
    assert (
        prepare(json.dumps({"model": "granite", "input": "é" * 10}, ensure_ascii=False).encode()).estimated_tokens == 5
    )
    assert prepare("x" * 10_000).estimated_tokens == 512
    assert prepare(IDS).estimated_tokens == 8
    assert prepare([[220] * 10_000]).estimated_tokens == 512


@pytest.mark.parametrize("name", ["chat", "unknown"])
def test_a_model_that_serves_no_embeddings_does_not_exist_here(name):
    with pytest.raises(ApiError) as caught:
        prepare(json.dumps({"model": name, "input": "hi"}).encode())
    assert (caught.value.status, json.loads(caught.value.body)["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b'{"model":"granite"}', "input", "Invalid parameter 'input': is required"),
        (b'{"input":"a"}', "model", "Invalid parameter 'model': is required"),
        (b'{"model":5,"input":"a"}', "model", "Invalid parameter 'model': must be a string that names a model"),
        (b"{", None, "The request body is not valid JSON"),
        (b"[]", None, "The request body must be a JSON object"),
    ],
)
def test_a_request_that_is_none_is_refused(body, param, message):
    with pytest.raises(ApiError) as caught:
        prepare(body)
    error = json.loads(caught.value.body)["error"]
    assert (caught.value.status, error.get("param"), error["message"]) == (400, param, message)
