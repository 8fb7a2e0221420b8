"""Style is a test: what a reader relies on, and what no linter checks."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = sorted(path for folder in ("proxy", "bench", "tests") for path in (ROOT / folder).rglob("*.py"))
PROXY = [path for path in PYTHON if path.is_relative_to(ROOT / "proxy")]

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
MAY_START_TASKS = {
    "proxy/tasks.py",
    # Each owns one loop for as long as it lives, keeps it, and awaits it when it is closed:
    "proxy/ledger/directory.py",
    "proxy/ledger/shipper.py",
    "proxy/ledger/shipping_process.py",
    "proxy/limiter/debts.py",
    "proxy/limiter/degraded.py",
    "proxy/limiter/keeper.py",
    "proxy/limiter/router.py",
    "proxy/limiter/seeding.py",
    # One task an exchange: its connection keeps it, reports what it raises and cancels it, and the drain awaits it:
    "proxy/web/http.py",
}
RECORDINGS = "tests/wire/"


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _tracked_texts() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():
            try:
                yield name, path.read_text()
            except UnicodeDecodeError:
                continue  # an image, a recording


def test_every_module_says_what_it_is() -> None:
    silent = [_name(path) for path in PYTHON if path.read_text().strip() and not ast.get_docstring(_tree(path))]
    assert silent == []


def test_every_module_of_the_proxy_can_be_read_in_one_sitting() -> None:
    lengths = {_name(path): len(path.read_text().splitlines()) for path in PROXY}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES_MAX} == {}


def test_every_function_of_the_proxy_fits_a_screen() -> None:
    long = {
        f"{_name(path)}: {node.name}": (node.end_lineno or 0) - node.lineno
        for path in PROXY
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in long.items() if lines > FUNCTION_LINES_MAX} == {}


def _spawns_a_task(path: Path) -> bool:
    return any(
        isinstance(node, ast.Attribute) and node.attr in {"create_task", "ensure_future"}
        for node in ast.walk(_tree(path))
    )


def test_background_tasks_are_started_only_where_they_are_kept() -> None:
    # A bare task can be garbage-collected while it runs, and its exception is lost: use proxy.tasks.
    assert {_name(path) for path in PROXY if _spawns_a_task(path)} == MAY_START_TASKS


# Each pattern is written so that it does not find itself.
FOREIGN_WORDS = re.compile(
    r"(?<![\w./-])/wor[k]/|(?<![\w./-])share[d]/"  # folders of whoever wrote this
    r"|py[p]i\.org|pythonhoste[d]\.org|npmj[s]\.(?:org|com)|ghc[r]\.io|docke[r]\.io|qua[y]\.io|golan[g]\.org/dl"
    r"|index-ur[l]\s*[ =]\s*http"
)
EXEMPT = {"tests/test_style.py", "Makefile"}


def test_the_text_of_the_project_speaks_of_the_project_alone() -> None:
    found = [
        f"{name}:{text[: match.start()].count(chr(10)) + 1}: {match.group()}"
        for name, text in _tracked_texts()
        if name not in EXEMPT
        for match in FOREIGN_WORDS.finditer(text)
    ]
    assert found == []


def test_every_text_file_ends_with_one_newline_and_no_line_ends_with_blanks() -> None:
    untidy = [
        name
        for name, text in _tracked_texts()
        if not name.startswith(RECORDINGS)
        if text and (not text.endswith("\n") or text.endswith("\n\n") or re.search(r"[ \t]$", text, re.MULTILINE))
    ]
    assert untidy == []
