"""Completion calls: ``/v1/completions``, in the documented form (``messages``) and the classic one (``prompt``).

What belongs here: which of the two a request is, and the classic parameters. What does not: a chat's own parameters
(chat.py), a chat made a prompt (transcript.py), and its answer made a chat's again (meters/chat_shape.py).

A request with messages is a chat. Where the model serves chats, it is sent as one, to ``/v1/chat/completions``. Where
it does not, its engine is asked with a prompt.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from proxy.core import estimate
from proxy.core.calls.chat import PROBLEMS, TEMPLATE_TOKENS, ChatRequest, ready_chat, wanted_usage
from proxy.core.calls.checking import Checker, find_model, json_of
from proxy.core.calls.contract import Form, PreparedCall, Terms
from proxy.core.calls.transcript import prompt_of, without_tools
from proxy.core.catalogue import Model
from proxy.core.errors import invalid_parameter
from proxy.core.patching import patch_object

CHAT_ROUTE: Final = "/v1/chat/completions"

_TOP_LOGPROBS_MAX: Final = 20
_CHAT_ONLY: Final = ("messages", "max_completion_tokens", "logprobs", "top_logprobs", "tools", "tool_choice",
                     "parallel_tool_calls")  # fmt: skip
"""Members that mean nothing, or something else, beside a prompt."""


class _CompletionRequest(ChatRequest, kw_only=True):
    messages: list[msgspec.Raw] = msgspec.field(default_factory=list)
    prompt: str | list[Any] | None = None
    prompt_embeds: Any = None
    max_tokens: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=128)] | None = None
    echo: bool | None = None
    logprobs: Any = None
    top_logprobs: Any = None


class PromptedChat(PreparedCall, frozen=True):
    """A chat that its engine is asked as a prompt: the answer is to be put into a chat's shape."""


_PROBLEMS: Final = {
    **PROBLEMS,
    "prompt": "must be a string, an array of strings, an array of token ids, or an array of arrays of token ids",
    "best_of": "must be an integer between 1 and 128",
    "echo": "must be a boolean",
    "logprobs": "must be a boolean",
    "top_logprobs": f"must be an integer between 0 and {_TOP_LOGPROBS_MAX}",
}

_checked: Final = Checker(_CompletionRequest, _PROBLEMS)
_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def prepare_completion(received: bytes | Form, route: str, terms: Terms) -> PreparedCall:
    """Check a completion request and make it ready for its model's engine.

    Returns:
        The call; a ``PromptedChat`` if its answer must be made a chat's.

    Raises:
        ApiError: 400 with the parameter's name, or 404 for an unknown model.
    """
    body = json_of(received)
    request = _checked.decoded(body)
    model = find_model(request.model, route, terms)
    if request.prompt_embeds is not None:  # they add answers that nothing here can count
        raise invalid_parameter("prompt_embeds", "is not supported")
    if request.prompt is not None:
        if request.messages:
            raise invalid_parameter("prompt", "must not be given together with 'messages'")
        return _classic(request, body, model, route, terms)
    if not request.messages:
        raise invalid_parameter("messages", f"{PROBLEMS['messages']}, unless there is a 'prompt'")
    if request.max_tokens == 0:
        raise invalid_parameter("max_tokens", PROBLEMS["max_tokens"])
    if CHAT_ROUTE in model.endpoints:
        return ready_chat(request, body, model, CHAT_ROUTE, terms)
    return _prompted(request, body, model, route, terms)


