"""What docs/clients.md says is what the tests of this folder hold clients to."""

import json
import re
from importlib.metadata import version

from tests.sdk.test_errors import COHERE, OPENAI, OPENAI_NODE
from tests.sdk.test_retries import REQUESTS_OF_A_SPENT_MONTH
from tests.support.clients import NODE
from tests.support.process import ROOT

PAGE = (ROOT / "docs/clients.md").read_text()
IN_PYTHON = {"openai (Python)": "openai", "langchain-openai": "langchain-openai", "cohere (Python)": "cohere"}
IN_NODE = {"openai (Node.js)": "openai", "cohere-ai (Node.js)": "cohere-ai", "ai": "ai"}


def table(head: str) -> dict[str, list[str]]:
    """Return the rows of the table whose head begins so, by their first cell."""
    lines = PAGE.partition(f"\n| {head}")[2].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[: lines.index("")]]
    return {row[0]: row[1:] for row in rows}


def test_the_versions_are_those_that_are_installed():
    rows = {re.split(", `| with ", name)[0]: cells for name, cells in table("client | version").items()}
    locked = json.loads((NODE / "package-lock.json").read_text())["packages"]
    installed = {title: version(name) for title, name in IN_PYTHON.items()}
    installed |= {title: locked[f"node_modules/{name}"]["version"] for title, name in IN_NODE.items()}
    assert {title: rows[title][0] for title in installed} == installed


def test_the_requests_at_a_spent_month_are_those_that_were_counted():
    said = {title: int(cells[1]) for title, cells in table("client | a wait").items()}
    counted = dict(REQUESTS_OF_A_SPENT_MONTH)
    names = {
        "openai (Python)": "openai-python",
        "langchain-openai": "langchain",
        "openai (Node.js)": "openai-node",
        "cohere (Python)": "cohere-python",
        "cohere-ai (Node.js)": "cohere-node",
        "ai": "ai-sdk",
        "axios": "axios",
    }
    assert {names[title]: requests for title, requests in said.items()} == counted


def test_the_exceptions_are_those_that_were_raised():
    said = {int(status): [cell.strip("`") for cell in cells] for status, cells in table("status | openai").items()}
    assert said == {
        status: [OPENAI[status].__name__, OPENAI_NODE[status], COHERE[status].__name__] for status in OPENAI
    }
