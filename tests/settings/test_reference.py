"""The reference is the one that the code gives, and names everything."""

from pathlib import Path

import msgspec

from proxy.settings.environment import VARIABLES
from proxy.settings.forms import FORM_NAMES, FORMS
from proxy.settings.loader import FILES
from proxy.settings.reference import render, setting_paths
from tests.settings.support import ROOT

DOCUMENT = (ROOT / "docs" / "configuration.md").read_text()


def test_the_document_is_the_generated_one():
    assert render() == DOCUMENT, "run: python -m proxy.settings.reference > docs/configuration.md"


def test_every_setting_is_in_the_document():
    paths = [path.split(": ")[1] for path in setting_paths()]
    assert len(paths) > 60
    assert [path for path in paths if f"| `{path}` |" not in DOCUMENT] == []


def test_every_variable_and_file_is_in_the_document():
    assert [name for name in VARIABLES if f"| `{name}` |" not in DOCUMENT] == []
    assert [name for name in FILES if f"\n## {name}\n" not in DOCUMENT] == []


def test_every_setting_has_a_meaning():
    rows = [line.removesuffix(" |") for line in DOCUMENT.splitlines() if line.startswith("| `")]
    meanings = [row.removesuffix(" *Restart.*").rpartition("| ")[2] for row in rows]
    assert [meaning for meaning in meanings if not meaning.strip().endswith(".")] == []


def test_every_form_has_a_name():
    assert set(FORM_NAMES) == set(FORMS)


def test_every_variable_that_is_read_is_in_the_table():
    sources = (ROOT / "proxy" / "settings").glob("*.py")
    text = "\n".join(path.read_text() for path in sources if path.name != "reference.py")
    names = {word.strip("\"'`,.)(:") for word in text.split() if "TOLLGATE_" in word and "{" not in word}
    assert {name for name in names if name.startswith("TOLLGATE_")} <= set(VARIABLES)


def test_every_setting_is_a_frozen_value():
    def check(shape: type[msgspec.Struct]) -> None:
        assert shape.__struct_config__.frozen, shape
        for field in msgspec.inspect.type_info(shape).fields:
            if isinstance(field.default, msgspec.Struct):
                check(type(field.default))

    for shape in FILES.values():
        check(shape)


def test_the_examples_of_mistakes_in_the_document_are_of_the_form_that_is_printed():
    lines = [line for line in DOCUMENT.splitlines() if line.startswith("config/") and ".yaml:" in line]
    assert len(lines) == 2
    for line in lines:
        file, number, _ = line.split(":", 2)
        assert (ROOT / Path(file)).exists()
        assert number.isdigit()
