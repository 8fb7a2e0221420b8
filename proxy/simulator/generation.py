"""Generating an answer token by token: pace, counting, streaming, and going wrong on request.

What belongs here: everything that happens between an accepted call and its last byte. What does not: reading
calls (requests.py) and the JSON of answers (shapes.py).

A token is counted when it is sampled, just before it is sent. The handler is cancelled when the client leaves
(``handler_cancellation``), so only the tokens of one pace can be counted that nobody reads.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from functools import partial

from aiohttp import ClientConnectionResetError, web

from proxy.simulator import logprobs
from proxy.simulator.answers import (
    ENGINE_ERROR,
    GARBAGE_BODY,
    JSON_HEADERS,
    STREAM_HEADERS,
    ConnectionCutError,
    cut,
    fail_early,
    split,
    stall,
)
from proxy.simulator.counters import Counters
from proxy.simulator.options import Options
from proxy.simulator.requests import GenerationCall, RefusedError
from proxy.simulator.scripts import Script, Step, stop_at, write_text, write_tool_call
from proxy.simulator.shapes import (
    DONE,
    Extra,
    Head,
    Json,
    Usage,
    event,
    role_event,
    step_events,
    usage_event,
    whole_answer,
)

_BURST_TOKENS = 8
"""Tokens between two looks at the connection when there is no pace."""
_GARBAGE_EVENTS = (
    b'data: {"id":"chatcmpl-broken","choices":[{"delta":\n\n',
    b"data: \xff\xfe\x00 not text\n\n",
    b": a comment\n\n",
    b"data: null\n\n",
)

Finish = tuple[str, str | None]
"""Why a choice ended, and the word at which it was stopped."""

Sampled = tuple[int, Step, Finish | None]
"""Index of the choice, the step, and why it ended when it is the choice's last."""


