"""Pages in a real browser, on a web site of another origin: what their scripts may ask, and what they may read."""

import base64
import json

import pytest

from tests.sdk.samples import DOCUMENTED_ERRORS, EMBEDDING, MODEL, WHISPER, silence
from tests.support.clients import example
from tests.support.service import service as running_service
from tests.support.stack import write_config

CALL = """
const call = async (key, body) => {
    const response = await fetch(`${BASE_URL}/chat/completions`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', 'Authorization': `Bearer ${key}` },
        body: JSON.stringify({ model: MODEL, messages: [{ role: 'user', content: 'Bonjour !' }], ...body }),
    });
    const read = response.headers;
    return {
        status: response.status,
        limit: read.get('X-RateLimit-Limit-Requests'),
        remaining: read.get('X-RateLimit-Remaining-Requests'),
        reset: read.get('X-RateLimit-Reset-Requests'),
        tokens: read.get('X-RateLimit-Limit-Output-Tokens-Hour'),
        bound: read.get('X-RateLimit-Bound'),
        after: read.get('Retry-After'),
        retry: read.get('x-should-retry'),
        id: read.get('x-request-id'),
        body: await response.json(),
    };
};
"""


@pytest.fixture
def visit(browser, site, service):
    """Run code in a page that knows where to call."""

    def visit(code: str, script: str = "", to=service, **constants: object):
        known = {"BASE_URL": to.base_url, "API_KEY": to.key, "MODEL": MODEL, **constants}
        setting = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in known.items())
        return browser.open(site.page(setting + script), code)

    return visit


def test_the_documented_example(visit, service):
    script = example("fetch: chat", service.root, service.key)
    said = visit("return await fetchCompletion('Bonjour !');", script)
    assert isinstance(said, str), said
    assert said


def test_the_documented_example_says_what_went_wrong(visit, service):
    script = example("fetch: chat", service.root, service.key)
    said = visit("return await fetchCompletion('Bonjour !');", script, API_KEY="tg-wrong")
    assert said == {"error": f"Error: HTTP 401: {json.dumps({'error': DOCUMENTED_ERRORS[401]}, separators=(',', ':'))}"}


def test_limit_headers_can_be_read(visit):
    got = visit(CALL + "return await call(API_KEY, { max_tokens: 5 });")
    assert got["status"] == 200
    assert got["body"]["choices"][0]["message"]["content"]
    assert (got["limit"], got["tokens"]) == ("1000", "1000000")
    assert 0 <= int(got["remaining"]) < 1000
    assert int(got["reset"])
    assert got["id"]


def test_a_refusal_can_be_read_with_all_that_its_headers_say(visit, service):
    got = visit(CALL + "return await call(KEY, { max_tokens: 5 });", KEY=service.new_full_key())
    assert got["status"] == 429
    assert got["body"] == {"error": DOCUMENTED_ERRORS[429]}
    assert (got["limit"], got["remaining"], got["bound"], got["retry"]) == ("1", "0", "requests", "false")
    assert 3500 < int(got["after"]) <= 3600


@pytest.mark.parametrize("status", [400, 401, 404, 500, 503])
def test_an_error_can_be_read(visit, status):
    body = {
        400: {"temperature": 2.5},
        404: {"model": "unknown-model"},
        500: {"messages": [{"role": "user", "content": "SIM:status=500"}]},
        503: {"messages": [{"role": "user", "content": "SIM:status=503"}]},
    }.get(status, {})
    got = visit(CALL + "return await call(KEY ?? API_KEY, BODY);", BODY=body, KEY="tg-wrong" if status == 401 else None)
    assert got["status"] == status
    assert got["body"] == {"error": DOCUMENTED_ERRORS[status]}
    assert got["id"]
    assert got["limit"] == (None if status == 401 else "1000")


