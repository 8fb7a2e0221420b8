"""A completion request is a chat or a prompt: which of them, what bounds it, and what its engine is asked."""

import json

import pytest

from proxy.core.calls import Terms
from proxy.core.calls.chat import TEMPLATE_TOKENS, prepare_chat
from proxy.core.calls.completions import CHAT_ROUTE, PromptedChat, prepare_completion
from proxy.core.catalogue import Engine, Model, Upstream
from proxy.core.errors import ApiError

ROUTE = "/v1/completions"
BOTH = (CHAT_ROUTE, ROUTE)
PROMPT_PROBLEM = "must be a string, an array of strings, an array of token ids, or an array of arrays of token ids"


def terms(endpoints=BOTH, engine=Engine.VLLM, upstream_model="gpt-oss:120b"):
    upstream = Upstream("cluster", "http://127.0.0.1:9900", engine)
    model = Model("gpt-oss:120b", endpoints, 60_000, (upstream,), upstream_model, aliases=("gpt",))
    return Terms({"gpt-oss:120b": model, "gpt": model}, 1024)


def prepare(request, **options):
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return prepare_completion(body, ROUTE, terms(**options))


def prompted(request, **options):
    call = prepare(request, endpoints=(ROUTE,), **options)
    assert isinstance(call, PromptedChat)
    return call


def sent(call):
    return json.loads(call.body)


def classic(prompt="Once upon", **more):
    return {"model": "gpt-oss:120b", "prompt": prompt, **more}


def chat(*messages, **more):
    messages = messages or ({"role": "user", "content": "hi"},)
    return {"model": "gpt-oss:120b", "messages": list(messages), **more}


def refusal(request, **options):
    with pytest.raises(ApiError) as caught:
        prepare(request, **options)
    assert caught.value.status == 400
    return json.loads(caught.value.body)["error"]


# Which of the two it is


@pytest.mark.parametrize(
    "more",
    [
        {"max_tokens": 100, "temperature": 0.7},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}, "n": 3},
        {"max_completion_tokens": 7, "tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "auto"},
        {"logprobs": True, "top_logprobs": 3},
    ],
)
def test_a_chat_is_prepared_as_the_chat_route_would(more):
    body = json.dumps(chat(**more)).encode()
    assert prepare(body) == prepare_chat(body, CHAT_ROUTE, terms())
    assert prepare(body).upstream_route == CHAT_ROUTE


def test_a_chat_with_an_image_has_it_in_the_standard_form():
    image = {"role": "user", "content": [{"type": "image", "image": "data:a"}]}
    call = prepare(chat(image, max_tokens=5))
    assert sent(call)["messages"][0]["content"] == [{"type": "image_url", "image_url": {"url": "data:a"}}]


@pytest.mark.parametrize("endpoints", [BOTH, (ROUTE,)])
def test_a_prompt_is_sent_to_the_route_that_it_came_by(endpoints):
    body = json.dumps(classic(max_tokens=5, suffix="end", echo=True, logprobs=2, stop=["\n"]), indent=1).encode()
    call = prepare(body, endpoints=endpoints)
    assert call.upstream_route == ROUTE
    assert call.body is body
    assert not isinstance(call, PromptedChat)


def test_a_request_with_neither_names_the_documented_parameter():
    error = refusal({"model": "gpt-oss:120b"})
    assert error == {
        "message": "Invalid parameter 'messages': must be an array with at least one message object, unless there is"
        " a 'prompt'",
        "type": "invalid_request_error",
        "param": "messages",
    }
    assert refusal({"model": "gpt-oss:120b", "prompt": None, "messages": []})["param"] == "messages"


def test_a_request_with_both_is_refused():
    error = refusal({**classic(), **chat()})
    assert error["message"] == "Invalid parameter 'prompt': must not be given together with 'messages'"
    assert error["param"] == "prompt"


