"""Scripts are decided by the prompt and the seed alone, and hold exactly the tokens that were asked for."""

import json

from hypothesis import given
from hypothesis import strategies as st

from proxy.simulator.scripts import Part, ToolCall, stop_at, write_text, write_tool_call


@given(prompt=st.text(), choice=st.integers(0, 7))
def test_the_same_prompt_gets_the_same_answer(prompt: str, choice: int) -> None:
    assert write_text(prompt, choice=choice) == write_text(prompt, choice=choice)


def test_another_seed_or_choice_gets_another_answer() -> None:
    answers = {write_text("hi", seed=seed, choice=choice) for seed in (0, 1) for choice in (0, 1)}
    assert len(answers) == 4


@given(tokens=st.integers(1, 300), reasons=st.booleans())
def test_an_asked_length_is_met_exactly_and_ends_with_the_end_of_sequence(tokens: int, reasons: bool) -> None:
    script = write_text("hi", tokens=tokens, reasons=reasons)
    assert script.tokens == tokens
    assert (script.steps[-1].part, script.finish_reason) == (Part.END, "stop")


@given(prompt=st.text(max_size=5), tokens_max=st.integers(1, 400), reasons=st.booleans())
def test_no_answer_is_longer_than_its_bound_and_a_cut_one_says_so(prompt: str, tokens_max: int, reasons: bool) -> None:
    natural = write_text(prompt, reasons=reasons)
    script = write_text(prompt, tokens_max=tokens_max, reasons=reasons)
    assert script.tokens == min(natural.tokens, tokens_max)
    assert script.finish_reason == ("length" if tokens_max < natural.tokens else "stop")


def test_a_character_of_several_tokens_comes_whole_or_not_at_all() -> None:
    steps = [step for prompt in "abcdefgh" for step in write_text(prompt, tokens=300).steps]
    wide = {step.text: step.tokens for step in steps if not step.text.isascii()}
    assert wide["é"] == 2
    assert wide["😀"] == 4
    for tokens_max in range(1, 60):
        assert write_text("a", tokens=300, tokens_max=tokens_max).tokens == tokens_max


def test_reasoning_comes_first_and_is_counted() -> None:
    script = write_text("hi", tokens=20, reasons=True)
    assert script.reasoning_tokens == 10
    parts = [step.part for step in script.steps]
    assert parts == sorted(parts, key=[Part.REASONING, Part.CONTENT, Part.END].index)


def test_lengths_vary_between_prompts() -> None:
    lengths = {write_text(str(number)).tokens for number in range(200)}
    assert len(lengths) > 60
    assert 16 <= min(lengths) < 40
    assert 300 < max(lengths) <= 416


@given(prompt=st.text(max_size=5), start=st.integers(0, 150), length=st.integers(1, 12))
def test_a_stop_word_ends_an_answer_with_the_token_that_completes_it(prompt: str, start: int, length: int) -> None:
    whole = write_text(prompt, tokens=100)
    said = whole.text(Part.CONTENT)
    word = said[start : start + length]
    script = stop_at(whole, (word,))
    if not word:
        assert script == whole
        return
    before = said[: said.index(word)]
    assert (script.text(Part.CONTENT), script.finish_reason, script.stop_reason) == (before, "stop", word)
    sampled = whole.steps[: len(script.steps)]
    assert "".join(step.text for step in sampled).startswith(before + word)
    assert len("".join(step.text for step in sampled[:-1])) < len(before + word)
    assert script.tokens == sum(step.tokens for step in sampled)


@given(st.dictionaries(st.text(max_size=5), st.one_of(st.text(max_size=5), st.integers()), max_size=3))
def test_the_pieces_of_tool_arguments_join_to_the_same_json(arguments: dict[str, object]) -> None:
    script = write_tool_call(ToolCall("f", json.dumps(arguments)))
    assert json.loads(script.text(Part.TOOL_ARGUMENTS)) == arguments
    assert script.finish_reason == "tool_calls"
