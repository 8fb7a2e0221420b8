"""A model's tokenizer is read with the settings: found from their folder, kept while it is unchanged, bounded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import tokenizers
from tests.settings.support import SOUND, edit, load, mistakes, sound_folder
from tests.support.tokenizer import PAIR_TOKENS, write_tokenizer

MODEL = "gpt-oss:120b"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound configuration whose model names a tokenizer in a folder beside it."""
    folder = sound_folder(tmp_path)
    (tmp_path / "vocabularies").mkdir()
    write_tokenizer(tmp_path / "vocabularies" / "tokenizer.json")
    edit(
        folder,
        "models.yaml",
        "max_model_len: 60000",
        "max_model_len: 60000\n    tokenizer: ../vocabularies/tokenizer.json",
    )
    return folder


def test_a_model_counts_with_the_file_that_it_names(folder: Path):
    tokenizer = load(folder).models[MODEL].tokenizer
    assert tokenizer is not None
    assert tokenizer.count(["un, deux, trois, quatre, cinq", "", "un"]) == [9, 0, 1]
    assert tokenizer.pair_tokens == PAIR_TOKENS


def test_a_file_that_has_not_changed_is_not_read_again(folder: Path, tmp_path: Path):
    first = load(folder).models[MODEL].tokenizer
    assert load(folder).models[MODEL].tokenizer is first
    os.utime(tmp_path / "vocabularies" / "tokenizer.json", ns=(1, 1))
    assert load(folder).models[MODEL].tokenizer is not first


def test_a_file_that_is_too_large_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokenizers, "FILE_BYTES_MAX", 10)
    assert mistakes(folder) == [
        f"models.yaml:8: models.{MODEL}.tokenizer: the file that it names is larger than 10 bytes"
    ]


def test_no_more_files_are_kept_than_memory_is_meant_for(tmp_path: Path):
    folder = sound_folder(tmp_path)
    models = "".join(
        f"  m{at}:\n    endpoints: [/v1/rerank]\n    max_model_len: 512\n    upstreams: [cluster]\n"
        f"    tokenizer: {write_tokenizer(tmp_path / f'{at}.json')}\n"
        for at in range(tokenizers.FILES_MAX + 1)
    )
    with (folder / "models.yaml").open("a") as file:
        file.write(models)
    (mistake,) = mistakes(folder)
    assert mistake.endswith("models.m16.tokenizer: no more than 16 different files may be named")


def test_the_library_is_loaded_only_when_a_model_names_a_file(folder: Path, tmp_path: Path):
    program = (
        "import sys; from pathlib import Path; from proxy.settings.loader import load_settings;"
        f"load_settings(Path(sys.argv[1]), {{}}, now_ms={1_793_487_600_000}); print('tokenizers' in sys.modules)"
    )

    def is_loaded(config: Path) -> str:
        return subprocess.run(
            [sys.executable, "-c", program, str(config)], check=True, capture_output=True, text=True
        ).stdout.strip()

    assert (is_loaded(SOUND), is_loaded(folder)) == ("False", "True")