@pytest.mark.parametrize(
    ("more", "param", "problem"),
    [
        ({"prompt": 5}, "prompt", PROMPT_PROBLEM),
        ({"prompt": {}}, "prompt", PROMPT_PROBLEM),
        ({"prompt": []}, "prompt", PROMPT_PROBLEM),
        ({"prompt": [[]]}, "prompt", PROMPT_PROBLEM),
        ({"prompt": ["a", 5]}, "prompt", PROMPT_PROBLEM),
        ({"prompt": [1.5]}, "prompt", PROMPT_PROBLEM),
        ({"prompt": [True]}, "prompt", PROMPT_PROBLEM),
        ({"prompt": [[1], "a"]}, "prompt", PROMPT_PROBLEM),
        ({"prompt": [[1], [None]]}, "prompt", PROMPT_PROBLEM),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds", "is not supported"),
        ({"max_tokens": -1}, "max_tokens", "must be an integer of at least 1"),
        ({"max_tokens": 0}, "max_tokens", "must be an integer of at least 1, or 0 with 'echo'"),
        ({"best_of": 0}, "best_of", "must be an integer between 1 and 128"),
        ({"n": 129}, "n", "must be an integer between 1 and 128"),
        ({"echo": "yes"}, "echo", "must be a boolean"),
        ({"temperature": 3}, "temperature", "must be between 0 and 2"),
        ({"top_p": 2}, "top_p", "must be between 0 and 1"),
        ({"stream": 1}, "stream", "must be a boolean"),
    ],
)
def test_a_wrong_parameter_of_a_prompt_is_named(more, param, problem):
    assert refusal({**classic(), **more}) == {
        "message": f"Invalid parameter '{param}': {problem}",
        "type": "invalid_request_error",
        "param": param,
    }


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "echo": True}, "max_tokens"),
        ({"tools": {}}, "tools"),
    ],
)
def test_a_wrong_parameter_of_a_chat_is_named(more, param):
    assert refusal(chat(**more))["param"] == param


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_a_400(body):
    assert refusal(body)["type"] == "invalid_request_error"


@pytest.mark.parametrize("request_", [classic(model="nope"), chat(model="nope")])
def test_an_unknown_model_is_the_documented_404(request_):
    with pytest.raises(ApiError) as caught:
        prepare(request_)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_a_model_of_chats_alone_is_not_found_here():
    with pytest.raises(ApiError) as caught:
        prepare(classic(), endpoints=(CHAT_ROUTE,))
    assert caught.value.status == 404


# A prompt


@pytest.mark.parametrize(
    ("request_", "output", "choices"),
    [
        (classic(), 1024, 1),
        (classic(max_tokens=7), 7, 1),
        (classic(max_tokens=7, max_completion_tokens=9), 9, 1),
        (classic(max_completion_tokens=9), 9, 1),
        (classic(max_tokens=7, n=3), 21, 3),
        (classic(["a", "b"], max_tokens=7), 14, 2),
        (classic(["a", "b"], max_tokens=7, n=3), 42, 6),
        (classic(["a", "b"], max_tokens=7, n=2, best_of=5), 70, 4),
        (classic(max_tokens=7, n=5, best_of=2), 35, 5),
        (classic([1, 2, 3], max_tokens=7), 7, 1),
        (classic([[1, 2], [3]], max_tokens=7), 14, 2),
        (classic(max_tokens=0, echo=True), 1, 1),
        (classic(["a", "b"], max_tokens=0, echo=True), 2, 2),
        (classic(max_tokens=1_000_000), 60_000, 1),
    ],
)
def test_its_output_is_bounded_for_every_answer_that_may_be_generated(request_, output, choices):
    call = prepare(request_)
    assert (call.output_tokens_max, call.choices) == (output, choices)


def test_the_documented_default_is_forwarded():
    assert sent(prepare(classic()))["max_tokens"] == 1024
    assert sent(prepare(classic(max_tokens=None)))["max_tokens"] == 1024
    assert sent(prepare(classic(max_completion_tokens=9)))["max_tokens"] == 9


def test_token_ids_are_counted_and_texts_bounded_by_their_bytes():
    call = prepare(classic([1234] * 100, max_tokens=5))
    assert call.input_tokens_max == 101
    assert call.prompt_bytes == 400
    call = prepare(classic([[1] * 10, [2] * 20], max_tokens=5))
    assert call.input_tokens_max == 32
    body = json.dumps(classic(max_tokens=5)).encode()
    assert prepare(body).input_tokens_max == len(body) + TEMPLATE_TOKENS
    assert prepare(body).prompt_bytes == len(body)


def test_each_of_several_prompts_may_fill_the_context():
    assert prepare(classic(["x" * 70_000], max_tokens=5)).input_tokens_max == 60_000
    two = classic(["x" * 70_000] * 2, max_tokens=5)
    assert prepare(two).input_tokens_max == 120_000
    assert prepare(classic([[7] * 70_000] * 2, max_tokens=5)).input_tokens_max == 120_000


