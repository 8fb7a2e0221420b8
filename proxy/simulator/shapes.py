"""The JSON of vLLM 0.32's generated answers, field by field and in its order (recorded from a real server).

What belongs here: pure functions from what was sampled to bytes. What does not: when they are sent.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from proxy.simulator.scripts import Part, Script, Step

FINGERPRINT = "vllm-0.32.0-simulated"
DONE = b"data: [DONE]\n\n"

Json = dict[str, Any]


class Head(msgspec.Struct, frozen=True):
    """What every event of an answer begins with.

    Args:
        id: of the answer, without its prefix.
        created: Unix seconds.
        model: as the client named it.
        is_chat: whether it is shaped as a chat or as a text completion.
    """

    id: str
    created: int
    model: str
    is_chat: bool

    def fields(self, kind: str) -> Json:
        """Return the first fields of a body."""
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}


class Usage(msgspec.Struct):
    """What a call has used so far; it grows while tokens are sampled."""

    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    def count(self, step: Step) -> None:
        """Add the tokens of a step."""
        self.completion_tokens += step.tokens
        if step.part is Part.REASONING:
            self.reasoning_tokens += step.tokens

    def _sums(self) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
        }

    def running(self, head: Head) -> Json:
        """Return the usage that continuous_usage_stats puts into every event."""
        details = {"completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens}} if head.is_chat else {}
        return self._sums() | details

    def at_end(self, head: Head) -> Json:
        """Return the usage of a stream's last event."""
        if not head.is_chat:
            return self._sums() | {"prompt_tokens_details": {"cached_tokens": self.cached_tokens}}
        cache = {"cached_tokens": self.cached_tokens, "created_cache_tokens": 0}
        return self._sums() | {
            "prompt_tokens_details": cache,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }

    def whole(self, head: Head) -> Json:
        """Return the usage of an answer that is not streamed."""
        created = 0 if head.is_chat else None
        details = {
            "cached_tokens": self.cached_tokens,
            "created_cache_tokens": created,
            "multimodal_tokens": None,
        }
        reasoning = {"reasoning_tokens": self.reasoning_tokens} if head.is_chat else None
        return self._sums() | {"prompt_tokens_details": details, "completion_tokens_details": reasoning}


