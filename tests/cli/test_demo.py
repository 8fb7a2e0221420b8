"""What ``tollgate demo`` prints can be pasted: every command runs, and is answered."""

import json
import os
import re
import signal
import subprocess
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.process import ROOT, TOLLGATE, eventually
from tests.support.services import stop

LAST_LINE = "Ctrl+C"
START_S = 30.0


class Demo:
    """A running demo, and what it has printed."""

    def __init__(self, state: Path) -> None:
        self.environ = {
            **{name: text for name, text in os.environ.items() if not name.startswith("TOLLGATE_")},
            "TOLLGATE_LISTEN": f"127.0.0.1:{free_port()}",
            "TOLLGATE_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
            "TOLLGATE_STATE_DIR": str(state),
        }
        self._log = state.parent / f"demo-{free_port()}.log"
        with self._log.open("wb") as log:
            command = [TOLLGATE, "demo", "--tokens-per-second", "0"]
            self.process = subprocess.Popen(command, env=self.environ, cwd=ROOT, stdout=log, stderr=log)
        self.text = str(eventually(self._greeting, START_S))

    def _greeting(self) -> str:
        """What is printed, once it is whole."""
        text = self._log.read_text()
        return text if LAST_LINE in text else ""

    @property
    def blocks(self) -> list[str]:
        """The parts of what is printed, blank lines between them."""
        return [block.strip() for block in self.text.split("\n\n")]

    @property
    def settings(self) -> str:
        """The line that sets the variables of the further commands."""
        return next(block for block in self.blocks if block.startswith("API="))

    @property
    def further(self) -> dict[str, str]:
        """The further commands by their route."""
        block = next(block for block in self.blocks if "$API/models" in block)
        return {re.findall(r"\$API(\S+)", line)[0]: line for line in block.splitlines()}

    def paste(self, command: str) -> str:
        """Run a command as in another terminal."""
        done = subprocess.run(
            ["sh", "-c", f"{self.settings}\n{command}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "state"


@pytest.fixture(scope="module")
def demo(state: Path) -> Iterator[Demo]:
    started = Demo(state)
    yield started
    stop(started.process)


def test_the_first_command_is_a_chat_and_shows_its_headers(demo: Demo) -> None:
    answer = demo.paste(next(block for block in demo.blocks if block.startswith("curl -si")))
    assert answer.startswith("HTTP/1.1 200 OK")
    assert "x-ratelimit-remaining-requests" in answer.lower()
    assert '"chat.completion"' in answer


def test_embeddings_are_answered_and_cut_to_a_line(demo: Demo) -> None:
    answer = demo.paste(demo.further["/embeddings"])
    assert answer.count("\n") == 1
    assert '"embedding":[' in answer


def test_rerank_puts_the_capital_first(demo: Demo) -> None:
    assert json.loads(demo.paste(demo.further["/rerank"]))["results"][0]["index"] == 1


def test_the_sound_is_there_and_is_transcribed(demo: Demo, state: Path) -> None:
    with wave.open(str(state / "demo.wav")) as sound:
        assert sound.getnframes() == 2 * sound.getframerate()
    assert "2 seconds" in json.loads(demo.paste(demo.further["/audio/transcriptions"]))["text"]


def test_a_batch_is_sent_looked_at_and_its_answers_are_fetched(demo: Demo) -> None:
    block = next(block for block in demo.blocks if block.startswith("FILE="))
    upload, create, look, fetch = block.splitlines()
    assert json.loads(demo.paste(f"{upload}\n{create}"))["status"] == "validating"

    def status() -> str:
        """How far the batch is."""
        return json.loads(demo.paste(look))["data"][0]["status"]

    eventually(lambda: status() == "completed")
    answers = [json.loads(line) for line in demo.paste(fetch).splitlines()]
    assert [answer["custom_id"] for answer in answers] == [f"request-{number}" for number in range(1, 21)]
    assert all(answer["response"]["status_code"] == 200 for answer in answers)


def test_models_and_usage_are_shown(demo: Demo) -> None:
    assert "gpt-oss:120b" in {model["id"] for model in json.loads(demo.paste(demo.further["/models"]))["data"]}
    assert isinstance(json.loads(demo.paste(demo.further["/usage"])), dict)


def test_what_was_used_is_told_in_euros(demo: Demo) -> None:
    demo.paste(next(block for block in demo.blocks if block.startswith("curl -si")))
    command = next(block for block in demo.blocks if "tollgate usage" in block)
    eventually(lambda: "gpt-oss:120b" in demo.paste(command))


def test_a_demo_that_is_started_again_prints_the_same_key(demo: Demo, state: Path) -> None:
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(30) == 0
    again = Demo(state)
    try:
        assert re.findall(r"Bearer (\S+)'", again.settings) == re.findall(r"Bearer (\S+)'", demo.settings)
        assert again.paste(again.further["/models"])
    finally:
        stop(again.process)
