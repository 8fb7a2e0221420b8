"""Each documented error as each SDK's own: the class that customers catch, with what it carries.

The bodies themselves are held to the letter in tests/gateway/test_documented_errors.py.
"""

import json

import cohere
import openai
import pytest
from langchain_openai import ChatOpenAI

from tests.sdk.samples import DOCUMENTED_ERRORS, DOCUMENTS, HELLO, MODEL, QUESTION, RERANK, said
from tests.support.clients import node

STATUSES = list(DOCUMENTED_ERRORS)


class Case:
    """A call that is answered with a status: the key to make it with, and what makes it fail."""

    def __init__(self, service, status: int) -> None:
        self.status = status
        self.error = DOCUMENTED_ERRORS[status]
        self.key = {401: "tg-wrong", 429: service.full_key}.get(status, service.key)
        self.chat = {
            "model": "unknown-model" if status == 404 else MODEL,
            "messages": said(f"SIM:status={status}") if status >= 500 else HELLO,
            "max_tokens": 5,
        } | ({"temperature": 2.5} if status == 400 else {})


@pytest.fixture
def case(request, service):
    return Case(service, request.param)


# OpenAI Python

OPENAI = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    404: openai.NotFoundError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    503: openai.InternalServerError,
}


@pytest.mark.parametrize("case", STATUSES, indirect=True)
def test_openai_python(service, case):
    with (
        openai.OpenAI(api_key=case.key, base_url=service.base_url, max_retries=0) as client,
        pytest.raises(OPENAI[case.status]) as raised,
    ):
        client.chat.completions.create(**case.chat)
    assert type(raised.value) is OPENAI[case.status]
    assert raised.value.status_code == case.status
    assert raised.value.body == case.error
    for field in ("type", "param", "code"):
        assert getattr(raised.value, field) == case.error.get(field)
    assert raised.value.request_id


@pytest.mark.parametrize("case", STATUSES, indirect=True)
async def test_openai_python_asynchronous_and_streamed(service, case):
    async with openai.AsyncOpenAI(api_key=case.key, base_url=service.base_url, max_retries=0) as client:
        with pytest.raises(OPENAI[case.status]):
            await client.chat.completions.create(**case.chat, stream=True)


def test_a_stream_whose_upstream_dies_raises_and_is_not_billed(service):
    key = service.new_key("wide")
    asked = said("SIM:drop-after=5 SIM:tokens=50")
    got = []
    with openai.OpenAI(api_key=key, base_url=service.base_url, max_retries=0) as client:
        stream = client.chat.completions.create(model=MODEL, messages=asked, stream=True)
        with pytest.raises(openai.APIError, match="Service temporarily unavailable") as raised:
            got.extend(stream)
    assert got, "what had been made before was not passed on"
    assert raised.value.type == "service_unavailable_error"
    assert float(service.usage(key)["total"]) == 0


# OpenAI Node

OPENAI_NODE = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "InternalServerError",
}


def test_openai_node(service):
    cases = [Case(service, status) for status in STATUSES]
    made = node(
        """
        const OpenAI = require('openai');
        const made = [];
        for (const { key, body } of JSON.parse(process.env.CASES)) {
            const client = new OpenAI({ apiKey: key, baseURL: process.env.BASE_URL, maxRetries: 0 });
            await client.chat.completions.create(body).catch(error => made.push({
                name: error.constructor.name, status: error.status, error: error.error, id: error.requestID,
            }));
        }
        return made;
        """,
        BASE_URL=service.base_url,
        CASES=json.dumps([{"key": case.key, "body": case.chat} for case in cases]),
    )
    assert all(one.pop("id") for one in made)
    assert made == [{"name": OPENAI_NODE[case.status], "status": case.status, "error": case.error} for case in cases]


# LangChain: its own classes where it has some, which are the SDK's as well


@pytest.mark.parametrize("case", STATUSES, indirect=True)
def test_langchain(service, case):
    chat = ChatOpenAI(
        api_key=case.key,
        base_url=service.base_url,
        model=case.chat["model"],
        temperature=case.chat.get("temperature"),
        max_retries=0,
    )
    with pytest.raises(OPENAI[case.status]) as raised:
        chat.invoke(case.chat["messages"][0]["content"])
    assert raised.value.body == case.error


# Cohere

COHERE = {
    400: cohere.BadRequestError,
    401: cohere.UnauthorizedError,
    404: cohere.NotFoundError,
    429: cohere.TooManyRequestsError,
    500: cohere.InternalServerError,
    503: cohere.ServiceUnavailableError,
}


@pytest.mark.parametrize("version", [cohere.Client, cohere.ClientV2])
@pytest.mark.parametrize("status", list(COHERE))
def test_cohere(service, version, status):
    case = Case(service, status)
    with version(api_key=case.key, base_url=service.root) as client, pytest.raises(COHERE[status]) as raised:
        client.rerank(
            model="unknown-model" if status == 404 else RERANK,
            query=f"SIM:status={status}" if status >= 500 else QUESTION,
            documents=DOCUMENTS,
            top_n=-1 if status == 400 else 2,
            request_options={"max_retries": 0},
        )
    assert raised.value.status_code == status
    if status == 400:
        assert raised.value.body["error"]["param"] == "top_n"
    else:
        assert raised.value.body == {"error": case.error}
