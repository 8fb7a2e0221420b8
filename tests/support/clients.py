"""What customers call with: their shells, Pythons, Nodes and browsers, and the examples that they copy.

What belongs here: running a client as its authors ship it, with nothing changed but the base URL and the key. What
does not: the proxy that is called (service.py).
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import stop

SDK = Path(__file__).parents[1] / "sdk"
NODE = SDK / "node"
DOCUMENTED_ROOT = "https://api.ai.cloud-temple.com"
DOCUMENTED_KEY = "VOTRE_TOKEN_API"
CLIENT_S = 60.0
"""Longest that a client may take."""
CL100K_URL = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"


def program(name: str, package: str) -> str:
    """Return the path of a program; a test whose program is missing fails, and says how to get it."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is missing; `make test` installs it as root, or: apt-get install {package}")
    return path


def example(title: str, root: str, key: str) -> str:
    """Return an example of the documentation (``documented.md``) with this proxy's address and a key that it knows."""
    text = (SDK / "documented.md").read_text()
    section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    found = re.search(r"```\w+\n(.*?)```", section, re.DOTALL)
    assert found, f"there is no example {title!r}"
    code = found.group(1)
    assert DOCUMENTED_ROOT in code or "url" in code, title
    return code.replace(DOCUMENTED_ROOT, root).replace(DOCUMENTED_KEY, key)


def _environ(**more: str) -> dict[str, str]:
    """A customer's environment: no HTTP proxy between the client and us, and no key but the one in its code."""
    kept = {
        name: text
        for name, text in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith(("OPENAI_", "COHERE_", "CO_", "TOLLGATE_"))
    }
    return kept | {"NO_COLOR": "1"} | more


def run(command: list[str], *, text: str | None = None, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a client; ``text`` is what it reads."""
    done = subprocess.run(
        command,
        input=text if text is not None else "",
        cwd=cwd,
        env=_environ(**environ),
        capture_output=True,
        text=True,
        timeout=CLIENT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done


def run_python(code: str, folder: Path) -> str:
    """Run a customer's script and return what it printed."""
    (folder / "customer.py").write_text(code)
    return run([sys.executable, "customer.py"], cwd=folder).stdout


def run_shell(code: str, folder: Path) -> str:
    """Run a line of a customer's shell and return what it printed; curl neither talks nor reads a file of settings."""
    program("curl", "curl")
    return run(["sh", "-e"], text=code.replace("curl ", "curl -q --silent --show-error ", 1), cwd=folder).stdout


def run_node(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a customer's script beside ``node_modules``, from where it can require the clients."""
    node = program("node", "nodejs")
    if not (NODE / "node_modules").is_dir():
        pytest.fail("the JavaScript clients are missing: run `make clients`")
    return run([node, "-"], text=code, cwd=NODE, **environ)


def node(code: str, **environ: str) -> Any:
    """Run the body of an asynchronous function in Node.js and return what it returns.

    An error that it throws is returned as ``{"error": {"name": …, "status": …, …}}``.
    """
    wrapped = f"""
    (async () => {{ {code} }})().catch(error => {{
        const {{ constructor, status, statusCode, code, param, type, message }} = error;
        return {{ error: {{ name: constructor.name, status: status ?? statusCode, code, param, type, message }} }};
    }}).then(value => {{ console.log(JSON.stringify(value ?? null)); process.exit(0); }});
    """
    return json.loads(run_node(wrapped, **environ).stdout)


def write_vocabulary(folder: Path) -> None:
    """Put OpenAI's vocabulary where tiktoken looks before it downloads it: out of the npm package that carries it."""
    ranks = run_node("process.stdout.write(require('js-tiktoken/ranks/cl100k_base').bpe_ranks)").stdout
    lines = []
    for block in filter(None, ranks.split("\n")):
        _, first, *tokens = block.split(" ")
        lines += [f"{token} {rank}\n" for rank, token in enumerate(tokens, int(first))]
    assert len(base64.b64decode(lines[0].split()[0])) == 1
    (folder / hashlib.sha1(CL100K_URL.encode()).hexdigest()).write_text("".join(lines))


# A browser


class Site:
    """A web site of a customer, with pages whose scripts call us; an origin of its own.

    The clients of ``node_modules`` are there to be imported: ``/modules/openai/index.mjs``.
    """

    def __init__(self) -> None:
        pages: dict[str, str] = {}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                module = NODE / "node_modules" / self.path.removeprefix("/modules/")
                is_module = self.path.endswith(".mjs") and module.is_file()
                body = module.read_bytes() if is_module else pages.get(self.path, "").encode()
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", "text/javascript" if is_module else "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._pages = pages
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.origin = f"http://127.0.0.1:{self._server.server_port}"

    def page(self, script: str) -> str:
        """Publish a page with a script, and return its URL."""
        path = f"/page-{len(self._pages)}"
        self._pages[path] = f"<!doctype html><meta charset=utf-8><title>A page</title><script>{script}</script>"
        return self.origin + path

    def close(self) -> None:
        """Take the site off the net."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Browser:
    """A headless Chromium: one for all tests, a new page each time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def open(self, url: str, code: str = "") -> Any:
        """Open a page, run the body of an asynchronous function in it, and return what it returns.

        An error that it throws is returned as ``{"error": its text}``.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"url": url, "code": code}) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], CLIENT_S)
        line = self._process.stdout.readline() if ready else ""
        assert line, f"the browser said nothing for {CLIENT_S} s, or ended ({self._process.poll()})"
        return json.loads(line)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Run a browser until the block ends."""
    chromium = program("chromium", "chromium")
    command = [program("node", "nodejs"), "browser.cjs", chromium]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=NODE, env=_environ()
    )
    try:
        yield Browser(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()  # it closes the browser and ends
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        stop(process)  # type: ignore[arg-type]
        assert process.stdout is not None
        process.stdout.close()
