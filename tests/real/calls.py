"""The mixed calls of the campaign, made with the official OpenAI SDK, and what a customer sees of each.

A kind is one way to call; each kind has an account of its own, so that the ledger can be held against it. Here a call
is made and looked at from the client's side only: nothing is compared with the ledger or the engine.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from openai import APIError, AsyncOpenAI
from openai.types import CompletionUsage
from script import MARK, generated, opening

MODEL = "scripted"
LIMIT_HEADERS = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
CALL_S = 180.0

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city, now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
HANDBOOK = "You answer for the lighthouse keepers. " + "Keep the lamp lit, the log dry and the horn loud. " * 24


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to call the model.

    Attributes:
        name: The account's name too.
        word: Which answer of the script is asked for.
        stream: Whether the answer is streamed.
        usage: Whether the client asks to see the usage; without a stream it always does.
        choices: The `n` of the call.
        prompts: How many texts a call completes; 0: it is a chat.
        more: Further parameters, drawn for each call.
        weight: How often it comes, beside the others.
    """

    name: str
    word: str = "SHORT"
    stream: bool = False
    usage: bool = True
    choices: int = 1
    prompts: int = 0
    more: Callable[[Random], dict] = lambda _: {}
    weight: int = 1

    @property
    def answers(self) -> int:
        """How many choices come back."""
        return self.choices * max(self.prompts, 1)

    def body(self, random: Random) -> dict:
        """The parameters of one call."""
        body: dict = {"model": MODEL}
        if self.prompts:
            texts = [f"{draw_text(random)}{opening(self.word)}" for _ in range(self.prompts)]
            body["prompt"] = texts[0] if self.prompts == 1 else texts
        else:
            body["messages"] = [{"role": "user", "content": f"{draw_text(random)} {self.word}"}]
        if self.stream:
            body["stream"] = True
            if self.usage:
                body["stream_options"] = {"include_usage": True}
        if self.choices > 1:
            body["n"] = self.choices
        return body | self.more(random)


def draw_text(random: Random) -> str:
    """A text that no other call has."""
    return "".join(random.choices("etaoin shrdlu, émi. ", k=random.randint(3, 240)))


def tokens(low: int, high: int, **more: object) -> Callable[[Random], dict]:
    """A max_tokens drawn between the two."""
    return lambda random: {"max_tokens": random.randint(low, high), **more}


def fixed(**more: object) -> Callable[[Random], dict]:
    """The same parameters each time."""
    return lambda _: more


def stop_word(random: Random) -> dict:
    """A stop sequence that LONG reaches; the word itself is generated, but not shown."""
    return {"max_tokens": 100, "stop": [f" long{random.randint(3, 40):02}_"]}


