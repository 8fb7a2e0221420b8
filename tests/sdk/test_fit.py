"""Clients that would rather have less: each of them can say so in its own way, and gets what remains of the month."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from langchain_openai import ChatOpenAI

from tests.sdk.samples import MODEL
from tests.support.clients import node

LONG = "SIM:tokens=900"
MESSAGES = [{"role": "user", "content": LONG}]
FIT = {"X-RateLimit-Fit": "true"}


def openai_python(service, key):
    with openai.OpenAI(api_key=key, base_url=service.base_url) as client:
        answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=900, extra_headers=FIT)
        return answer.usage.completion_tokens, answer.choices[0].finish_reason


def openai_python_with_its_headers(service, key):
    with openai.OpenAI(api_key=key, base_url=service.base_url, default_headers=FIT) as client:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, max_tokens=900)
        assert raw.headers["x-ratelimit-fit"] == "lowered"
        return int(raw.headers["x-ratelimit-fit-max-tokens"]), raw.parse().choices[0].finish_reason


def langchain(service, key):
    chat = ChatOpenAI(api_key=key, base_url=service.base_url, model=MODEL, max_tokens=900, default_headers=FIT)
    answer = chat.invoke(LONG)
    return answer.usage_metadata["output_tokens"], answer.response_metadata["finish_reason"]


def in_node(code):
    def ask(service, key):
        environ = {"BASE_URL": service.base_url, "KEY": key, "MODEL": MODEL, "LONG": LONG, "FIT": json.dumps(FIT)}
        tokens, reason = node(f"const env = process.env, headers = JSON.parse(env.FIT); {code}", **environ)
        return tokens, reason

    return ask


CLIENTS = {
    "openai-python": openai_python,
    "openai-python's headers": openai_python_with_its_headers,
    "langchain": langchain,
    "openai-node": in_node(
        """
        const OpenAI = require('openai');
        const client = new OpenAI({ apiKey: env.KEY, baseURL: env.BASE_URL });
        const messages = [{ role: 'user', content: env.LONG }];
        const body = { model: env.MODEL, messages, max_tokens: 900 };
        const answer = await client.chat.completions.create(body, { headers });
        return [answer.usage.completion_tokens, answer.choices[0].finish_reason];
        """
    ),
    "ai-sdk": in_node(
        """
        const { generateText } = require('ai');
        const { createOpenAICompatible } = require('@ai-sdk/openai-compatible');
        const provider = createOpenAICompatible({ name: 'tollgate', apiKey: env.KEY, baseURL: env.BASE_URL });
        const model = provider(env.MODEL);
        const answer = await generateText({ model, prompt: env.LONG, maxOutputTokens: 900, headers });
        return [answer.usage.outputTokens, answer.finishReason];
        """
    ),
}


@pytest.fixture(scope="module")
def fitted(service):
    """What each client got of a month that is all but spent, all of them at the same time."""
    keys = service.spent_keys(len(CLIENTS))
    with ThreadPoolExecutor(len(CLIENTS)) as threads:
        asked = {
            name: threads.submit(ask, service, key) for (name, ask), key in zip(CLIENTS.items(), keys, strict=True)
        }
        return {name: future.result() for name, future in asked.items()}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_that_says_so_gets_what_remains(fitted, client):
    tokens, reason = fitted[client]
    assert 0 < tokens < 400
    assert reason == "length"
