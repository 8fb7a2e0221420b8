"""Makes the tiny `scripted` model: a Llama whose weights are a table of which token may follow which.

Usage: make_model.py FOLDER (needs torch, tokenizers, transformers; takes a second; the same bytes each time).

How it works: a token's embedding is the unit vector of its own id, attention and feed-forward are all zero, so the
last hidden state still says which token was read; the output layer then holds, in that token's column, a large number
for each token that may follow. Sampling picks evenly among those. The chat template looks for a word in the last user
message and ends the prompt with that answer's opening token. Text is read one byte a token (no merges), so that
prompts tokenize without a trained vocabulary; answers have tokens of their own.
"""

import sys
from pathlib import Path

import torch
from script import (
    ANSWERS,
    CALL_CLOSE,
    CALL_OPEN,
    END,
    PAD,
    RAND,
    SPLIT,
    THINK_CLOSE,
    THINK_OPEN,
    TURN,
    opening,
)
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 512
CONTEXT = 4096
LOGIT = 5.0  # times sqrt(VOCABULARY): a token outside the script has no chance even at temperature 2

SPECIAL = [PAD, TURN, END, *map(opening, ANSWERS)]  # never shown to a client
VISIBLE = [THINK_OPEN, THINK_CLOSE, CALL_OPEN, CALL_CLOSE]  # read by the engine's parsers

TEMPLATE = """
{%- if tools %}{{ turn }}system
You may call these functions:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif -%}
{%- set last = namespace(text='') -%}
{%- for message in messages -%}
{%- set text = message.content if message.content is string else '' -%}
{{ turn }}{{ message.role }}
{{ text }}
{%- for call in message.tool_calls or [] %}
{{ call.function.name }}({{ call.function.arguments }})
{%- endfor %}
{%- if message.role == 'user' %}{% set last.text = text %}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ turn }}assistant
{% if tools and 'TOOL' in last.text %}{{ openings.TOOL }}
{%- elif 'THINK' in last.text %}{{ openings.THINK }}
{%- elif 'LONG' in last.text %}{{ openings.LONG }}
{%- elif 'RAND' in last.text %}{{ openings.RAND }}
{%- else %}{{ openings.SHORT }}
{%- endif -%}
{%- endif -%}
"""


def byte_level(text: str) -> str:
    """The spelling of a text in a byte-level vocabulary: one printable character a byte."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return "".join(piece for piece, _ in splitter.pre_tokenize_str(text))


def spelled(piece: str) -> list[str]:
    """The vocabulary entries of one piece of an answer: one, or one a byte."""
    if piece in SPECIAL or piece in VISIBLE:
        return [piece]
    return list(byte_level(piece)) if piece in SPLIT else [byte_level(piece)]


def make_vocabulary() -> dict[str, int]:
    """Every byte, every special token, every token of an answer, and padding up to VOCABULARY."""
    entries = sorted(pre_tokenizers.ByteLevel.alphabet()) + SPECIAL + VISIBLE
    for answer in ANSWERS.values():
        for piece in answer:
            entries += [entry for entry in spelled(piece) if entry not in entries]
    entries += [f"<|unused{number}|>" for number in range(VOCABULARY - len(entries))]
    assert len(entries) == len(set(entries)) == VOCABULARY
    return {entry: index for index, entry in enumerate(entries)}


def make_tokenizer(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges, with the chat template."""
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in VISIBLE])
    assert tokenizer.get_vocab_size() == VOCABULARY
    openings = {word: opening(word) for word in ANSWERS}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=f"{{%- set turn = '{TURN}' %}}{{%- set openings = {openings} %}}{TEMPLATE.strip()}",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def followers(vocabulary: dict[str, int]) -> dict[int, list[int]]:
    """For each token the tokens that may come next; a token outside every answer starts the short one."""
    follow: dict[int, list[int]] = {}
    for word, answer in ANSWERS.items():
        tokens = [vocabulary[entry] for piece in answer for entry in spelled(piece)]
        start, end = vocabulary[opening(word)], vocabulary[END]
        if answer is RAND:
            steps = [(start, tokens), *((token, [*tokens, end]) for token in tokens)]
        else:
            after = tokens[1:] + ([] if tokens[-1] == end else tokens[:1])
            steps = [
                (start, tokens[:1]),
                *((token, [following]) for token, following in zip(tokens, after, strict=False)),
            ]
        for token, allowed in steps:
            assert token not in follow, f"a token of {word} belongs to two answers"
            follow[token] = allowed
    first = follow[vocabulary[opening("SHORT")]]
    return {token: follow.get(token, first) for token in vocabulary.values()}


def make_model(vocabulary: dict[str, int]) -> LlamaForCausalLM:
    """The Llama that only follows the table."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=VOCABULARY,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=vocabulary[END],
        pad_token_id=vocabulary[PAD],
    )
    model = LlamaForCausalLM(config).float()
    table = torch.zeros(VOCABULARY, VOCABULARY)
    for token, allowed in followers(vocabulary).items():
        table[allowed, token] = LOGIT
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight.copy_(torch.eye(VOCABULARY))
        model.lm_head.weight.copy_(table)
    return model


def check(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """The model says what the script says, and a chat's prompt is what the template shows."""
    for word in ("SHORT", "THINK", "LONG"):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"say {word}"}], add_generation_prompt=True, tokenize=False
        )
        assert prompt == f"{TURN}user\nsay {word}{TURN}assistant\n{opening(word)}", repr(prompt)
        read = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        answer = model.generate(**read, max_new_tokens=64, do_sample=False)[0][read["input_ids"].shape[1] :]
        assert tokenizer.decode(answer) == "".join(ANSWERS[word]), repr(tokenizer.decode(answer))


def main() -> None:
    """Write the model folder."""
    folder = Path(sys.argv[1])
    vocabulary = make_vocabulary()
    tokenizer, model = make_tokenizer(vocabulary), make_model(vocabulary)
    check(model, tokenizer)
    model.generation_config.update(do_sample=False, eos_token_id=vocabulary[END], pad_token_id=vocabulary[PAD])
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


if __name__ == "__main__":
    main()
