"""``tollgate batch`` beside a server, and while none runs: what is cancelled then is ended by the next one."""

import json
from pathlib import Path

import requests

from tests.support.process import Tollgate, eventually, simulator
from tests.support.stack import MODEL, write_config

ROUTE = "/v1/chat/completions"
SLOW = "SIM:tokens=200 SIM:rate=2"
"""Takes a hundred seconds."""


def create(tollgate: Tollgate, key: str, contents: list[str]) -> str:
    """Upload requests and create a batch of them; return its id."""
    headers = {"Authorization": f"Bearer {key}"}
    lines = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": ROUTE,
            "body": {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 200},
        }
        for number, content in enumerate(contents)
    ]
    data = "\n".join(map(json.dumps, lines)).encode()
    form = {"data": {"purpose": "batch"}, "files": {"file": ("requests.jsonl", data)}}
    file_id = requests.post(f"{tollgate.url}/v1/files", headers=headers, timeout=30, **form).json()["id"]
    asked = {"input_file_id": file_id, "endpoint": ROUTE, "completion_window": "24h"}
    return requests.post(f"{tollgate.url}/v1/batches", headers=headers, json=asked, timeout=30).json()["id"]


def is_known(tollgate: Tollgate, key: str) -> bool:
    """The server knows the key."""
    headers = {"Authorization": f"Bearer {key}"}
    return requests.get(f"{tollgate.url}/v1/batches", headers=headers, timeout=30).status_code == 200


def test_batches_are_watched_and_cancelled_with_a_server_and_without_one(tmp_path: Path) -> None:
    with simulator(tmp_path) as cluster:
        config = write_config(tmp_path, proxy=("batch:", "batch:\n  lease_s: 5"))
        tollgate = Tollgate(tmp_path / "proxy", cluster, config=config)
        tollgate.start()
        try:
            key = tollgate.create_account("acme")
            eventually(lambda: is_known(tollgate, key))
            done = create(tollgate, key, ["Bonjour SIM:tokens=3"] * 5)
            shown = json.loads(tollgate.command("batch", "show", done, "--watch", "--every", "0.1", "--json"))
            assert (shown["status"], shown["completed"], shown["account"]) == ("completed", 5, "acme")
            assert float(shown["cost_eur"]) > 0
            beside, without = (create(tollgate, key, [SLOW, "Bonjour SIM:tokens=3"]) for _ in range(2))

            def now(batch_id: str) -> dict:
                return json.loads(tollgate.command("batch", "show", batch_id, "--json"))

            for batch_id in (beside, without):
                eventually(lambda batch_id=batch_id: now(batch_id)["completed"] == 1, 20)
            assert json.loads(tollgate.command("batch", "cancel", beside, "--json"))["status"] == "cancelling"
            tollgate.kill()
            tollgate.command("batch", "cancel", without)
            found = json.loads(tollgate.command("batch", "list", "--json"))
            assert [each["status"] for each in found] == ["cancelling", "cancelling", "completed"]
            tollgate.start()
            for batch_id in (beside, without):
                eventually(lambda batch_id=batch_id: now(batch_id)["status"] == "cancelled", 60)
                over = now(batch_id)
                assert (over["completed"], over["failed"]) == (1, 1)
        finally:
            tollgate.kill()
