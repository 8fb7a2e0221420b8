"""Makes three tiny models that generate no chat: `embedder`, `reranker` and `whisper`, and sounds for the last.

Usage: make_others.py FOLDER (needs torch, tokenizers, transformers, soundfile, av; takes seconds).

The first two have random weights and one token a character, so that what they read can be counted by hand: a text
takes its characters and two, a query with a document both their characters and three. The Whisper's decoder is a table
of which token follows which: whatever it hears, it says the same words. The sounds are tones of known lengths.
"""

import math
import sys
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from others import ALPHABET, SOUNDS, TIMED_WORDS, WORDS
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

CONTEXT = 512
PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPEECH_CONTEXT = 448
FRAMES_PER_SECOND = 50
HEARD_S = 30
RATE = 16_000
TONE_HZ = 440
LOGIT = 4.0
STOP = "<|endoftext|>"
BEGIN, LANGUAGE, PLAIN = "<|startoftranscript|>", "<|en|>", "<|notimestamps|>"
TASK, TRANSLATE = "<|transcribe|>", "<|translate|>"
MARKS = (BEGIN, LANGUAGE, "<|fr|>", TRANSLATE, TASK, "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", PLAIN)


def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, whatever the character; what stands around texts and pairs is BERT's."""
    vocabulary = {token: index for index, token in enumerate([PAD, UNKNOWN, START, END, *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (PAD, UNKNOWN, START, END)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        pair=f"{START} $A {END} $B:1 {END}:1",
        special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=START,
        sep_token=END,
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def make_pooling(folder: Path) -> None:
    """Write `embedder` and `reranker`."""
    tokenizer = character_tokenizer()
    assert len(tokenizer("né 🙂")["input_ids"]) == 6
    assert len(tokenizer("ab", "cde")["input_ids"]) == 8
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=CONTEXT,
        num_labels=1,
    )
    torch.manual_seed(0)
    for name, model in (("embedder", BertModel(config)), ("reranker", BertForSequenceClassification(config))):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def speech_tokenizer(folder: Path) -> WhisperTokenizer:
    """Every byte, the words of the script, and Whisper's marks and timestamps."""
    printable = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*printable, *WORDS, *TIMED_WORDS, STOP])}
    tokenizer = WhisperTokenizer(
        vocab=vocabulary, merges=[], unk_token=STOP, bos_token=STOP, eos_token=STOP, pad_token=STOP
    )
    times = [f"<|{frame / FRAMES_PER_SECOND:.2f}|>" for frame in range(HEARD_S * FRAMES_PER_SECOND + 1)]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in (*MARKS, *times)])
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_whisper(folder: Path) -> None:
    """Write `whisper`."""
    tokenizer = speech_tokenizer(folder)
    id_of = tokenizer.convert_tokens_to_ids
    width = -(-len(tokenizer) // 64) * 64
    config = WhisperConfig(
        vocab_size=width,
        d_model=width,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=width // 64,
        decoder_attention_heads=width // 64,
        encoder_ffn_dim=64,
        decoder_ffn_dim=width,
        max_source_positions=HEARD_S * FRAMES_PER_SECOND,
        max_target_positions=SPEECH_CONTEXT,
        bos_token_id=id_of(STOP),
        eos_token_id=id_of(STOP),
        pad_token_id=id_of(STOP),
        decoder_start_token_id=id_of(BEGIN),
        suppress_tokens=[],
        begin_suppress_tokens=[],
    )
    model = WhisperForConditionalGeneration(config)
    follows = dict.fromkeys(range(width), id_of(STOP))
    chains = (
        (PLAIN, *WORDS, STOP),
        (TASK, "<|0.00|>", *TIMED_WORDS, "<|1.00|>", STOP),
        (TRANSLATE, "<|0.00|>"),
        (BEGIN, LANGUAGE, TASK),  # where no language is named, it is asked for first
    )
    for chain in chains:
        ids = [id_of(token) for token in chain]
        follows |= dict(pairwise(ids))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("model.encoder.embed_positions"):
                continue
            weight.fill_(1.0 if "layer_norm.weight" in name else 0.0)
        model.model.decoder.embed_tokens.weight.copy_(torch.eye(width))
        layer = model.model.decoder.layers[0]
        layer.fc1.weight.copy_(torch.eye(width))
        table = torch.zeros(width, width)
        for token, following in follows.items():
            table[following, token] = LOGIT
        layer.fc2.weight.copy_(table)
    generation = model.generation_config
    generation.update(
        decoder_start_token_id=id_of(BEGIN),
        eos_token_id=id_of(STOP),
        pad_token_id=id_of(STOP),
        max_length=SPEECH_CONTEXT,
    )
    generation.no_timestamps_token_id = id_of(PLAIN)
    generation.prev_sot_token_id = id_of("<|startofprev|>")
    generation.is_multilingual = True
    generation.lang_to_id = {token: id_of(token) for token in (LANGUAGE, "<|fr|>")}
    generation.task_to_id = {"transcribe": id_of(TASK), "translate": id_of(TRANSLATE)}
    generation.return_timestamps = False
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)


def make_sounds(folder: Path) -> None:
    """Write a tone for each of SOUNDS; its name says its length in milliseconds and its format."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SOUNDS:
        length_ms, form = name.split(".")
        frames = int(length_ms) * RATE // 1000
        tone = np.array([math.sin(2 * math.pi * TONE_HZ * frame / RATE) / 4 for frame in range(frames)])
        if form == "m4a":
            write_m4a(folder / name, tone)
        else:
            soundfile.write(folder / name, tone, RATE)


def write_m4a(path: Path, tone: np.ndarray) -> None:
    """Write AAC in MP4."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone.astype("float32")[None, :], format="fltp", layout="mono")
        frame.sample_rate = RATE
        fifo = av.AudioFifo()
        fifo.write(frame)
        while (part := fifo.read(1024)) is not None:
            container.mux(stream.encode(part))
        if (rest := fifo.read(0, partial=True)) is not None:
            container.mux(stream.encode(rest))
        container.mux(stream.encode(None))


def main() -> None:
    """Write everything."""
    folder = Path(sys.argv[1])
    make_pooling(folder)
    make_whisper(folder / "whisper")
    make_sounds(folder / "sounds")


if __name__ == "__main__":
    main()