def _classic(request: _CompletionRequest, body: bytes, model: Model, route: str, terms: Terms) -> PreparedCall:
    """Make a request with a prompt ready: it passes as it is, but for what a chat's would be patched for.

    ``max_tokens: 0`` asks for an echo alone. Engines generate a token all the same, and count it (vLLM,
    ``echo_without_generation``).
    """
    assert request.prompt is not None
    prompts, ids = _measured(request.prompt)
    if request.max_tokens == 0 and not request.echo:
        raise invalid_parameter("max_tokens", "must be an integer of at least 1, or 0 with 'echo'")
    changes: dict[str, bytes] = {}
    asked = request.max_tokens
    if asked is None:
        asked = request.max_completion_tokens or min(terms.default_max_tokens, model.max_model_len)
        changes["max_tokens"] = b"%d" % asked
    if model.upstream_model != request.model:
        changes["model"] = msgspec.json.encode(model.upstream_model)
    usage = wanted_usage(request, model)
    if usage.patch is not None:
        changes["stream_options"] = usage.patch
    each = min(max(asked, request.max_completion_tokens or 0, 1), model.max_model_len)
    choices = request.n or 1
    generations = max(choices, request.best_of or 1) * prompts
    longest = prompts * model.max_model_len
    return PreparedCall(
        model=model,
        upstream_route=route,
        body=patch_object(body, changes) if changes else body,
        stream=bool(request.stream),
        forward_usage=usage.at_end,
        strip_continuous=not usage.continuous,
        choices=choices * prompts,
        output_tokens_max=each * generations,
        input_tokens_max=min(longest, len(body) + TEMPLATE_TOKENS if ids is None else ids + prompts),
        prompt_bytes=len(body) if ids is None else ids * estimate.BYTES_PER_TOKEN,
        generations=generations,
    )


def _measured(prompt: str | list[Any]) -> tuple[int, int | None]:
    """Return how many prompts there are, and how many token ids in all of them (None: they are texts)."""
    if isinstance(prompt, str):
        return 1, None
    kinds = set(map(type, prompt))
    if kinds == {str}:
        return len(prompt), None
    if kinds == {int}:
        return 1, len(prompt)
    if kinds == {list} and all(set(map(type, ids)) == {int} for ids in prompt):
        return len(prompt), sum(map(len, prompt))
    raise invalid_parameter("prompt", _PROBLEMS["prompt"])


def _prompted(request: _CompletionRequest, body: bytes, model: Model, route: str, terms: Terms) -> PromptedChat:
    """Make a chat ready for an engine that knows prompts alone.

    The prompt is a text of its own, so this body alone is made anew; all values but the prompt are the client's bytes.
    """
    without_tools(request.tools, request.tool_choice)
    members = _decode_members(body)
    asked = max(request.max_tokens or 0, request.max_completion_tokens or 0)
    asked = asked or min(terms.default_max_tokens, model.max_model_len)
    usage = wanted_usage(request, model)
    changes: dict[str, Any] = {
        "model": model.upstream_model,
        "prompt": prompt_of(request.messages),
        "max_tokens": request.max_completion_tokens or asked,
    }
    if usage.patch is not None:
        changes["stream_options"] = msgspec.Raw(usage.patch)
    if (logprobs := _classic_logprobs(request)) is not None:
        changes["logprobs"] = logprobs
    kept = {name: value for name, value in members.items() if name not in _CHAT_ONLY and name not in changes}
    choices = request.n or 1
    generations = max(choices, request.best_of or 1)
    return PromptedChat(
        model=model,
        upstream_route=route,
        body=msgspec.json.encode({**changes, **kept}),
        stream=bool(request.stream),
        forward_usage=usage.at_end,
        strip_continuous=not usage.continuous,
        choices=choices,
        output_tokens_max=min(asked, model.max_model_len) * generations,
        input_tokens_max=min(model.max_model_len, len(body) + TEMPLATE_TOKENS),
        prompt_bytes=len(body),
        generations=generations,
    )


def _classic_logprobs(request: _CompletionRequest) -> int | None:
    """Return a chat's ``logprobs`` and ``top_logprobs`` as the one number of the classic form; None: not asked for."""
    if request.logprobs is None or request.logprobs is False:
        return None
    if request.logprobs is not True:
        raise invalid_parameter("logprobs", _PROBLEMS["logprobs"])
    top = request.top_logprobs or 0
    if type(top) is not int or not 0 <= top <= _TOP_LOGPROBS_MAX:
        raise invalid_parameter("top_logprobs", _PROBLEMS["top_logprobs"])
    return top
