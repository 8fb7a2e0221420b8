"""Cohere's SDKs as their authors ship them, against both versions of the route."""

import json

import cohere
import pytest

from tests.sdk.samples import DOCUMENTS, QUESTION, RERANK
from tests.support.clients import node
from tests.support.process import eventually


@pytest.fixture(params=[cohere.Client, cohere.ClientV2], ids=["v1", "v2"])
def client(request, service):
    with request.param(api_key=service.key, base_url=service.root) as client:
        yield client


def test_rerank(client):
    answer = client.rerank(model=RERANK, query=QUESTION, documents=DOCUMENTS, top_n=2)
    assert [result.index for result in answer.results] == [0, 2]
    assert answer.results[0].relevance_score > answer.results[1].relevance_score
    assert answer.id


def test_without_top_n_every_document_is_returned(client):
    answer = client.rerank(model=RERANK, query=QUESTION, documents=DOCUMENTS)
    assert sorted(result.index for result in answer.results) == [0, 1, 2]


def test_documents_may_be_objects(service):
    documents = [{"text": text} for text in DOCUMENTS]
    with cohere.Client(api_key=service.key, base_url=service.root) as client:
        answer = client.rerank(model=RERANK, query=QUESTION, documents=documents, return_documents=True)
    assert answer.results[0].document.text == DOCUMENTS[0]


async def test_the_asynchronous_clients(service):
    for version in (cohere.AsyncClient, cohere.AsyncClientV2):
        async with version(api_key=service.key, base_url=service.root) as client:
            answer = await client.rerank(model=RERANK, query=QUESTION, documents=DOCUMENTS, top_n=1)
            assert answer.results[0].index == 0


def test_limit_headers(client):
    raw = client.with_raw_response.rerank(model=RERANK, query=QUESTION, documents=DOCUMENTS)
    assert raw.headers["x-ratelimit-limit-requests"] == "1000"


def test_what_is_billed_is_what_was_reranked(service):
    key = service.new_key("wide")
    with cohere.ClientV2(api_key=key, base_url=service.root) as client:
        client.rerank(model=RERANK, query=QUESTION, documents=DOCUMENTS)
    used = eventually(lambda: (usage := service.usage(key))["calls"] and usage)
    assert used == {"calls": 1, "total": used["total"], "rerank": used["rerank"]}
    assert used["rerank"] > 0


def test_node(service):
    made = node(
        """
        const { CohereClient, CohereClientV2 } = require('cohere-ai');
        const { KEY, ROOT, RERANK, QUESTION, DOCUMENTS } = process.env;
        const asked = { model: RERANK, query: QUESTION, documents: JSON.parse(DOCUMENTS), topN: 2 };
        const made = [];
        for (const Client of [CohereClient, CohereClientV2]) {
            const answer = await new Client({ token: KEY, environment: ROOT }).rerank(asked);
            made.push(answer.results.map(result => result.index));
        }
        return made;
        """,
        KEY=service.key,
        ROOT=service.root,
        RERANK=RERANK,
        QUESTION=QUESTION,
        DOCUMENTS=json.dumps(DOCUMENTS),
    )
    assert made == [[0, 2], [0, 2]]