def test_a_stream_is_read_as_it_comes(visit):
    got = visit("""
        const response = await fetch(`${BASE_URL}/chat/completions`, {
            method: 'POST',
            headers: { 'Content-Type': 'application/json', 'Authorization': `Bearer ${API_KEY}` },
            body: JSON.stringify({
                model: MODEL, stream: true, max_tokens: 20,
                messages: [{ role: 'user', content: 'SIM:tokens=20 SIM:rate=20' }],
            }),
        });
        const reader = response.body.getReader(), decoder = new TextDecoder();
        const times = [];
        let text = '';
        for (;;) {
            const { done, value } = await reader.read();
            if (done) break;
            times.push(performance.now());
            text += decoder.decode(value, { stream: true });
        }
        return { text, seconds: (times.at(-1) - times[0]) / 1000, type: response.headers.get('content-type'),
                 limit: response.headers.get('X-RateLimit-Limit-Requests') };
    """)
    events = got["text"].split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert json.loads(events[0].removeprefix("data: "))["object"] == "chat.completion.chunk"
    assert got["seconds"] > 0.5, "a second's words came at once"
    assert got["type"].startswith("text/event-stream")
    assert got["limit"] == "1000"


def test_the_other_routes(visit):
    got = visit(
        """
        const headers = { 'Authorization': `Bearer ${API_KEY}` };
        const json = { ...headers, 'Content-Type': 'application/json' };
        const models = await fetch(`${BASE_URL}/models`, { headers });
        const vector = await fetch(`${BASE_URL}/embeddings`, {
            method: 'POST', headers: json, body: JSON.stringify({ model: EMBEDDING, input: 'Un texte' }),
        });
        const form = new FormData();
        form.append('file', await (await fetch(`data:audio/wav;base64,${SOUND}`)).blob(), 'audio.wav');
        form.append('model', WHISPER);
        const heard = await fetch(`${BASE_URL}/audio/transcriptions`, { method: 'POST', headers, body: form });
        return [await models.json(), await vector.json(), await heard.json()];
        """,
        EMBEDDING=EMBEDDING,
        WHISPER=WHISPER,
        SOUND=base64.b64encode(silence(seconds=4)).decode(),
    )
    models, vector, heard = got
    assert models["object"] == "list"
    assert vector["data"][0]["embedding"]
    assert heard["text"]


def test_openai_s_own_client_in_a_page(visit):
    """It adds headers of its own, which the preflight has to allow."""
    got = visit("""
        const { default: OpenAI } = await import('/modules/openai/index.mjs');
        const client = new OpenAI({ apiKey: API_KEY, baseURL: BASE_URL, dangerouslyAllowBrowser: true, maxRetries: 0 });
        const asked = { model: MODEL, messages: [{ role: 'user', content: 'Bonjour !' }], max_tokens: 20 };
        const { data, response } = await client.chat.completions.create(asked).withResponse();
        let said = '';
        for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
            said += chunk.choices[0].delta.content ?? '';
        }
        const refused = await client.chat.completions.create({ ...asked, temperature: 3 }).catch(error => error);
        return { whole: data.choices[0].message.content, said, id: data._request_id, param: refused.param };
    """)
    assert got["whole"] == got["said"] != ""
    assert got["id"]
    assert got["param"] == "temperature"


# Where only some origins may call


@pytest.fixture(scope="module")
def guarded(site, tmp_path_factory):
    """A proxy that lets the pages of one site call."""
    folder = tmp_path_factory.mktemp("guarded")
    config = write_config(folder, proxy=('cors_origins: ["*"]', f'cors_origins: ["{site.origin}"]'))
    with running_service(folder, config) as running:
        yield running


def test_a_site_that_may_call_calls_and_reads(visit, guarded):
    got = visit(CALL + "return await call(API_KEY, { max_tokens: 5 });", to=guarded)
    assert (got["status"], got["limit"]) == (200, "1000")


def test_a_site_that_may_not_call_is_stopped_by_the_browser_before_anything_is_asked(browser, other_site, guarded):
    setting = f"const BASE_URL = {guarded.base_url!r}, API_KEY = {guarded.key!r}, MODEL = {MODEL!r};"
    before = len(guarded.cluster.seen)
    got = browser.open(other_site.page(setting), CALL + "return await call(API_KEY, { max_tokens: 5 });")
    assert got == {"error": "TypeError: Failed to fetch"}
    assert len(guarded.cluster.seen) == before
