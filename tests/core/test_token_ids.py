"""Token ids are made the text again that a client of tiktoken had."""

import base64
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.core.calls.token_ids import UnknownTokenError, text_of
from proxy.settings import vocabulary
from proxy.settings.vocabulary import CL100K_SPECIAL, CL100K_TOKENS, cl100k_base

TIKTOKEN_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
"""What tiktoken itself checks its download of cl100k_base against (tiktoken_ext/openai_public.py)."""

ENCODED = {
    "Le texte à vectoriser": [2356, 69067, 3869, 4724, 12329],
    "👩‍👩‍👧‍👦 famille 🇫🇷": [
        9468, 239, 102, 378, 235, 9468, 239, 102, 378, 235, 9468, 239, 100, 378, 235, 9468, 239, 99, 67628, 11410, 229,
        104, 9468, 229, 115,
    ],
    "日本語のテキスト、漢字かな交じり文。": [
        9080, 22656, 45918, 252, 16144, 57933, 62903, 71634, 5486, 78256, 95, 19113, 32149, 26854, 39209, 100204, 31431,
        17161, 1811,
    ],
    "naïve café — “guillemets” «œuvre»\n\ttab\r\n": [
        3458, 38672, 588, 53050, 2001, 1054, 8890, 321, 3516, 1441, 863, 12769, 52822, 61480, 13289, 198, 59249, 319,
    ],
    "<|endoftext|> is text here": [27, 91, 8862, 728, 428, 91, 29, 374, 1495, 1618],
    "﷽ العربية עברית हिन्दी ไทย": [
        171, 115, 121, 17607, 24102, 11318, 22071, 74541, 17732, 95, 76625, 51326, 43336, 103, 85410, 43411, 101, 31584,
        99, 44747, 220, 50856, 36984, 35609,
    ],
    'a\x00b\x07\\"/': [64, 188, 65, 195, 2153, 14],
    "   spaces   \n\n\n": [256, 12908, 262, 1432],
}  # fmt: skip
"""Texts as tiktoken 0.14.0 encodes them."""


def tiktoken_file() -> bytes:
    """The file as tiktoken downloads it: a line a token, its bytes in base64 and its id."""
    tokens = enumerate(cl100k_base()[:CL100K_TOKENS])
    return b"".join(b"%b %d\n" % (base64.b64encode(token), token_id) for token_id, token in tokens)


def test_the_vocabulary_is_tiktokens_to_the_byte():
    assert hashlib.sha256(tiktoken_file()).hexdigest() == TIKTOKEN_SHA256
    assert len(cl100k_base()) == 100_277


def test_the_file_is_the_one_that_its_readme_names():
    folder = Path(vocabulary.__file__).parent / "vocabularies"
    readme = (folder / "README.md").read_text()
    assert hashlib.sha256((folder / "cl100k_base.gz").read_bytes()).hexdigest() in readme
    assert TIKTOKEN_SHA256 in readme


@pytest.mark.parametrize("text", ENCODED)
def test_what_tiktoken_encodes_is_decoded(text):
    assert text_of(ENCODED[text], cl100k_base()) == text


@pytest.mark.parametrize("text", ENCODED)
def test_a_text_that_is_cut_between_tokens_loses_only_the_character_that_was_cut(text):
    ids, vocabulary_ = ENCODED[text], cl100k_base()
    for at in range(len(ids) + 1):
        first, second = text_of(ids[:at], vocabulary_), text_of(ids[at:], vocabulary_)
        whole, rest = first.rstrip("\ufffd"), second.lstrip("\ufffd")
        assert text.startswith(whole)
        assert text.endswith(rest)
        assert len(text) - len(whole) - len(rest) <= 1
        if "\ufffd" not in first + second:
            assert first + second == text


def test_every_token_alone_is_decoded_as_its_bytes():
    vocabulary_ = cl100k_base()
    for token_id in range(CL100K_TOKENS):
        assert text_of([token_id], vocabulary_) == vocabulary_[token_id].decode("utf-8", "replace")


def test_a_special_token_gives_its_name():
    assert text_of([9906, 100_257], cl100k_base()) == "Hello<|endoftext|>"
    assert {text_of([token_id], cl100k_base()) for token_id in CL100K_SPECIAL} == {
        "<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|endofprompt|>",
    }  # fmt: skip


@pytest.mark.parametrize("token_id", [100_256, 100_261, 100_275, 100_277, 199_999, 2**31 - 1])
def test_an_id_of_no_token_is_unknown(token_id):
    with pytest.raises(UnknownTokenError):
        text_of([9906, token_id], cl100k_base())


def test_a_proxy_that_sees_no_ids_reads_no_vocabulary():
    code = (
        "from pathlib import Path\n"
        "from proxy.core.calls.embeddings import prepare_embeddings\n"
        "from proxy.settings.loader import load_settings\n"
        "from proxy.settings.vocabulary import cl100k_base\n"
        "terms = load_settings(Path('config'), {}).terms\n"
        "def prepare(given):\n"
        '    body = b\'{"model":"granite-embedding:278m","input":%b}\' % given\n'
        "    prepare_embeddings(body, '/v1/embeddings', terms)\n"
        "    return cl100k_base.cache_info().currsize\n"
        "print(prepare(b'\"text\"'), prepare(b'[9906]'))\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("0 1\n", "")
