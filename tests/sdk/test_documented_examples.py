"""The examples of the API documentation, run as they are printed by the programs they are printed for."""

import json

import pytest

from tests.sdk.samples import EMBEDDING, MODEL, VISION, image, silence
from tests.support.clients import example, run_node, run_python, run_shell
from tests.support.process import eventually


@pytest.fixture
def documented(service):
    """Return an example with this proxy's address and a customer's key."""
    return lambda title: example(title, service.root, service.key)


@pytest.fixture
def curl(documented, tmp_path):
    """Run a curl example and return the answer."""
    return lambda title: json.loads(run_shell(documented(title), tmp_path))


def is_chat_answer(answer: dict) -> bool:
    """Whether it has the documented shape."""
    assert answer["id"].startswith("chatcmpl-"), answer
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] in {"stop", "length"}
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    return usage["completion_tokens"] > 0


# curl


def test_curl_chat(curl):
    answer = curl("curl: chat")
    assert is_chat_answer(answer)
    assert answer["model"] == MODEL
    assert answer["usage"]["completion_tokens"] <= 200


def test_curl_vision(documented, service, tmp_path):
    code = documented("curl: vision").replace("data:image/jpeg;base64,...", image())
    answer = json.loads(run_shell(code, tmp_path))
    assert is_chat_answer(answer)
    assert answer["model"] == VISION
    parts = json.loads(service.cluster.seen[-1].body)["messages"][0]["content"]
    assert parts[1] == {"type": "image_url", "image_url": {"url": image()}}


def test_curl_vision_in_the_simplified_format(documented, service, tmp_path):
    code = documented("curl: vision").replace("data:image/jpeg;base64,...", image())
    simple = code.replace('"image_url",', '"image",').replace(
        f'"image_url": {{\n              "url": "{image()}"\n            }}', f'"image": "{image()}"'
    )
    assert simple.count("image_url") == 0
    assert is_chat_answer(json.loads(run_shell(simple, tmp_path)))
    parts = json.loads(service.cluster.seen[-1].body)["messages"][0]["content"]
    assert parts[1] == {"type": "image_url", "image_url": {"url": image()}}, "engines know the standard format only"


def test_curl_completions(curl):
    answer = curl("curl: completions")
    assert is_chat_answer(answer)
    assert answer["usage"]["completion_tokens"] <= 100


def test_curl_transcriptions(curl, service, tmp_path):
    (tmp_path / "audio.wav").write_bytes(silence(seconds=4))
    answer = curl("curl: transcriptions")
    assert answer["text"]
    assert answer["language"] == "fr"
    (segment,) = answer["segments"]
    assert segment["text"] == answer["text"]
    documented = {"id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob"}
    assert documented | {"compression_ratio", "no_speech_prob"} <= segment.keys()
    assert (segment["start"], segment["end"]) == (0.0, 4.0)


def test_curl_embeddings(curl):
    answer = curl("curl: embeddings")
    assert answer["object"] == "list"
    assert answer["model"] == EMBEDDING
    (item,) = answer["data"]
    assert (item["object"], item["index"]) == ("embedding", 0)
    assert all(isinstance(number, float) for number in item["embedding"])
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0


def test_curl_rerank(curl):
    answer = curl("curl: rerank")
    assert [result["index"] for result in answer["results"]] == [0, 2]
    first, second = answer["results"]
    assert first["relevance_score"] > second["relevance_score"]
    assert first["document"] == {"text": "Paris est la capitale et la plus grande ville de France."}
    assert answer["usage"]["billed_units"]["search_units"] == 3


def test_curl_models(curl):
    answer = curl("curl: models")
    assert answer["object"] == "list"
    model = next(model for model in answer["data"] if model["id"] == MODEL)
    assert model["object"] == "model"
    assert model["owned_by"] == "CloudTemple"
    assert model["root"] == MODEL
    assert MODEL in model["aliases"]
    assert model["max_model_len"] == 60000
    assert model["permission"][0]["id"] == f"modelperm-{MODEL}-{model['created']}"
    allowed = {"allow_sampling": True, "allow_view": True, "allow_fine_tuning": False}
    assert allowed.items() <= model["permission"][0].items()


# Python


@pytest.mark.parametrize("title", ["requests: chat", "requests: streaming", "openai: chat"])
def test_python(documented, tmp_path, title):
    said = run_python(documented(title), tmp_path)
    assert said.strip()
    assert "rreur" not in said


def test_python_langchain_chat(documented, service, tmp_path):
    said = run_python(documented("langchain: chat"), tmp_path)
    assert said.strip()
    assert "Erreur" not in said
    forwarded = [json.loads(seen.body) for seen in list(service.cluster.seen)[-2:]]
    assert [body["max_completion_tokens"] for body in forwarded] == [200, 200], "LangChain's new name for max_tokens"


def test_python_langchain_custom_embeddings(documented, service, tmp_path):
    code = documented("langchain: custom embeddings")
    usage = code.partition("# Usage\n")[2].replace("# ", "")
    said = run_python(f"{code}\n{usage}\nprint(vector)", tmp_path)
    whole = service.post("embeddings", {"model": EMBEDDING, "input": "Mon texte à vectoriser"}).json()
    assert json.loads(said) == pytest.approx(whole["data"][0]["embedding"])


def test_python_cohere_rerank(documented, tmp_path):
    first, second = run_python(documented("cohere: rerank"), tmp_path).splitlines()
    assert first.startswith("Index: 0, Score: 0.")
    assert second.startswith("Index: 2, Score: 0.")


def test_python_waits_a_minute_after_a_429_and_succeeds(documented, service, tmp_path):
    """The printed function sleeps a minute; here a minute takes two seconds, which is the window of the tier."""
    key = service.new_key("bursts")
    setting = f"""
import requests
from types import SimpleNamespace
import time as real
time = SimpleNamespace(sleep=lambda seconds: real.sleep(seconds / 30))
url = "{service.base_url}/chat/completions"
headers = {{"Authorization": "Bearer {key}"}}
payload = {{"model": "{MODEL}", "messages": [{{"role": "user", "content": "Bonjour !"}}], "max_tokens": 5}}
"""
    calls = "for _ in range(2):\n    print(safe_api_call(payload)['object'])"
    said = run_python(setting + documented("requests: safe_api_call") + calls, tmp_path)
    assert eventually(lambda: service.answered(key, 200, 429, 200))
    assert said.splitlines() == ["chat.completion", "Rate limit atteint, attendre...", "chat.completion"]


def test_python_says_what_went_wrong(service, tmp_path):
    said = run_python(example("requests: chat", service.root, "tg-wrong"), tmp_path)
    error = '{"error":{"message":"Invalid API key provided","type":"authentication_error"}}'
    assert said == f"Erreur HTTP: 401 - {error}\n"


# JavaScript; the example for browsers is run by one in test_browser.py


def test_axios(documented):
    done = run_node(documented("axios: chat"))
    assert done.stdout.strip()
    assert done.stderr == ""


def test_axios_says_what_went_wrong(service):
    done = run_node(example("axios: chat", service.root, "tg-wrong"))
    assert "Invalid API key provided" in done.stderr


def test_fetch_of_node(documented, service):
    code = f"const API_KEY = '{service.key}';\n{documented('fetch: chat')}"
    assert run_node(f"{code}\nfetchCompletion('Bonjour !').then(console.log)").stdout.strip()
