"""A tokenizer so small that its counts can be checked by eye: words and punctuation marks, `[CLS] a [SEP] b [SEP]`."""

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

PAIR_TOKENS = 3


def write_tokenizer(path: Path) -> Path:
    """Write its file; it asks for truncation and padding, as those of rerankers do."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", [("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    path.write_text(tokenizer.to_str())
    return path
