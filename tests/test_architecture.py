"""Imports run one way, and the core is pure: the contracts of .importlinter hold, and each of them can fail."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE_MAY_NOT = {"asyncio", "concurrent", "logging", "multiprocessing", "os", "random", "secrets", "selectors"}
CORE_MAY_NOT |= {"shutil", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "urllib", "uuid"}


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_every_import_contract_is_kept() -> None:
    done = _lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


def _broken_by(folder: Path, lines: dict[str, str]) -> set[str]:
    """Return the names of the contracts that break when these lines are added to these modules."""
    shutil.copytree(ROOT / "proxy", folder / "proxy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", folder)
    for module, line in lines.items():
        with (folder / "proxy" / module).open("a") as file:
            file.write(f"\n{line}\n")
    output = _lint_imports(folder).stdout.splitlines()
    return {line.removesuffix(" BROKEN") for line in output if line.endswith(" BROKEN")}


def test_each_contract_breaks_when_its_rule_is_broken(tmp_path: Path) -> None:
    lines = {
        "core/money.py": "import time",
        "web/admin.py": "import proxy.app\nimport sqlalchemy\nimport httptools\nimport typst\nimport aiobotocore",
        "gateway.py": "import proxy.settings.loader\nimport redis.asyncio",
    }
    names = [line.partition("= ")[2] for line in (ROOT / ".importlinter").read_text().splitlines() if "name =" in line]
    assert len(names) == 9
    assert _broken_by(tmp_path, lines) == set(names)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("core/money.py", "import proxy.ledger.errors"),
        ("tasks.py", "import proxy.settings.types"),
        ("newcomer.py", '"""Nobody has said where this belongs."""'),
    ],
)
def test_a_step_up_or_aside_breaks_the_layers(tmp_path: Path, module: str, line: str) -> None:
    assert "Imports run one way, from the command line down to the pure core" in _broken_by(tmp_path, {module: line})


def test_the_core_imports_the_standard_library_and_msgspec_only() -> None:
    allowed = (sys.stdlib_module_names - CORE_MAY_NOT) | {"msgspec"}
    found = {
        (path.name, name)
        for path in (ROOT / "proxy" / "core").rglob("*.py")
        for name in _imported(path)
        if name.partition(".")[0] not in allowed and not name.startswith("proxy.core")
    }
    assert found == set()


def _imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            names.append(node.module or "")
    return names
