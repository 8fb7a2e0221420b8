"""The Dockerfile keeps its promises, as far as reading can tell: no engine builds it here."""

import fnmatch
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

Instruction = tuple[str, str]


def _stages() -> list[list[Instruction]]:
    """Return the instructions of each stage, continuation lines joined."""
    text = (ROOT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    stages: list[list[Instruction]] = []
    for line in filter(str.strip, joined.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        stages[-1].append((word, rest))
    return stages


def _values(stage: list[Instruction], word: str) -> list[str]:
    return [rest for name, rest in stage if name == word]


def test_it_builds_in_one_stage_and_runs_in_another_of_the_same_base() -> None:
    build, final = _stages()
    assert _values(build, "FROM") == ["python:3.11-slim-bookworm AS build"]
    assert _values(final, "FROM") == ["python:3.11-slim-bookworm"]


def test_the_final_stage_installs_and_compiles_nothing() -> None:
    tools = re.compile(r"\b(pip|apt|apt-get|gcc|make|uv|curl|wget)\b")
    assert [run for run in _values(_stages()[-1], "RUN") if tools.search(run)] == []


def test_every_installation_from_outside_is_pinned_by_hash_and_runs_no_foreign_code() -> None:
    parts = [part for run in _values(_stages()[0], "RUN") for part in run.split("&&")]
    installs = [part for part in parts if " install " in part]
    from_outside = [part for part in installs if "--no-deps" not in part]
    assert len(installs) == 3
    assert len(from_outside) == 2
    assert all("--require-hashes" in part and "--only-binary :all:" in part for part in from_outside)
    [wheel] = [part for part in parts if " wheel " in part and part not in installs]
    assert "--no-build-isolation" in wheel  # or pip would fetch a backend that no hash pins


def test_it_does_not_run_as_root() -> None:
    [user] = _values(_stages()[-1], "USER")
    uid, _, gid = user.partition(":")
    assert int(uid) >= 10000  # a number, so that an orchestrator can check it
    assert int(gid) >= 10000
    words = [name for name, _ in _stages()[-1]]
    assert words.index("USER") > max(index for index, name in enumerate(words) if name in {"RUN", "COPY"})


def test_the_state_is_a_volume_that_the_user_owns() -> None:
    final = _stages()[-1]
    [volume] = _values(final, "VOLUME")
    assert f"TOLLGATE_STATE_DIR={volume}" in _values(final, "ENV")[0]
    assert any("install -d -o tollgate" in run and run.endswith(volume) for run in _values(final, "RUN"))


def test_signals_reach_the_proxy_itself() -> None:
    final = _stages()[-1]
    [entrypoint] = _values(final, "ENTRYPOINT")
    assert json.loads(entrypoint) == ["tollgate", "serve"]  # the exec form: no shell between
    assert _values(final, "STOPSIGNAL") == ["SIGTERM"]


def test_its_health_is_the_admin_listeners() -> None:
    final = _stages()[-1]
    [check] = _values(final, "HEALTHCHECK")
    _, _, command = check.partition("CMD ")
    [port] = re.findall(r"TOLLGATE_ADMIN_LISTEN=\S+:(\d+)", _values(final, "ENV")[0])
    assert f"http://127.0.0.1:{port}/healthz" in json.loads(command)[-1]
    assert port in _values(final, "EXPOSE")[0].split()


def _sources() -> list[str]:
    copies = [rest for stage in _stages() for rest in _values(stage, "COPY") if not rest.startswith("--from")]
    return [source for rest in copies for source in rest.split()[:-1]]


@pytest.mark.parametrize("source", _sources())
def test_what_is_copied_exists_and_reaches_the_builder(source: str) -> None:
    assert (ROOT / source).exists()
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if pattern and not line.startswith("#") and fnmatch.fnmatch(source, pattern):
            ignored = not line.startswith("!")
    assert not ignored