def event(body: Json) -> bytes:
    """Return a server-sent event."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def role_event(head: Head, index: int, usage: Json | None) -> bytes:
    """Return the first event of a chat choice."""
    choice = {
        "index": index,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }
    body = head.fields("chat.completion.chunk") | {"choices": [choice]}
    if usage is not None:
        body["usage"] = usage
    return event(body | {"prompt_token_ids": None, "prompt_text": None})


class Extra(msgspec.Struct, frozen=True):
    """What a choice has besides its text.

    Args:
        logprobs: of what is sampled: (steps) -> JSON.
        echoed: the prompt, where it stands before the answer.
        prompt_logprobs: of the prompt, where they are told.
    """

    logprobs: Callable[[Sequence[Step]], Json | None] = lambda _: None
    echoed: str = ""
    prompt_logprobs: list[Json | None] | None = None


def step_events(
    head: Head,
    index: int,
    step: Step,
    finish: tuple[str, str | None] | None,
    *,
    usage: Json | None,
    is_last: bool,
    logprobs: Json | None = None,
    before: str = "",
) -> list[bytes]:
    """Return the events of a step: in a chat one, or none while a character is incomplete; else one a token.

    Args:
        head: of the answer.
        index: of the choice.
        step: what was sampled.
        finish: finish reason and stop word when the step is the last one of its choice.
        usage: so far, for continuous_usage_stats.
        is_last: whether it is the last of a stream without a usage event: that one carries the fingerprint.
        logprobs: of the step, where they are asked for.
        before: the prompt that is echoed before the first step.
    """
    if not head.is_chat:
        empty = [event(_text_chunk(head, index, "", None, usage)) for _ in range(step.tokens - 1)]
        body = _text_chunk(head, index, before + step.text, finish, usage, logprobs)
        return [*empty, event(body | _fingerprint(is_last))]
    if not step.text and finish is None:
        return []
    choice: Json = {
        "index": index,
        "delta": _delta(head, index, step),
        "logprobs": logprobs,
        "finish_reason": finish and finish[0],
    }
    if finish is not None:
        choice["stop_reason"] = finish[1]
    body = head.fields("chat.completion.chunk") | {"choices": [choice | {"token_ids": None}]}
    if usage is not None:
        body["usage"] = usage
    return [event(body | _fingerprint(is_last))]


def _fingerprint(is_last: bool) -> Json:  # noqa: FBT001
    return {"system_fingerprint": FINGERPRINT} if is_last else {}


def _tool_id(head: Head, index: int) -> str:
    return f"chatcmpl-tool-{head.id[:-1]}{index % 10}"


def _delta(head: Head, index: int, step: Step) -> Json:
    match step.part:
        case Part.END:
            return {}
        case Part.TOOL_NAME:
            call: Json = {
                "id": _tool_id(head, index),
                "type": "function",
                "index": 0,
                "function": {"name": step.text},
            }
            return {"content": None, "tool_calls": [call]}
        case Part.TOOL_ARGUMENTS:
            return {"content": None, "tool_calls": [{"index": 0, "function": {"arguments": step.text}}]}
        case _:
            return {step.part.value: step.text}


def _text_chunk(
    head: Head,
    index: int,
    text: str,
    finish: tuple[str, str | None] | None,
    usage: Json | None,
    logprobs: Json | None = None,
) -> Json:
    choice: Json = {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": finish and finish[0],
        "stop_reason": finish and finish[1],
    }
    body = head.fields("text_completion") | {"choices": [choice | {"prompt_token_ids": None, "token_ids": None}]}
    return body if usage is None else body | {"usage": usage}


def usage_event(head: Head, usage: Usage) -> bytes:
    """Return the event that include_usage adds before ``[DONE]``."""
    kind = "chat.completion.chunk" if head.is_chat else "text_completion"
    return event(head.fields(kind) | {"choices": [], "usage": usage.at_end(head), "system_fingerprint": FINGERPRINT})


def whole_answer(head: Head, scripts: list[Script], usage: Usage | None, extras: list[Extra]) -> bytes:
    """Return the body of an answer that is not streamed; ``usage`` None leaves it out."""
    shape = _chat_choice if head.is_chat else _text_choice
    choices = [
        shape(head, index, script, extra) for index, (script, extra) in enumerate(zip(scripts, extras, strict=True))
    ]
    body = head.fields("chat.completion" if head.is_chat else "text_completion")
    body |= {"choices": choices, "service_tier": None, "system_fingerprint": FINGERPRINT}
    if usage is not None:
        body["usage"] = usage.whole(head)
    if head.is_chat:
        body |= {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None}
    return msgspec.json.encode(body | {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None})


def _chat_choice(head: Head, index: int, script: Script, extra: Extra) -> Json:
    message: Json = {
        "role": "assistant",
        "content": script.text(Part.CONTENT) or None,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
    }
    if name := script.text(Part.TOOL_NAME):
        function = {"name": name, "arguments": script.text(Part.TOOL_ARGUMENTS)}
        message["tool_calls"] = [{"id": _tool_id(head, index), "type": "function", "function": function}]
    message["reasoning"] = script.text(Part.REASONING) or None
    return {
        "index": index,
        "message": message,
        "logprobs": extra.logprobs(script.steps),
        "finish_reason": script.finish_reason,
        "stop_reason": script.stop_reason,
        "token_ids": None,
        "routed_experts": None,
    }


def _text_choice(_head: Head, index: int, script: Script, extra: Extra) -> Json:
    return {
        "index": index,
        "text": extra.echoed + script.text(Part.REASONING) + script.text(Part.CONTENT),
        "logprobs": extra.logprobs(script.steps),
        "finish_reason": script.finish_reason,
        "stop_reason": script.stop_reason,
        "token_ids": None,
        "prompt_logprobs": extra.prompt_logprobs,
        "prompt_token_ids": None,
        "routed_experts": None,
    }
