"""LangChain's own classes, with their default settings: also those that the documentation warned of."""

import json

import pytest
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.sdk.samples import EMBEDDING, MODEL, WEATHER

TEXTS = ["Le texte à vectoriser", "Été, naïve, 東京 and 😀", "A" * 40 + " word" * 300, ""]


@pytest.fixture
def chat(service):
    """A model as the documentation makes it, which LangChain would rather have with a plain max_tokens."""
    options = {"api_key": service.key, "base_url": service.base_url, "model": MODEL, "max_retries": 0}
    with pytest.warns(UserWarning, match="max_tokens"):
        return ChatOpenAI(**options, model_kwargs={"max_tokens": 200})


def test_chat_with_messages_and_with_a_text(chat):
    answer = chat.invoke([HumanMessage(content="Expliquez l'IA en 3 phrases")])
    assert answer.content
    assert 0 < answer.usage_metadata["output_tokens"] <= 200
    assert chat.invoke("Bonjour, comment ça va ?").content


def test_a_stream_with_its_usage(chat):
    chunks = list(chat.stream("Bonjour !", stream_usage=True))  # which it does not ask other servers than OpenAI's for
    whole = chat.invoke("Bonjour !")
    assert "".join(chunk.content for chunk in chunks) == whole.content
    (usage,) = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert usage["output_tokens"] == whole.usage_metadata["output_tokens"]


async def test_the_asynchronous_client(chat):
    assert (await chat.ainvoke("Bonjour !")).content
    assert [chunk async for chunk in chat.astream("Bonjour !")]
    await chat.root_async_client.close()


def test_a_tool(chat):
    answer = chat.bind_tools([WEATHER]).invoke("Quel temps fait-il à Paris ?")
    assert [call["name"] for call in answer.tool_calls] == ["get_current_weather"]


@pytest.fixture
def plain(service):
    """Return the vectors of texts as texts, with nothing of LangChain's."""

    def plain(texts):
        answer = service.post("embeddings", {"model": EMBEDDING, "input": texts}).json()
        return [item["embedding"] for item in answer["data"]]

    return plain


@pytest.fixture
def embeddings(service, vocabulary):
    return OpenAIEmbeddings(api_key=service.key, base_url=service.base_url, model=EMBEDDING, max_retries=0)


def test_embeddings_with_default_settings_equal_those_of_the_texts(embeddings, plain, service):
    texts = [text for text in TEXTS if text]
    vectors = embeddings.embed_documents(texts)
    assert json.loads(service.cluster.seen[-1].body)["input"] == texts, "token ids did not become the texts again"
    for vector, whole in zip(vectors, plain(texts), strict=True):
        assert vector == pytest.approx(whole, rel=1e-6)


def test_the_embedding_of_a_query(embeddings, plain):
    assert embeddings.embed_query(TEXTS[1]) == pytest.approx(plain([TEXTS[1]])[0], rel=1e-6)


async def test_asynchronous_embeddings(embeddings, plain):
    async with embeddings.async_client._client:  # which LangChain never closes
        (vector,) = await embeddings.aembed_documents([TEXTS[0]])
    assert vector == pytest.approx(plain([TEXTS[0]])[0], rel=1e-6)


def test_embeddings_of_more_texts_than_one_call_takes(embeddings, plain):
    texts = [f"Document {number}" for number in range(1001)]
    vectors = embeddings.embed_documents(texts)
    assert len(vectors) == 1001
    assert vectors[1000] == pytest.approx(plain([texts[1000]])[0], rel=1e-6)
