"""What clients do by themselves on a 429: those that can wait do, and what no wait helps against is not knocked at again.

Each client has its own settings as its authors ship them. What is counted is what the proxy was asked.
"""

import json
import time

import cohere
import openai
import pytest
from langchain_openai import ChatOpenAI

from tests.sdk.samples import DOCUMENTS, HELLO, MODEL, QUESTION, RERANK
from tests.support.clients import node
from tests.support.service import BURST_WINDOW_S

LONG = ["Un document de mille et quelques lettres. " * 30]
"""Costs more than what is left of a month that is all but spent."""


def openai_python(service, key: str) -> None:
    with openai.OpenAI(api_key=key, base_url=service.base_url) as client:
        client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=400)


def langchain(service, key: str) -> None:
    ChatOpenAI(api_key=key, base_url=service.base_url, model=MODEL, max_tokens=400).invoke("Bonjour !")


def cohere_v1(service, key: str) -> None:
    cohere.Client(api_key=key, base_url=service.root).rerank(model=RERANK, query=QUESTION, documents=LONG)


def cohere_v2(service, key: str) -> None:
    cohere.ClientV2(api_key=key, base_url=service.root).rerank(model=RERANK, query=QUESTION, documents=LONG)


class NodeError(Exception):
    """What a client in Node.js threw."""


def in_node(code: str):
    """Return a call that is made in Node.js."""

    def call(service, key: str) -> None:
        environ = {"BASE_URL": service.base_url, "ROOT": service.root, "KEY": key, "MODEL": MODEL, "RERANK": RERANK}
        made = node("const env = process.env;" + code, **environ, QUESTION=QUESTION, DOCUMENTS=json.dumps(LONG))
        if made and "error" in made:
            raise NodeError(made["error"]["name"])

    return call


openai_node = in_node("""
    const OpenAI = require('openai');
    const client = new OpenAI({ apiKey: env.KEY, baseURL: env.BASE_URL });
    await client.chat.completions.create({
        model: env.MODEL, messages: [{ role: 'user', content: 'Bonjour !' }], max_tokens: 400,
    });
""")

ai_sdk = in_node("""
    const { generateText } = require('ai');
    const { createOpenAICompatible } = require('@ai-sdk/openai-compatible');
    const provider = createOpenAICompatible({ name: 'tollgate', apiKey: env.KEY, baseURL: env.BASE_URL });
    await generateText({ model: provider(env.MODEL), prompt: 'Bonjour !', maxOutputTokens: 400 });
""")

cohere_node = in_node("""
    const { CohereClientV2 } = require('cohere-ai');
    const client = new CohereClientV2({ token: env.KEY, environment: env.ROOT });
    await client.rerank({ model: env.RERANK, query: env.QUESTION, documents: JSON.parse(env.DOCUMENTS) });
""")

axios = in_node("""
    await require('axios').post(
        `${env.BASE_URL}/chat/completions`,
        { model: env.MODEL, messages: [{ role: 'user', content: 'Bonjour !' }], max_tokens: 400 },
        { headers: { Authorization: `Bearer ${env.KEY}` } },
    );
""")

CLIENTS = {
    "openai-python": openai_python,
    "langchain": langchain,
    "cohere-v1": cohere_v1,
    "cohere-v2": cohere_v2,
    "openai-node": openai_node,
    "ai-sdk": ai_sdk,
    "cohere-node": cohere_node,
}
RATE_LIMITED = (openai.RateLimitError, cohere.TooManyRequestsError, NodeError)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_short_wait_is_waited_for_and_then_succeeds(service, client):
    key = service.new_key("bursts")
    began = time.monotonic()
    with service.sees("bursts", _200=2, _429=1):
        CLIENTS[client](service, key)
        CLIENTS[client](service, key)
    assert time.monotonic() - began >= BURST_WINDOW_S - 0.1


REFUSALS_OF_A_SPENT_MONTH = {
    # These look at x-should-retry:
    "openai-python": 1,
    "langchain": 1,
    "openai-node": 1,
    # These do not look at any header that could tell them, and knock two times more, seconds apart:
    "cohere-v1": 3,
    "cohere-v2": 3,
    "cohere-node": 3,
    "ai-sdk": 3,
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_spent_month_is_not_waited_for(service, client):
    key = service.spent_key()
    with service.sees("poor", _429=REFUSALS_OF_A_SPENT_MONTH[client]), pytest.raises(RATE_LIMITED):
        CLIENTS[client](service, key)


def test_clients_without_retries_are_told_how_long_to_wait(service):
    key = service.new_key("bursts")
    with service.sees("bursts", _200=1, _429=1):
        axios(service, key)
        with pytest.raises(NodeError, match="AxiosError"):
            axios(service, key)
    headers = service.post("chat/completions", {"model": MODEL, "messages": HELLO, "max_tokens": 5}, key).headers
    assert headers["X-RateLimit-Remaining-Requests"] == "0"
    assert 1 <= int(headers["Retry-After"]) <= BURST_WINDOW_S


def test_a_spent_month_offers_no_wait_to_sleep(service):
    key = service.spent_key()
    answer = service.post("chat/completions", {"model": MODEL, "messages": HELLO, "max_tokens": 400}, key)
    assert answer.status_code == 429
    assert answer.headers["X-RateLimit-Bound"] == "budget_month"
    assert answer.headers["x-should-retry"] == "false"
    assert "Retry-After" not in answer.headers