def test_usage_is_asked_for_in_every_stream_of_a_prompt():
    call = prepare(classic(max_tokens=5, stream=True))
    assert sent(call)["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert (call.stream, call.forward_usage, call.strip_continuous) == (True, False, True)
    call = prepare(classic(max_tokens=5, stream=True, stream_options={"include_usage": True}), engine=Engine.OLLAMA)
    assert sent(call)["stream_options"] == {"include_usage": True}
    assert (call.forward_usage, call.strip_continuous) == (True, True)


def test_only_what_must_change_in_a_prompt_changes():
    body = b'{"prompt" : "\\u00e9\\/", "model":"gpt", "x": 1.50, "x": [1e3]}'
    call = prepare(body, upstream_model="openai/gpt-oss-120b")
    assert call.body == (
        b'{"max_tokens":1024,"prompt" : "\\u00e9\\/", "model":"openai/gpt-oss-120b", "x": 1.50, "x": [1e3]}'
    )


# A chat for an engine that knows prompts alone


def said(role, content):
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([said("user", "Complétez: L'IA est")], "Complétez: L'IA est"),
        ([said("system", "Be brief.")], "Be brief."),
        (
            [said("system", "Be brief."), said("user", "Bonjour")],
            "System: Be brief.\n\nUser: Bonjour\n\nAssistant:",
        ),
        (
            [said("developer", "D"), said("user", "A"), said("assistant", "B"), said("user", "C")],
            "System: D\n\nUser: A\n\nAssistant: B\n\nUser: C\n\nAssistant:",
        ),
        ([said("user", "A"), said("assistant", "B and")], "User: A\n\nAssistant: B and"),
        ([said("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])], "a\nb"),
    ],
)
def test_messages_become_a_prompt(messages, prompt):
    call = prompted(chat(*messages, max_tokens=5))
    assert call.upstream_route == ROUTE
    assert sent(call) == {"model": "gpt-oss:120b", "prompt": prompt, "max_tokens": 5}


def test_what_a_prompt_knows_too_is_kept_and_what_is_a_chats_own_is_not():
    more = {"temperature": 0.7, "stop": ["\n"], "n": 2, "seed": 3, "user": "u", "x_unknown": {"a": [1]}}
    own = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "logprobs": False, "top_logprobs": None}
    call = prompted(chat(**more, **own, max_tokens=5), upstream_model="base")
    assert sent(call) == {"model": "base", "prompt": "hi", "max_tokens": 5, **more}
    assert (call.choices, call.output_tokens_max) == (2, 10)


def test_numbers_of_a_chat_made_a_prompt_keep_their_form():
    body = b'{"model":"gpt","messages":[{"role":"user","content":"hi"}],"temperature":1e-1,"top_p":1.00,"max_tokens":5}'
    assert b'"temperature":1e-1,"top_p":1.00' in prompted(body).body


@pytest.mark.parametrize(
    ("more", "max_tokens", "bound"),
    [
        ({}, 1024, 1024),
        ({"max_tokens": 7}, 7, 7),
        ({"max_completion_tokens": 7}, 7, 7),
        ({"max_tokens": 100, "max_completion_tokens": 7}, 7, 100),
        ({"max_tokens": 7, "n": 2, "best_of": 4}, 7, 28),
    ],
)
def test_a_chat_made_a_prompt_is_bounded(more, max_tokens, bound):
    call = prompted(chat(**more))
    assert sent(call)["max_tokens"] == max_tokens
    assert call.output_tokens_max == bound


@pytest.mark.parametrize(
    ("more", "logprobs"),
    [({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 3}, 3), ({"logprobs": None}, None)],
)
def test_logprobs_of_a_chat_become_those_of_a_prompt(more, logprobs):
    assert sent(prompted(chat(**more))).get("logprobs") == logprobs


def test_a_chat_made_a_prompt_is_metered_like_any_stream():
    call = prompted(chat(stream=True))
    assert sent(call)["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert (call.stream, call.forward_usage, call.strip_continuous) == (True, False, True)


IMAGE = {"type": "image_url", "image_url": {"url": "data:a"}}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}],
}


@pytest.mark.parametrize(
    ("request_", "param", "problem"),
    [
        (chat(said("user", [IMAGE])), "messages", "must be text, as this model reads nothing else"),
        (chat(said("user", [{"type": "text"}])), "messages", "must be text, as this model reads nothing else"),
        (chat(said("user", None)), "messages", "must be text, as this model reads nothing else"),
        (chat(said("tool", "22")), "messages", "must be text, as this model reads nothing else"),
        (chat(CALL), "messages", "must be text, as this model reads nothing else"),
        (chat({**CALL, "content": "x"}), "messages", "must be text, as this model reads nothing else"),
        (chat({"content": "x"}), "messages", "must be text, as this model reads nothing else"),
        (chat(tools=[{"type": "function"}]), "tools", "is not supported by this model"),
        (chat(tool_choice="required"), "tool_choice", "is not supported by this model"),
        (chat(tool_choice={"type": "function"}), "tool_choice", "is not supported by this model"),
        (chat(logprobs=3), "logprobs", "must be a boolean"),
        (chat(logprobs=True, top_logprobs=21), "top_logprobs", "must be an integer between 0 and 20"),
        (chat(logprobs=True, top_logprobs="3"), "top_logprobs", "must be an integer between 0 and 20"),
    ],
)
def test_what_a_prompt_cannot_express_is_refused(request_, param, problem):
    assert refusal(request_, endpoints=(ROUTE,)) == {
        "message": f"Invalid parameter '{param}': {problem}",
        "type": "invalid_request_error",
        "param": param,
    }
