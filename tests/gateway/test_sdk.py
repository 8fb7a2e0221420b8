"""The OpenAI Python SDK as its authors ship it, against a real ``tollgate serve``: it must notice nothing unusual."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.support.process import Tollgate, eventually, serving, simulator
from tests.support.stack import MODEL, write_config

HELLO = [{"role": "user", "content": "Bonjour !"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_current_weather",
            "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
        },
    }
]
BURST, BURST_WINDOW_S = 3, 2
TIERS = f"""
tiers:
  wide:
    {{title: Wide, purchase_credit: none, monthly_limit: 1000, output_tokens_hour: 1000000,
      output_tokens_day: 10000000, requests: 1000}}
  bursts:
    {{title: Bursts, purchase_credit: none, monthly_limit: 1000, output_tokens_hour: 1000000,
      output_tokens_day: 10000000, requests: {BURST}, requests_window_s: {BURST_WINDOW_S}}}
  poor:
    {{title: Poor, purchase_credit: none, monthly_limit: 0.01, output_tokens_hour: 1000000,
      output_tokens_day: 10000000}}
"""
DOCUMENTED_EXAMPLE = """
from openai import OpenAI

# It is recommended to protect your API key using environment variables.
# Example: api_key=os.getenv("LLMAAS_API_KEY")
client = OpenAI(
    api_key="VOTRE_TOKEN_API",
    base_url="https://api.ai.cloud-temple.com/v1"
)

try:
    response = client.chat.completions.create(
        model="gpt-oss:120b",
        messages=[
            {"role": "user", "content": "Bonjour !"}
        ],
        max_tokens=50  # Added max_tokens for consistency with tests
    )
    print(response.choices[0].message.content)
except Exception as e:
    print(f"Erreur OpenAI SDK: {e}")