class Generation:
    """One call that generates text, from its acceptance to its last byte.

    Args:
        request: to answer.
        call: what was read from it.
        options: of the cluster.
        counters: of the cluster.
    """

    def __init__(self, request: web.Request, call: GenerationCall, options: Options, counters: Counters) -> None:
        self._request = request
        self._call = call
        self._switches = call.switches
        self._counters = counters
        self._label = counters.label(call.model)
        self._rate = options.tokens_per_second if self._switches.rate is None else self._switches.rate
        self._scripts = _scripts(call, options)
        self._usage = Usage(call.prompt_tokens, min(self._switches.cached or 0, call.prompt_tokens))
        self._usage_of_choice = [Usage(tokens) for tokens in call.prompt_tokens_each for _ in range(call.n)]
        is_chat = request.path.endswith("/chat/completions")
        self._head = Head(secrets.token_hex(8), int(time.time()), call.model, is_chat)
        self._extras = _extras(call, is_chat=is_chat)

    async def answer(self) -> web.StreamResponse:
        """Answer the call.

        Raises:
            RefusedError: for ``status``, and for ``error-after`` when the answer is not streamed.
            ConnectionCutError: the connection was cut on request, or the client left.
        """
        await fail_early(self._request, self._switches)
        self._counters.prompt_tokens[self._label] += self._call.prompt_tokens
        self._counters.running[self._label] += 1
        reason = "abort"
        try:
            response = await (self._stream() if self._call.streamed else self._whole())
            reason = self._scripts[0].finish_reason
        except RefusedError:
            reason = "error"
            raise
        finally:
            self._counters.running[self._label] -= 1
            self._counters.finished[self._label, reason] += 1
        return response

    async def _fail_midway(self) -> None:
        """Act on the switches that let an answer begin."""
        switches, tokens = self._switches, self._usage.completion_tokens
        if switches.stall_after is not None and tokens >= switches.stall_after:
            await stall(self._request)
        if switches.error_after is not None and tokens >= switches.error_after:
            raise RefusedError(500, ENGINE_ERROR)
        if switches.drop_after is not None and tokens >= switches.drop_after and self._call.streamed:
            cut(self._request)

    async def _sampled(self) -> AsyncGenerator[Sampled, None]:
        """Yield each step of each choice at the call's pace, counted."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        unseen = 0
        for side_by_side in _rounds(self._scripts):
            tokens = max(step.tokens for _, step, _ in side_by_side)
            unseen += tokens
            if self._rate:
                due += tokens / self._rate
                await asyncio.sleep(max(due - loop.time(), 0.0))
            elif unseen >= _BURST_TOKENS:
                unseen = 0
                await asyncio.sleep(0)
            for sampled in side_by_side:
                await self._fail_midway()
                self._usage.count(sampled[1])
                self._usage_of_choice[sampled[0]].count(sampled[1])
                self._counters.generation_tokens[self._label] += sampled[1].tokens
                yield sampled

    async def _whole(self) -> web.StreamResponse:
        async for _ in self._sampled():
            pass
        usage = None if self._switches.no_usage else self._usage
        body = GARBAGE_BODY if self._switches.garbage else whole_answer(self._head, self._scripts, usage, self._extras)
        response = web.StreamResponse(headers=JSON_HEADERS)
        response.content_length = len(body)
        await response.prepare(self._request)
        if self._switches.drop_after is not None:
            await response.write(body[: len(body) // 2])
            cut(self._request)
        await response.write(body)
        return response

    async def _stream(self) -> web.StreamResponse:
        response = web.StreamResponse(headers=STREAM_HEADERS)
        response.enable_chunked_encoding()
        try:
            await response.prepare(self._request)
            async with aclosing(self._events()) as events:
                async for piece in events:
                    for part in split(piece) if self._switches.split else (piece,):
                        await response.write(part)
        except ClientConnectionResetError as exc:  # the client left while we wrote
            raise ConnectionCutError from exc
        return response

    def _running_usage(self, index: int) -> Json | None:
        """Return the usage in an event of a choice: that of the choice alone, its prompt included."""
        if not self._call.continuous_usage or self._switches.no_usage:
            return None
        return self._usage_of_choice[index].running(self._head)

    async def _events(self) -> AsyncGenerator[bytes, None]:
        """Yield every event of a stream, ``[DONE]`` last."""
        unfinished = len(self._scripts)
        fresh = set(range(unfinished))
        if self._head.is_chat:
            for index in range(unfinished):
                yield role_event(self._head, index, self._running_usage(index))
        if self._switches.garbage:
            for piece in _GARBAGE_EVENTS:
                yield piece
        try:
            async with aclosing(self._sampled()) as sampled:
                async for index, step, finish in sampled:
                    unfinished -= finish is not None
                    is_last = unfinished == 0 and not self._call.include_usage
                    extra = self._extras[index]
                    for piece in step_events(
                        self._head,
                        index,
                        step,
                        finish,
                        usage=self._running_usage(index),
                        is_last=is_last,
                        logprobs=extra.logprobs([step]),
                        before=extra.echoed if index in fresh else "",
                    ):
                        yield piece
                    fresh.discard(index)
        except RefusedError:
            yield event(ENGINE_ERROR)
            yield DONE
            return
        if self._call.include_usage and not self._switches.no_usage:
            yield usage_event(self._head, self._usage)
        yield DONE


def _scripts(call: GenerationCall, options: Options) -> list[Script]:
    if call.tool_call is not None:
        return [write_tool_call(call.tool_call, call.tokens_max)] * call.n
    return [
        stop_at(
            write_text(
                prompt,
                seed=options.seed,
                choice=choice,
                tokens=call.switches.tokens,
                tokens_max=call.tokens_max,
                tokens_min=call.tokens_min,
                reasons=call.reasons,
            ),
            call.stops,
        )
        for prompt in call.prompts
        for choice in range(call.n)
    ]


def _rounds(scripts: list[Script]) -> Iterator[list[Sampled]]:
    """Yield what all choices emit side by side, until the longest has ended."""
    for position in range(max(len(script.steps) for script in scripts)):
        yield [
            (index, script.steps[position], _finish_at(script, position))
            for index, script in enumerate(scripts)
            if position < len(script.steps)
        ]


def _finish_at(script: Script, position: int) -> Finish | None:
    return (script.finish_reason, script.stop_reason) if position == len(script.steps) - 1 else None


def _extras(call: GenerationCall, *, is_chat: bool) -> list[Extra]:
    """Return what each choice has besides its text."""
    top = call.top_logprobs
    if is_chat:
        return [Extra() if top is None else Extra(partial(logprobs.of_chat, top=top))] * call.n
    extras = []
    for prompt in call.prompts:
        echoed = prompt if call.echo else ""
        pieces = logprobs.prompt_pieces(echoed)
        told = Extra(partial(logprobs.of_text, echoed=pieces), echoed, logprobs.of_prompt(pieces) if echoed else None)
        extras += [Extra(echoed=echoed) if top is None else told] * call.n
    return extras
