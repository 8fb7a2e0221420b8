"""Every mistake is reported where it stands.

mistakes/ holds one file a mistake, named after the file that it stands in for (``environment``: variables). Its first
lines, marked ``#!``, are exactly what is reported; every other file is sound.
"""

from pathlib import Path

import pytest

from proxy.settings.document import FILE_BYTES_MAX
from proxy.settings.loader import load_settings
from proxy.settings.mistakes import Mistake, SettingsError, masked, shown
from tests.settings.support import load, mistakes, sound_folder

FIXTURES = sorted((Path(__file__).parent / "mistakes").iterdir())
PASSWORD = "hunter2"


def with_fixture(fixture: Path, tmp_path: Path) -> list[str]:
    folder = sound_folder(tmp_path)
    lines = fixture.read_text().splitlines()
    if fixture.suffix == ".env":
        environ = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
        return mistakes(folder, **environ)
    stands_for = fixture.name.split("--")[0]
    (folder / f"{stands_for}.yaml").write_bytes(fixture.read_bytes())
    return mistakes(folder)


def test_the_folder_that_mistakes_are_made_in_is_sound(tmp_path: Path):
    load(sound_folder(tmp_path))


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture.stem)
def test_a_mistake_is_reported_with_file_and_line(fixture: Path, tmp_path: Path):
    expected = [line[3:] for line in fixture.read_text().splitlines() if line.startswith("#! ")]
    assert expected
    assert with_fixture(fixture, tmp_path) == expected


@pytest.mark.parametrize(
    "fixture", [fixture for fixture in FIXTURES if PASSWORD in fixture.read_text()], ids=lambda fixture: fixture.stem
)
def test_no_secret_is_quoted(fixture: Path, tmp_path: Path):
    assert PASSWORD not in "\n".join(with_fixture(fixture, tmp_path))


def test_mistakes_of_all_files_are_reported_together_in_order(tmp_path: Path):
    folder = sound_folder(tmp_path)
    for name in ("proxy", "tiers", "prices", "models", "seller"):
        (folder / f"{name}.yaml").write_text((folder / f"{name}.yaml").read_text() + "colour: red\n")
    reported = mistakes(folder, TOLLGATE_LISTEN="8080")
    assert [line.split(": ")[0] for line in reported] == [
        "models.yaml:9", "prices.yaml:6", "proxy.yaml:2", "seller.yaml:19", "tiers.yaml:8", "environment",
    ]  # fmt: skip


def test_a_missing_file_is_a_mistake_but_for_proxy_yaml_and_seller_yaml(tmp_path: Path):
    folder = sound_folder(tmp_path)
    for path in folder.iterdir():
        path.unlink()
    assert mistakes(folder) == [
        "models.yaml: the file is missing",
        "prices.yaml: the file is missing",
        "tiers.yaml: the file is missing",
    ]


def test_a_missing_folder_is_one_mistake(tmp_path: Path):
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path / "nowhere", {})
    assert [str(mistake) for mistake in caught.value.mistakes] == [f"{tmp_path}/nowhere: there is no such folder"]


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path):
    folder = sound_folder(tmp_path)
    (folder / "proxy.yaml").unlink()
    (folder / "proxy.yaml").mkdir()
    assert mistakes(folder) == ["proxy.yaml: the file cannot be read: Is a directory"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"listen: 127.0.0.1:8080\n# caf\xe9\n", ":2: expected UTF-8 text"),
        (b"listen: 127.0.0.1:8080\n\n# \x07\n", ":3: not valid YAML: a character that may not be in a text file"),
        (b"[" * 10_000, ": nested too deeply"),
        (b"#" * (FILE_BYTES_MAX + 1), f": the file is larger than {FILE_BYTES_MAX} bytes"),
    ],
    ids=["another encoding", "a control character", "nested too deeply", "too large"],
)
def test_a_file_that_is_no_text_is_a_mistake(tmp_path: Path, content: bytes, expected: str):
    folder = sound_folder(tmp_path)
    (folder / "proxy.yaml").write_bytes(content)
    assert mistakes(folder) == [f"proxy.yaml{expected}"]


def test_a_file_of_nearly_the_right_name_is_not_overlooked(tmp_path: Path):
    folder = sound_folder(tmp_path)
    (folder / "proxy.yaml").rename(folder / "proxy.yml")
    (folder / "notes.yaml").write_text("not ours\n")
    assert mistakes(folder) == ["proxy.yml: not a file that is read: its name is nearly proxy.yaml"]


def test_a_mistake_in_one_place_brings_no_others_about_what_depends_on_it(tmp_path: Path):
    folder = sound_folder(tmp_path)
    models = folder / "models.yaml"
    models.write_text(models.read_text().replace("url: http://127.0.0.1:9900", "url: 127.0.0.1"))
    assert len(mistakes(folder)) == 1  # and not: the model's upstream is unknown


def test_a_check_between_settings_waits_until_each_of_them_is_sound(tmp_path: Path):
    folder = sound_folder(tmp_path)
    (folder / "proxy.yaml").write_text("limiter:\n  hold_ttl_s: 4\n  heartbeat_s: x\n")
    assert mistakes(folder) == ["proxy.yaml:3: limiter.heartbeat_s: expected a whole number, got 'x'"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://:hunter2@host:6379/0", "redis://***@host:6379/0"),
        ("redis://user:p@ss word@host", "redis://***@host"),
        ("user:hunter2@host", "***@host"),
        ("postgresql://host/db?password=hunter2&sslmode=require", "postgresql://host/db?password=***&sslmode=require"),
        ("127.0.0.1:8080", "127.0.0.1:8080"),
    ],
)
def test_what_may_be_a_password_is_masked(text: str, expected: str):
    assert masked(text) == expected


def test_a_wrong_value_is_shown_on_one_short_line():
    assert shown("a\nb") == "a?b"
    assert len(shown("x" * 1000)) == 60


def test_a_mistake_knows_its_column(tmp_path: Path):
    folder = sound_folder(tmp_path)
    (folder / "proxy.yaml").write_text("timeouts: {connect_s: soon}\n")
    with pytest.raises(SettingsError) as caught:
        load(folder)
    assert caught.value.mistakes == (
        Mistake(f"{folder}/proxy.yaml", 1, "timeouts.connect_s", "expected a number, got 'soon'", 23),
    )
