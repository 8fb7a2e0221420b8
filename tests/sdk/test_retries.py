"""What clients do by themselves on a 429: those that can wait do, and where no wait helps they are hardly heard again.

Each client has its own settings as its authors ship them. What is counted is what the proxy was asked. They wait for
seconds, so all of them wait at the same time, each with an account of its own.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import cohere
import openai
import pytest
from langchain_openai import ChatOpenAI

from tests.sdk.samples import HELLO, MODEL, QUESTION, RERANK
from tests.support.clients import node
from tests.support.process import eventually
from tests.support.service import BURST_WINDOW_S

LONG = ["Un document de deux mille lettres. " * 45]
"""Costs more than what is left of a month that is all but spent."""


def openai_python(service, key: str, calls: int) -> None:
    with openai.OpenAI(api_key=key, base_url=service.base_url) as client:
        for _ in range(calls):
            client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=400)


def langchain(service, key: str, calls: int) -> None:
    chat = ChatOpenAI(api_key=key, base_url=service.base_url, model=MODEL, max_tokens=400)
    for _ in range(calls):
        chat.invoke("Bonjour !")


def cohere_python(service, key: str, calls: int) -> None:
    with cohere.ClientV2(api_key=key, base_url=service.root) as client:
        for _ in range(calls):
            client.rerank(model=RERANK, query=QUESTION, documents=LONG)


class NodeError(Exception):
    """What a client in Node.js threw."""


def in_node(client: str, call: str):
    """Return calls that are made in Node.js."""

    def make(service, key: str, calls: int) -> None:
        environ = {"BASE_URL": service.base_url, "ROOT": service.root, "KEY": key, "MODEL": MODEL, "RERANK": RERANK}
        code = f"const env = process.env; {client} for (let i = 0; i < {calls}; i++) {{ {call} }}"
        made = node(code, **environ, QUESTION=QUESTION, DOCUMENTS=json.dumps(LONG))
        if made:
            raise NodeError(made["error"]["name"])

    return make


CLIENTS = {
    "openai-python": openai_python,
    "langchain": langchain,
    "cohere-python": cohere_python,
    "openai-node": in_node(
        """
        const OpenAI = require('openai');
        const client = new OpenAI({ apiKey: env.KEY, baseURL: env.BASE_URL });
        const messages = [{ role: 'user', content: 'Bonjour !' }];
        """,
        "await client.chat.completions.create({ model: env.MODEL, messages, max_tokens: 400 });",
    ),
    "ai-sdk": in_node(
        """
        const { generateText } = require('ai');
        const { createOpenAICompatible } = require('@ai-sdk/openai-compatible');
        const provider = createOpenAICompatible({ name: 'tollgate', apiKey: env.KEY, baseURL: env.BASE_URL });
        """,
        "await generateText({ model: provider(env.MODEL), prompt: 'Bonjour !', maxOutputTokens: 400 });",
    ),
    "cohere-node": in_node(
        """
        const { CohereClientV2 } = require('cohere-ai');
        const client = new CohereClientV2({ token: env.KEY, environment: env.ROOT });
        const documents = JSON.parse(env.DOCUMENTS);
        """,
        "await client.rerank({ model: env.RERANK, query: env.QUESTION, documents });",
    ),
    "axios": in_node(
        """
        const axios = require('axios');
        const messages = [{ role: 'user', content: 'Bonjour !' }];
        const headers = { Authorization: `Bearer ${env.KEY}` };
        """,
        """
        const body = { model: env.MODEL, messages, max_tokens: 400 };
        await axios.post(`${env.BASE_URL}/chat/completions`, body, { headers });
        """,
    ),
}
RETRYING = [name for name in CLIENTS if name != "axios"]


class Outcome:
    """What became of a client's calls: the error that it raised, if any, and how long it took."""

    def __init__(self, service, client: str, key: str, calls: int) -> None:
        self.key = key
        self.error: Exception | None = None
        began = time.monotonic()
        try:
            CLIENTS[client](service, key, calls)
        except Exception as exc:  # noqa: BLE001 - what a client raises is what is asked for
            self.error = exc
        self.seconds = time.monotonic() - began


def outcomes(service, keys: list[str], calls: int) -> dict[str, Outcome]:
    """Run all clients at the same time, each with its key."""
    with ThreadPoolExecutor(len(CLIENTS)) as threads:
        pairs = zip(CLIENTS, keys, strict=True)
        running = {name: threads.submit(Outcome, service, name, key, calls) for name, key in pairs}
        return {name: future.result() for name, future in running.items()}


@pytest.fixture(scope="module")
def hurried(service):
    """What became of two calls on each other's heels, where one may be made in two seconds."""
    return outcomes(service, service.new_keys("bursts", len(CLIENTS)), calls=2)


@pytest.fixture(scope="module")
def penniless(service):
    """What became of a call at the end of a month's money."""
    return outcomes(service, service.spent_keys(len(CLIENTS)), calls=1)


@pytest.mark.parametrize("client", RETRYING)
def test_a_short_wait_is_waited_for_and_then_succeeds(service, hurried, client):
    outcome = hurried[client]
    assert outcome.error is None
    assert outcome.seconds >= BURST_WINDOW_S - 0.1
    assert eventually(lambda: service.answered(outcome.key, 200, 429, 200)), "it was told too little or too much"


REQUESTS_OF_A_SPENT_MONTH = {
    # These obey x-should-retry:
    "openai-python": 1,
    "langchain": 1,
    "openai-node": 1,
    # No header would stop these: they try any 429 two times more, one to four seconds apart:
    "cohere-python": 3,
    "cohere-node": 3,
    "ai-sdk": 3,
    # This never tries again by itself:
    "axios": 1,
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_spent_month_is_knocked_at_no_more_than_a_client_cannot_help(service, penniless, client):
    outcome = penniless[client]
    assert isinstance(outcome.error, openai.RateLimitError | cohere.TooManyRequestsError | NodeError)
    assert eventually(lambda: service.answered(outcome.key, 200, *[429] * REQUESTS_OF_A_SPENT_MONTH[client]))


def test_a_client_without_retries_gets_the_refusal(service, hurried):
    outcome = hurried["axios"]
    assert str(outcome.error) == "AxiosError"
    assert eventually(lambda: service.answered(outcome.key, 200, 429))


def test_a_refusal_tells_how_long_to_wait(service):
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 5}
    headers = service.post("chat/completions", body, service.new_full_key()).headers
    assert headers["X-RateLimit-Remaining-Requests"] == "0"
    assert 3500 < int(headers["Retry-After"]) <= 3600
    assert headers["x-should-retry"] == "false", "no client should sleep an hour"


def test_a_spent_month_offers_no_wait_to_sleep(service):
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 400}
    (key,) = service.spent_keys(1)
    answer = service.post("chat/completions", body, key)
    assert answer.status_code == 429
    assert answer.headers["X-RateLimit-Bound"] == "budget_month"
    assert answer.headers["x-should-retry"] == "false"
    assert "Retry-After" not in answer.headers
