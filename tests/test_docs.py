"""The documents are true: what they say to do is done, in a copy of the project, and works. Links lead somewhere."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COPIED = ("proxy", "config", "tests", "pyproject.toml")
BLOCK = re.compile(r"^```(python|diff) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")
DOCUMENTS = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"]


def changes(document: str) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, path, text) of each block that names a file."""
    for found in BLOCK.finditer((ROOT / "docs" / document).read_text()):
        yield found[1], found[2], found[3]


def make(folder: Path, kind: str, path: str, text: str) -> None:
    """Make one change: write a new file, or replace what a diff takes away and keeps by what it keeps and adds."""
    file = folder / path
    if kind == "python":
        assert not file.exists(), f"{path} is there already"
        file.write_text(text)
        return
    lines = text.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    assert file.read_text().count(old) == 1, f"not once in {path}:\n{old}"
    file.write_text(file.read_text().replace(old, new))


def in_copy(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment on the copy."""
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the route of the document."""
    folder = tmp_path_factory.mktemp("route") / "project"
    folder.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "wire", "node_modules"))
        else:
            shutil.copy(source, folder)
    for change in changes("adding-a-route.md"):
        make(folder, *change)
    return folder


def test_the_route_of_the_document_works(copy: Path) -> None:
    done = in_copy(
        copy, "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={copy / 'tmp'}", "tests/gateway/test_score.py"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_the_code_of_the_document_is_as_good_as_the_projects(copy: Path) -> None:
    modules = [path for kind, path, _ in changes("adding-a-route.md") if kind == "python" and path.startswith("proxy/")]
    assert modules
    for words in (("ruff", "check"), ("ruff", "format", "--check"), ("mypy", "--no-incremental")):
        done = in_copy(copy, *words, *modules)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_links_to_is_there(document: Path) -> None:
    for target in LINK.findall(document.read_text()):
        assert (document.parent / target).exists(), target