"""


class Served:
    """A running proxy and a key for each tier."""

    def __init__(self, tollgate: Tollgate) -> None:
        self.tollgate = tollgate
        self.base_url = f"{tollgate.url}/v1"
        self.keys = tollgate.create_accounts(wide="wide", bursts="bursts", poor="poor")
        with self.client("poor", max_retries=20) as client:  # the last key is known within half a second

            def is_known() -> bool:
                with contextlib.suppress(openai.AuthenticationError):
                    client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
                    return True
                return False

            eventually(is_known)

    def client(self, tier: str = "wide", **options: object) -> OpenAI:
        """A client as a customer makes it; a test says when it may try again."""
        return OpenAI(api_key=self.keys.get(tier, tier), base_url=self.base_url, **{"max_retries": 0, **options})

    def calls(self, **labels: str) -> int:
        """How many calls the proxy has seen."""
        return int(self.tollgate.metrics().total("tollgate_calls_total", **labels))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("sdk")
    config = write_config(folder)
    (config / "tiers.yaml").write_text(TIERS)
    with simulator(folder) as cluster, serving(Tollgate(folder / "proxy", cluster, config=config)) as tollgate:
        yield Served(tollgate)


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    with served.client() as client:
        yield client


# What it is for


def test_a_plain_answer(client):
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id == answer._request_id.lower() != ""


def test_several_choices(client):
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.message.content for choice in answer.choices)


def test_a_stream(client):
    with client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20, stream=True) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason in {"stop", "length"}
    assert all(chunk.usage is None for chunk in chunks)  # which also says that no chunk came without a choice


def test_a_stream_with_usage_asked_for(client):
    with client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=20, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_tools(client):
    asked = [{"role": "user", "content": "TOOL please"}]
    whole = client.chat.completions.create(model=MODEL, messages=asked, tools=TOOLS)
    assert whole.choices[0].finish_reason == "tool_calls"
    assert whole.choices[0].message.tool_calls[0].function.name == "get_current_weather"
    with client.chat.completions.stream(model=MODEL, messages=asked, tools=TOOLS) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.name == "get_current_weather"
    said = whole.choices[0].message
    result = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": '{"temperature": "22"}'}
    told = client.chat.completions.create(model=MODEL, messages=[*asked, said, result], max_tokens=20)
    assert told.choices[0].message.content


async def test_the_asynchronous_client(served):
    async with AsyncOpenAI(api_key=served.keys["wide"], base_url=served.base_url, max_retries=0) as client:
        whole = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20)
        assert whole.choices[0].message.content
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model=MODEL, messages=HELLO, max_tokens=20, stream=True
            )
        ]
        assert chunks[-1].choices[0].finish_reason
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="unknown-model", messages=HELLO)


def test_limit_headers_are_there_for_whole_answers_and_streams(client):
    for stream in (False, True):
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=5, stream=stream)
        assert raw.headers["X-RateLimit-Limit-Requests"] == "1000"
        assert 0 <= int(raw.headers["X-RateLimit-Remaining-Requests"]) < 1000
        assert 0 <= int(raw.headers["X-RateLimit-Reset-Requests"]) - time.time() <= 61
        assert raw.headers["X-RateLimit-Limit-Output-Tokens-Hour"] == "1000000"
        assert raw.request_id
        answer = raw.parse()
        assert list(answer) if stream else answer.choices


def test_what_it_says_it_used_is_what_the_ledger_says(served):
    tollgate = served.tollgate
    before = tollgate.usage("wide")
    with served.client() as client:
        answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20)

    def is_there():
        after = tollgate.usage("wide")
        return after if after["calls"] == before["calls"] + 1 else None

    after = eventually(is_there)

    def output(usage):
        return sum(line["quantity"] for line in usage["usage"] if line["type"] == "output")

    assert output(after) - output(before) == answer.usage.completion_tokens


# Errors, each as the SDK's own


def test_a_wrong_key(served):
    with served.client("tg-wrong") as client, pytest.raises(openai.AuthenticationError) as raised:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert raised.value.status_code == 401
    assert raised.value.body == {"message": "Invalid API key provided", "type": "authentication_error"}


def test_an_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="unknown-model", messages=HELLO)
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    assert raised.value.body["message"] == "Model 'unknown-model' does not exist"


def test_a_wrong_parameter(client):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=MODEL, messages=HELLO, temperature=3)
    assert raised.value.param == "temperature"
    assert raised.value.body["message"] == "Invalid parameter 'temperature': must be between 0 and 2"


@pytest.mark.parametrize("status", [500, 503])
def test_an_upstream_in_trouble(client, status):
    said = [{"role": "user", "content": f"SIM:status={status}"}]
    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model=MODEL, messages=said)
    assert raised.value.status_code == status


def test_a_stream_whose_upstream_dies_raises_and_is_not_billed(served, client):
    before = served.tollgate.usage("wide")["cost_eur"]
    said = [{"role": "user", "content": "SIM:drop-after=5 SIM:tokens=50"}]
    got = []
    with pytest.raises(openai.APIError, match="Service temporarily unavailable") as raised:
        got.extend(client.chat.completions.create(model=MODEL, messages=said, stream=True))
    assert got, "what had been made before was not passed on"
    assert raised.value.type == "service_unavailable_error"
    eventually(lambda: served.tollgate.metrics().total("tollgate_outbox_entries") == 0)
    assert served.tollgate.usage("wide")["cost_eur"] == before


# Limits


def call(client: OpenAI, *, times: int, max_tokens: int) -> None:
    for _ in range(times):
        client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=max_tokens)


def test_a_short_wait_is_waited_for_and_then_succeeds(served):
    with served.client("bursts", max_retries=2) as client:
        began = time.monotonic()
        call(client, times=BURST + 1, max_tokens=5)
    assert served.calls(tier="bursts", status="200") == BURST + 1
    assert served.calls(tier="bursts", status="429") >= 1, "nothing was refused: nothing is shown"
    assert time.monotonic() - began >= BURST_WINDOW_S - 0.1


def test_a_refusal_without_retries_is_a_rate_limit_error(served):
    time.sleep(BURST_WINDOW_S)
    with served.client("bursts") as client, pytest.raises(openai.RateLimitError) as raised:
        call(client, times=BURST + 1, max_tokens=5)
    assert raised.value.code == "rate_limit_exceeded"
    assert raised.value.type == "rate_limit_error"
    headers = raised.value.response.headers
    assert headers["X-RateLimit-Remaining-Requests"] == "0"
    assert 1 <= int(headers["Retry-After"]) <= BURST_WINDOW_S


def test_a_spent_month_stops_a_client_at_once(served):
    """A cent buys some 1,200 tokens: then the SDK must not knock again, for the whole month."""
    with served.client("poor", max_retries=5) as client:
        paid = served.calls(tier="poor", status="200")
        for refusals in (1, 2):
            began = time.monotonic()
            with pytest.raises(openai.RateLimitError) as raised:
                call(client, times=100, max_tokens=400)
            assert raised.value.code == "rate_limit_exceeded"
            assert raised.value.response.headers["X-RateLimit-Bound"] == "budget_month"
            assert "Retry-After" not in raised.value.response.headers
            assert served.calls(tier="poor", status="429") == refusals, "the SDK has tried again"
        assert time.monotonic() - began < 2
    assert served.calls(tier="poor", status="200") > paid


# The documentation


def test_the_documented_example_runs_as_it_stands(served, tmp_path):
    text = DOCUMENTED_EXAMPLE.replace("VOTRE_TOKEN_API", served.keys["wide"])
    text = re.sub(r"https://[^\"]+/v1", served.base_url, text)
    (tmp_path / "example.py").write_text(text)
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "example.py")],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Erreur" not in done.stdout
