"""A client that is not installed fails its tests and says what to install: nothing passes by being skipped."""

import shutil

import pytest

from tests.support import clients


@pytest.mark.parametrize(
    ("call", "package"),
    [
        (lambda folder: clients.run_shell("curl http://127.0.0.1", folder), "curl"),
        (lambda folder: clients.node("return 1;"), "nodejs"),
        (lambda folder: clients.browser().__enter__(), "chromium"),
    ],
    ids=["curl", "node", "chromium"],
)
def test_a_program_that_is_missing(monkeypatch, tmp_path, call, package):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        pytest.fail.Exception, match=f"is missing; `make test` installs it .*apt-get install {package}$"
    ):
        call(tmp_path)


def test_javascript_clients_that_are_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(clients, "NODE", tmp_path)
    with pytest.raises(pytest.fail.Exception, match="run `make clients`"):
        clients.node("return 1;")
