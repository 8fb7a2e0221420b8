"""What pages of other origins may do: call with a key, and read everything that is said to them."""

import asyncio

import pytest

from proxy.web import cors
from tests.support.ports import free_port
from tests.support.stack import CONFIG, ROUTE, chat, running, write_config

PAGE = "https://app.example"
ORIGIN = {"Origin": PAGE}
FIT = {"X-RateLimit-Fit": "true"}
ASKED = "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-retry-count"
PREFLIGHT = {**ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": ASKED}
ALWAYS_READABLE = {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified"}
"""By the Fetch standard (CORS-safelisted response-header names)."""
OF_THE_CONNECTION = {"date", "connection", "transfer-encoding", "x-accel-buffering", "vary"}
LISTED = f'cors_origins: ["{PAGE}", "http://localhost:3000"]'


@pytest.fixture
async def stack(tmp_path):
    async with running(tmp_path) as stack:
        yield stack


def said(headers):
    return {name.lower(): value for name, value in headers.items() if name.lower().startswith("access-control-")}


def vary(answer):
    return answer.headers.getall("Vary", [])


def on_an_answer(origin="*"):
    return {
        "access-control-allow-origin": origin,
        "access-control-expose-headers": ", ".join(cors.EXPOSED),
    }


async def ask(stack, method, path, *, body=None, **headers):
    sent = {"Authorization": f"Bearer {stack.key}", **headers}
    async with stack.session.request(method, stack.url + path, json=body, headers=sent) as answer:
        await answer.read()
        return answer


ANSWERS = {
    "an answer": ("POST", ROUTE, chat(max_tokens=2), 200),
    "a stream": ("POST", ROUTE, chat(max_tokens=2, stream=True), 200),
    "a stream that breaks off": ("POST", ROUTE, chat("SIM:drop-after=2 SIM:tokens=9", stream=True), 200),
    "an error of the call": ("POST", ROUTE, chat(temperature=3), 400),
    "an error of the upstream": ("POST", ROUTE, chat("SIM:status=500"), 500),
    "an unknown model": ("POST", ROUTE, {**chat(), "model": "nope"}, 404),
    "an unknown route": ("POST", "/v1/nothing", {}, 404),
    "another method": ("GET", ROUTE, None, 405),
    "a view": ("GET", "/v1/models", None, 200),
    "a view of nothing": ("GET", "/v1/usage/calls/x", None, 404),
    "a head": ("HEAD", "/v1/models", None, 200),
}


@pytest.mark.parametrize(("method", "path", "body", "status"), ANSWERS.values(), ids=ANSWERS)
async def test_every_answer_to_a_page_may_be_read_by_it_and_no_other_answer_says_so(stack, method, path, body, status):
    answer = await ask(stack, method, path, body=body, **ORIGIN)
    assert (answer.status, said(answer.headers)) == (status, on_an_answer())
    assert "Origin" not in vary(answer)
    answer = await ask(stack, method, path, body=body)
    assert (answer.status, said(answer.headers)) == (status, {})


async def test_a_page_without_a_key_is_told_so_in_words_it_may_read(stack):
    for path in (ROUTE, "/v1/models"):
        answer = await ask(stack, "POST" if path == ROUTE else "GET", path, Authorization="", **ORIGIN)
        assert (answer.status, said(answer.headers)) == (401, on_an_answer())


async def test_an_answer_too_large_for_memory_may_be_read_too(tmp_path):
    config = write_config(tmp_path, proxy=("answer_bytes_max", "collect_bytes_max: 500\n  answer_bytes_max"))
    async with running(tmp_path, config=config) as stack:
        answer = await ask(stack, "POST", ROUTE, body=chat("SIM:tokens=400", max_tokens=400), **ORIGIN)
        assert (answer.status, said(answer.headers)) == (200, on_an_answer())


async def test_a_bug_is_told_to_a_page_as_an_answer_that_it_may_read(stack, monkeypatch):
    async def broken(_incoming):
        raise RuntimeError

    monkeypatch.setattr(stack.app.gateway, "serve", broken)
    answer = await ask(stack, "POST", ROUTE, body=chat(), **ORIGIN)
    assert (answer.status, said(answer.headers)) == (500, on_an_answer())


async def test_every_header_that_we_say_may_be_read(tmp_path):
    shipped = (CONFIG / "tiers.yaml").read_text()
    tokens = shipped[shipped.index("    output_tokens_hour") : shipped.index("    requests: 1000")]
    usual = f"monthly_limit: 1000\n{tokens}    requests: 1000"
    tried = f"monthly_limit: 0.000001\n    shadow: [monthly_limit]\n{tokens}    requests: 4"
    config = write_config(tmp_path, tiers=(usual, tried))
    environ = {"TOLLGATE_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    seen = set()
    for stores in ({}, environ):  # the second is degraded: one call of four is admitted
        async with running(tmp_path / str(len(stores)), config=config, environ=stores) as stack:
            statuses = []
            for _ in range(5):
                answer = await ask(stack, "POST", ROUTE, body=chat(max_tokens=1), **ORIGIN, **FIT)
                statuses.append(answer.status)
                seen |= {name.lower() for name in answer.headers}
            assert {200, 429} == set(statuses)
    ours = {name for name in seen if not name.startswith("access-control-")} - OF_THE_CONNECTION - ALWAYS_READABLE
    assert ours == {name.lower() for name in cors.EXPOSED}


# Preflights


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        (ROUTE, "POST, OPTIONS"),
        (f"{ROUTE}?api-version=1", "POST, OPTIONS"),
        ("/v1/embeddings", "POST, OPTIONS"),
        ("/v1/models", "GET, HEAD, OPTIONS"),
        ("/v1/models/nvidia%2Fllama", "GET, HEAD, OPTIONS"),
        ("/v1/usage/calls/x", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_preflight_needs_no_key_and_allows_what_it_asks_for(stack, path, methods):
    async with stack.session.options(stack.url + path, headers=PREFLIGHT) as answer:
        assert (answer.status, await answer.read()) == (204, b"")
        assert said(answer.headers) == {
            **on_an_answer(),
            "access-control-allow-methods": methods,
            "access-control-allow-headers": ASKED,
            "access-control-max-age": "7200",
        }
        assert answer.headers["Allow"] == methods
    assert not stack.cluster.seen


async def test_a_preflight_for_what_is_not_served_is_refused(stack):
    async with stack.session.options(f"{stack.url}/v1/nothing", headers=PREFLIGHT) as answer:
        assert answer.status == 404
        assert "access-control-allow-methods" not in said(answer.headers)


@pytest.mark.parametrize(
    "asked", ["", ",", "a b", "authorization, ", "x-a;x-b", '"x"', "x-é", "x," * 2000 + "x"], ids=lambda text: text[:20]
)
def test_a_list_of_headers_that_cannot_be_read_is_answered_with_the_usual_ones(asked):
    headers = [(b"origin", b"x"), (b"access-control-request-headers", asked.encode())]
    for sent in (headers, headers[:1]):
        lines = cors.preflight_lines(sent, b"POST").split(b"\r\n")
        assert lines[1] == b"access-control-allow-headers: " + cors.USUAL


@pytest.mark.parametrize("asked", ["authorization", "Authorization, Content-Type", ASKED, "a ,\tb"])
def test_a_list_of_headers_that_can_be_read_is_allowed_as_it_is(asked):
    lines = cors.preflight_lines([(b"access-control-request-headers", asked.encode())], b"POST").split(b"\r\n")
    assert lines[1] == f"access-control-allow-headers: {asked}".encode()


async def test_a_page_of_the_internet_may_call_a_proxy_in_a_private_network(stack):
    asked = {**PREFLIGHT, "Access-Control-Request-Private-Network": "true"}
    async with stack.session.options(stack.url + ROUTE, headers=asked) as answer:
        assert answer.headers["Access-Control-Allow-Private-Network"] == "true"


async def test_an_answer_without_a_body_has_no_type_and_no_length_and_the_connection_goes_on(stack):
    reader, writer = await asyncio.open_connection("127.0.0.1", stack.app.port)
    for _ in range(2):
        writer.write(f"OPTIONS {ROUTE} HTTP/1.1\r\nHost: x\r\nOrigin: {PAGE}\r\n\r\n".encode())
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).lower()
        assert head.startswith(b"http/1.1 204 no content\r\n")
        assert b"\r\ncontent-" not in head
        assert b"connection: close" not in head
    writer.write(b"OPTIONS /v1/models HTTP/1.0\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 5)).lower().count(b"connection: close\r\n") == 1
    writer.close()


# Origins


async def test_listed_origins_are_named_and_others_told_nothing_but_served_all_the_same(tmp_path):
    config = write_config(tmp_path, proxy=('cors_origins: ["*"]', LISTED))
    async with running(tmp_path, config=config) as stack:
        for origin in (PAGE, "http://localhost:3000"):
            answer = await ask(stack, "POST", ROUTE, body=chat(max_tokens=2), Origin=origin)
            assert (answer.status, said(answer.headers)) == (200, on_an_answer(origin))
            assert "Origin" in vary(answer)
        for origin in ("https://evil.example", "null", f"{PAGE}.evil.example", f"{PAGE}:8443", "http://app.example"):
            answer = await ask(stack, "POST", ROUTE, body=chat(max_tokens=2), Origin=origin)
            assert (answer.status, said(answer.headers)) == (200, {})
            assert "Origin" in vary(answer)
            async with stack.session.options(stack.url + ROUTE, headers={**PREFLIGHT, "Origin": origin}) as answer:
                assert (answer.status, said(answer.headers)) == (204, {})
        async with stack.session.options(stack.url + ROUTE, headers=PREFLIGHT) as answer:
            assert said(answer.headers)["access-control-allow-headers"] == ASKED
            assert "Origin" in vary(answer)


async def test_a_reload_changes_who_may_and_no_origin_at_all_switches_it_off(tmp_path):
    config = write_config(tmp_path)
    async with running(tmp_path, config=config) as stack:
        path = config / "proxy.yaml"
        shipped = path.read_text()
        for setting, expected in ((LISTED, on_an_answer(PAGE)), ("cors_origins: []", {}), ("", on_an_answer())):
            path.write_text(shipped.replace('cors_origins: ["*"]', setting))
            stack.app.reload()
            answer = await ask(stack, "GET", "/v1/models", **ORIGIN)
            assert (answer.status, said(answer.headers)) == (200, expected)
            async with stack.session.options(stack.url + ROUTE, headers=PREFLIGHT) as answer:
                assert answer.status == 204
                assert ("access-control-allow-methods" in said(answer.headers)) is bool(expected)


# Between us and the upstream


async def test_where_a_page_calls_from_is_not_the_upstreams_business(stack):
    await ask(stack, "POST", ROUTE, body=chat(max_tokens=2), Referer=f"{PAGE}/chat", **ORIGIN)
    seen = stack.cluster.seen[-1].headers
    assert not {"origin", "referer"} & {name.lower() for name in seen}
