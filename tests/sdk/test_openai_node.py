"""The OpenAI Node SDK as its authors ship it, and Vercel's AI SDK: the same round as Python's, in a compact form."""

import base64
import json

import pytest

from tests.sdk.samples import EMBEDDING, HELLO, MODEL, VISION, WEATHER, WHISPER, image, silence
from tests.support.clients import node


@pytest.fixture
def run(service):
    """Run code that has a client, and what customers send."""

    def run(code: str, **more: object):
        samples = {
            "MODEL": MODEL,
            "VISION": VISION,
            "EMBEDDING": EMBEDDING,
            "WHISPER": WHISPER,
            "HELLO": HELLO,
            "WEATHER": WEATHER,
            "IMAGE": image(),
            **more,
        }
        constants = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in samples.items())
        client = """
        const OpenAI = require('openai');
        const client = new OpenAI({ apiKey: process.env.KEY, baseURL: process.env.BASE_URL, maxRetries: 0 });
        """
        made = node(constants + client + code, KEY=service.key, BASE_URL=service.base_url)
        assert not (isinstance(made, dict) and "error" in made), made
        return made

    return run


def test_chat_whole_and_streamed_with_headers(run):
    made = run("""
        const asked = { model: MODEL, messages: HELLO, max_tokens: 20 };
        const { data, response } = await client.chat.completions.create(asked).withResponse();
        let said = '', last = null;
        for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
            said += chunk.choices[0].delta.content ?? '';
            last = chunk;
        }
        let usage = null;
        const options = { stream: true, stream_options: { include_usage: true } };
        for await (const chunk of await client.chat.completions.create({ ...asked, ...options })) usage = chunk.usage;
        return { data, limit: response.headers.get('x-ratelimit-limit-requests'), said, last, usage };
    """)
    assert made["data"]["choices"][0]["message"]["content"] == made["said"] != ""
    assert made["limit"] == "1000"
    assert made["last"]["choices"][0]["finish_reason"] in {"stop", "length"}
    assert made["usage"]["completion_tokens"] == made["data"]["usage"]["completion_tokens"] > 0


def test_a_tool_and_an_image(run):
    made = run("""
        const messages = [{ role: 'user', content: 'Quel temps fait-il à Paris ?' }];
        const asked = await client.chat.completions.create({ model: MODEL, messages, tools: [WEATHER] });
        const message = asked.choices[0].message;
        messages.push(message);
        messages.push({ role: 'tool', tool_call_id: message.tool_calls[0].id, content: '{"temperature": "22"}' });
        const told = await client.chat.completions.create({ model: MODEL, messages, max_tokens: 20 });
        const content = [{ type: 'text', text: 'Que vois-tu ?' }, { type: 'image_url', image_url: { url: IMAGE } }];
        const seen = await client.chat.completions.create({
            model: VISION, messages: [{ role: 'user', content }], max_tokens: 20,
        });
        return { tool: message.tool_calls[0].function, told: told.choices[0], seen: seen.choices[0] };
    """)
    assert made["tool"]["name"] == "get_current_weather"
    assert json.loads(made["tool"]["arguments"])["location"] == "Paris"
    assert made["told"]["message"]["content"]
    assert made["seen"]["message"]["content"]


def test_a_completion_of_a_prompt(run):
    made = run("return await client.completions.create({ model: MODEL, prompt: 'Il était', max_tokens: 20 });")
    assert made["choices"][0]["text"]


def test_the_models(run):
    made = run("""
        const ids = [];
        for await (const model of client.models.list()) ids.push(model.id);
        return { ids, one: await client.models.retrieve('nvidia/llama-nemotron-rerank-vl-1b-v2') };
    """)
    assert {MODEL, EMBEDDING, WHISPER} <= set(made["ids"])
    assert made["one"]["id"] == "nvidia/llama-nemotron-rerank-vl-1b-v2"


def test_embeddings(run, service):
    made = run("return await client.embeddings.create({ model: EMBEDDING, input: ['Un texte', 'Un autre'] });")
    plain = service.post("embeddings", {"model": EMBEDDING, "input": ["Un texte", "Un autre"]}).json()
    assert made["data"][1]["embedding"] == pytest.approx(plain["data"][1]["embedding"], rel=1e-6)


def test_audio(run):
    made = run(
        """
        const file = () => OpenAI.toFile(Buffer.from(SOUND, 'base64'), 'audio.wav');
        const { transcriptions, translations } = client.audio;
        const model = WHISPER;
        return {
            json: await transcriptions.create({ model, file: await file(), language: 'fr' }),
            verbose: await transcriptions.create({ model, file: await file(), response_format: 'verbose_json' }),
            srt: await transcriptions.create({ model, file: await file(), response_format: 'srt' }),
            translated: await translations.create({ model, file: await file() }),
        };
        """,
        SOUND=base64.b64encode(silence(seconds=4)).decode(),
    )
    assert made["json"]["text"]
    assert made["verbose"]["segments"][0]["end"] == 4.0
    assert made["srt"].startswith("1\n00:00:00,000 --> 00:00:04,000\n")
    assert made["translated"]["text"]


def test_the_ai_sdk(run):
    made = run("""
        const { embed, generateText, streamText } = require('ai');
        const { createOpenAICompatible } = require('@ai-sdk/openai-compatible');
        const { KEY, BASE_URL } = process.env;
        const provider = createOpenAICompatible({
            name: 'tollgate', apiKey: KEY, baseURL: BASE_URL, includeUsage: true,
        });
        const asked = { model: provider(MODEL), prompt: 'Bonjour !', maxOutputTokens: 20 };
        const whole = await generateText(asked);
        const stream = streamText(asked);
        let said = '';
        for await (const text of stream.textStream) said += text;
        const { embedding } = await embed({ model: provider.textEmbeddingModel(EMBEDDING), value: 'Un texte' });
        const used = await stream.usage;
        return { text: whole.text, output: whole.usage.outputTokens, said, streamed: used.outputTokens, embedding };
    """)
    assert made["text"] == made["said"] != ""
    assert 0 < made["output"] == made["streamed"] <= 20
    assert made["embedding"]