def after_tool(random: Random) -> dict:
    """The second half of a tool call: its result is in the messages."""
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
    }
    return {
        "tools": [WEATHER],
        "messages": [
            {"role": "user", "content": "the weather, please"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": f"{random.randint(-5, 35)} degrees"},
        ],
    }


def handbook(random: Random) -> dict:
    """A long first message that all such calls share, so that the engine finds it in its prefix cache."""
    question = {"role": "user", "content": f"question {random.randint(0, 10**6)}"}
    return {"messages": [{"role": "system", "content": HANDBOOK}, question]}


THINKING = {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}

FINISHED = (
    Kind("short", weight=3),
    Kind("short-stream", stream=True, usage=False, weight=2),
    Kind("short-stream-usage", stream=True, weight=2),
    Kind("short-logprobs", more=fixed(logprobs=True, top_logprobs=2)),
    Kind("short-logprobs-stream", stream=True, more=fixed(logprobs=True)),
    Kind("long", "LONG", more=tokens(5, 160), weight=2),
    Kind("long-stream", "LONG", stream=True, usage=False, more=tokens(5, 160), weight=3),
    Kind("long-stream-usage", "LONG", stream=True, more=tokens(5, 160), weight=2),
    Kind(
        "long-stream-continuous",
        "LONG",
        stream=True,
        more=tokens(5, 60, stream_options={"include_usage": True, "continuous_usage_stats": True}),
    ),
    Kind("long-completion-tokens", "LONG", more=lambda random: {"max_completion_tokens": random.randint(5, 80)}),
    Kind("long-stop", "LONG", more=stop_word),
    Kind("long-stop-stream", "LONG", stream=True, usage=False, more=stop_word),
    Kind("rand", "RAND", more=fixed(temperature=1.0), weight=2),
    Kind("rand-stream", "RAND", stream=True, usage=False, more=fixed(temperature=1.0), weight=3),
    Kind("rand-stream-usage", "RAND", stream=True, more=tokens(20, 60, temperature=1.3), weight=2),
    Kind("tool", "TOOL", more=fixed(tools=[WEATHER])),
    Kind("tool-stream", "TOOL", stream=True, usage=False, more=fixed(tools=[WEATHER])),
    Kind("tool-stream-usage", "TOOL", stream=True, more=fixed(tools=[WEATHER])),
    Kind("tool-result", more=after_tool),
    Kind("think", "THINK", more=fixed(**THINKING)),
    Kind("think-stream", "THINK", stream=True, usage=False, more=fixed(**THINKING)),
    Kind("think-stream-usage", "THINK", stream=True, more=fixed(**THINKING)),
    Kind("shared-prefix", more=handbook, weight=2),
    Kind("shared-prefix-stream", stream=True, usage=False, more=handbook),
)
SEVERAL_CHOICES = (
    Kind("choices-rand", "RAND", choices=2, more=fixed(temperature=1.0)),
    Kind("choices-long-stream", "LONG", stream=True, usage=False, choices=2, more=tokens(5, 80)),
    Kind("choices-rand-stream-usage", "RAND", stream=True, choices=3, more=fixed(temperature=1.0)),
)
COMPLETED = (
    Kind("text", prompts=1, more=fixed(max_tokens=40), weight=2),
    Kind("text-stream", prompts=1, stream=True, usage=False, more=fixed(max_tokens=40), weight=2),
    Kind("text-stream-usage", prompts=1, stream=True, more=fixed(max_tokens=40)),
    Kind("text-long", "LONG", prompts=1, more=tokens(5, 120)),
    Kind("text-long-stream", "LONG", prompts=1, stream=True, usage=False, more=tokens(5, 120), weight=2),
    Kind("text-rand-stream", "RAND", prompts=1, stream=True, usage=False, more=fixed(temperature=1.0, max_tokens=300)),
    Kind("texts", prompts=3, more=fixed(max_tokens=40)),
    Kind("texts-long-stream", "LONG", prompts=2, stream=True, usage=False, more=tokens(5, 60)),
    Kind("texts-long-stream-usage", "LONG", prompts=4, stream=True, more=tokens(5, 60)),
)
TEXT_CHOICES = (
    Kind("text-choices", "RAND", prompts=1, choices=2, more=fixed(temperature=1.0, max_tokens=300)),
    Kind("texts-choices-stream", "LONG", prompts=2, choices=2, stream=True, usage=False, more=tokens(5, 60)),
)
LEFT = (
    Kind("left-stream", "LONG", stream=True, usage=False, more=fixed(max_tokens=2000), weight=3),
    Kind("left-stream-usage", "LONG", stream=True, more=fixed(max_tokens=2000), weight=2),
    Kind("left-text", "LONG", prompts=1, stream=True, usage=False, more=fixed(max_tokens=2000)),
    Kind("left-choices", "LONG", stream=True, usage=False, choices=2, more=fixed(max_tokens=1000)),
)
LEFT_ALONE = Kind("left-alone", "LONG", stream=True, usage=False, more=fixed(max_tokens=2000))
LEFT_WAITING = Kind("left-waiting", "LONG", more=tokens(500, 700))


@dataclass(slots=True)
class Outcome:
    """What the client saw of one call.

    Attributes:
        kind: How it called.
        tokens_max: The `max_tokens` it sent, or the most the script can need.
        usage: The usage that the answer showed, None where it showed none.
        texts: What each choice said, reasoning included.
        finishes: Why each choice ended.
        logprobs: The tokens listed with their probabilities, all choices together.
        usage_chunks: How many chunks of a stream carried usage.
        bare_chunks: How many chunks of a stream had no choice in them.
        faults: What a customer would complain about.
    """

    kind: Kind
    tokens_max: int
    usage: CompletionUsage | None = None
    texts: dict[int, str] = field(default_factory=dict)
    finishes: dict[int, str] = field(default_factory=dict)
    logprobs: int = 0
    usage_chunks: int = 0
    bare_chunks: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """The tokens of LONG or RAND that arrived."""
        return sum(text.count(MARK) for text in self.texts.values())

    @property
    def scripted(self) -> int:
        """The tokens that the script says were generated for a finished call."""
        return sum(
            generated(self.kind.word, text, self.finishes.get(index, ""), self.tokens_max)
            for index, text in self.texts.items()
        )

    def say(self, index: int, *pieces: str | None) -> None:
        """Add to what a choice said."""
        self.texts[index] = self.texts.get(index, "") + "".join(piece or "" for piece in pieces)


async def call(
    client: AsyncOpenAI, kind: Kind, body: dict, *, headers: bool, leave_after: int | None = None
) -> Outcome:
    """Make one call and look at it; leave a stream once that many tokens were seen."""
    outcome = Outcome(kind, body.get("max_tokens") or body.get("max_completion_tokens") or 1024)
    try:
        async with asyncio.timeout(CALL_S):
            resource = client.completions if kind.prompts else client.chat.completions
            raw = await resource.with_raw_response.create(**body)
            if headers:
                outcome.faults += [f"no {name} header" for name in LIMIT_HEADERS if name not in raw.headers]
            if not kind.stream:
                take_whole(outcome, raw.parse())
            elif leave_after is None:
                async for chunk in raw.parse():
                    take_chunk(outcome, chunk)
            else:
                await take_some(outcome, raw.parse(), leave_after)
    except (APIError, TimeoutError) as exc:
        outcome.faults.append(f"{type(exc).__name__}: {exc}")
        return outcome
    if leave_after is None:
        outcome.faults += complaints(outcome, body)
    return outcome


def said(choice, part: str) -> tuple[str | None, ...]:
    """What a choice says: of a text itself, of a chat its reasoning and its content."""
    inner = getattr(choice, part, None)
    return (choice.text,) if inner is None else (getattr(inner, "reasoning", None), inner.content)


def take_whole(outcome: Outcome, completion) -> None:
    """Look at an answer that came in one piece."""
    outcome.usage = completion.usage
    for choice in completion.choices:
        outcome.say(choice.index, *said(choice, "message"))
        outcome.finishes[choice.index] = choice.finish_reason
        outcome.logprobs += len(getattr(choice.logprobs, "content", None) or ())


def take_chunk(outcome: Outcome, chunk) -> None:
    """Look at one chunk of a stream."""
    outcome.bare_chunks += not chunk.choices
    if chunk.usage is not None:
        outcome.usage = chunk.usage
        outcome.usage_chunks += 1
    for choice in chunk.choices:
        outcome.say(choice.index, *said(choice, "delta"))
        outcome.logprobs += len(getattr(choice.logprobs, "content", None) or ())
        if choice.finish_reason:
            outcome.finishes[choice.index] = choice.finish_reason


async def take_some(outcome: Outcome, stream, leave_after: int) -> None:
    """Read a stream until that many tokens were seen, then close the connection under it."""
    async for chunk in stream:
        take_chunk(outcome, chunk)
        if outcome.seen >= leave_after:
            break
    await stream.close()
    if outcome.finishes:
        outcome.faults.append("the stream ended before the client left")


def complaints(outcome: Outcome, body: dict) -> list[str]:
    """What is wrong with a finished call, as far as its client can tell."""
    kind, usage = outcome.kind, outcome.usage
    continuous = "continuous_usage_stats" in body.get("stream_options", {})
    bare, finishes, scripted = outcome.bare_chunks, list(outcome.finishes.values()), outcome.scripted
    checks = {
        f"{len(finishes)} choices ended": len(finishes) == kind.answers,
        f"ended for {finishes}": kind.word != "TOOL" or finishes == ["tool_calls"],
        f"usage is {usage}": (usage is not None) == kind.usage,
        f"{bare} chunks without choices": bare == int(kind.stream and kind.usage),
        f"{outcome.usage_chunks} chunks with usage": (
            outcome.usage_chunks > 2 if continuous else outcome.usage_chunks == bare
        ),
        f"usage is {usage}, the script says {scripted}": (usage is None or usage.completion_tokens == scripted),
        f"{outcome.logprobs} logprobs, the script says {scripted}": (
            not body.get("logprobs") or outcome.logprobs == scripted
        ),
    }
    return [name for name, holds in checks.items() if not holds]
