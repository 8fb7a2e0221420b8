"""Reading request bodies as vLLM 0.32 does: what it refuses, and in which words (recorded from a server).

What belongs here: pure functions from bytes to calls, and the refusals. What does not: answering them.

Prompt tokens are counted by rule, not by a tokenizer: a token per started four UTF-8 bytes of text, four for
each message and three for the template around them; a list of token ids counts its ids.
"""

import json
from typing import Any, NoReturn

import msgspec

from proxy.simulator.options import Options, Switches, UnknownSwitchError, read_switches
from proxy.simulator.scripts import ToolCall

_IMAGE_TOKENS = 256


class RefusedError(Exception):
    """An answer other than success: its status and its JSON body."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


class GenerationCall(msgspec.Struct, frozen=True):
    """A call that generates text, checked.

    Args:
        model: as the client named it.
        prompts: a chat has one, its last user message; completions may have several.
        prompt_tokens_each: of each prompt.
        n: answers per prompt.
        tokens_max: bound of each answer.
        tokens_min: shortest length of each answer.
        streamed: whether it is answered with events.
        include_usage: ``stream_options.include_usage``.
        continuous_usage: ``stream_options.continuous_usage_stats`` (which needs include_usage).
        reasons: whether reasoning comes before the answer.
        tool_call: the function to call instead of answering with text.
        stops: words at which an answer ends.
        top_logprobs: neighbours to tell of each token; None: no probabilities are asked for.
        echo: whether the prompt stands before the answer (completions).
        switches: how it shall go wrong.
    """

    model: str
    prompts: tuple[str, ...]
    prompt_tokens_each: tuple[int, ...]
    tokens_max: int
    n: int = 1
    tokens_min: int = 0
    streamed: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    reasons: bool = False
    tool_call: ToolCall | None = None
    stops: tuple[str, ...] = ()
    top_logprobs: int | None = None
    echo: bool = False
    switches: Switches = Switches()

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts together."""
        return sum(self.prompt_tokens_each)


def error_body(status: int, message: str, kind: str, param: str | None = None) -> dict[str, object]:
    """Return vLLM's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def refuse(message: str, param: str | None = None, kind: str = "BadRequestError", status: int = 400) -> NoReturn:
    """Raise the refusal of a call."""
    raise RefusedError(status, error_body(status, message, kind, param))


def refuse_field(body: dict[str, Any], field: str, kind: str, problem: str) -> NoReturn:
    """Raise the refusal that the request schema leads to."""
    shown = repr(body[field]) if field in body else f"'<dict of {len(body)} items>'"
    detail = f"{{'type': '{kind}', 'loc': 'body.{field}', 'msg': '{problem}', 'input': {shown}}}"
    refuse(f"1 validation error:\n  {detail}", f"body.{field}", "Bad Request")


def text_tokens(text: str) -> int:
    """Return how many tokens a text counts."""
    return (len(text.encode("utf-8", "surrogatepass")) + 3) // 4


def refuse_long(max_model_len: int) -> NoReturn:
    """Raise the refusal of a prompt that leaves no room."""
    refuse(
        f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains"
        f" at least {max_model_len + 1} input tokens, which exceeds this limit even without any output"
        " tokens. Please reduce the length of the input prompt."
        f" (parameter=input_tokens, value={max_model_len + 1})",
        "input_tokens",
    )


class NotJsonError(ValueError):
    """A body that is no JSON: what is wrong with it, and where (in characters), as Python's own parser says."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


def decode_json(raw: bytes) -> object:
    """Return what a body holds. Raises NotJsonError."""
    try:
        decoded: object = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        decoded = _decode_slowly(raw)
    return decoded


def _decode_slowly(raw: bytes) -> object:
    """Decode what the fast parser refuses, which is not always wrong (``NaN``)."""
    try:
        decoded: object = json.loads(raw)
    except json.JSONDecodeError as exc:
        raise NotJsonError(exc.msg, exc.pos) from None
    except (UnicodeDecodeError, RecursionError) as exc:
        raise NotJsonError(str(exc), 0) from None
    return decoded


def read_json(raw: bytes, content_type: str) -> dict[str, Any]:
    """Return the object in a request body."""
    if content_type != "application/json":
        text = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        refuse(text, None, "Bad Request")
    try:
        body = decode_json(raw)
    except NotJsonError as exc:
        place = f"body.{exc.position}"
        detail = (
            f"{{'type': 'json_invalid', 'loc': '{place}', 'msg': 'JSON decode error',"
            f" 'input': '<dict of 0 items>', 'ctx': {{'error': '{exc.message}'}}}}"
        )
        refuse(f"1 validation error:\n  {detail}", place, "Bad Request")
    if not isinstance(body, dict):
        refuse("1 validation error:\n  {'type': 'model_attributes_type', 'loc': 'body'}", "body", "Bad Request")
    return body


def check_model(model: object, options: Options, *, with_aliases: bool = True) -> str:
    """Return the name of a model that is served; only the routes that generate text name those that are."""
    if not isinstance(model, str) or not model:
        return options.models[0] if options.models else "simulated"
    if options.models and model not in options.models:
        problem = f"The model `{model}` does not exist."
        if not with_aliases:
            refuse(problem, None, "NotFoundError", 404)
        refuse(f"{problem} Valid aliases: {', '.join(options.models)}.", "model", "NotFoundError", 404)
    return model


def switches_of(prompt: str, header: str) -> Switches:
    """Return the switches of a call. Raises RefusedError where there is no such switch."""
    try:
        return read_switches(prompt, header)
    except UnknownSwitchError as exc:
        refuse(f"Unknown switch: {exc}")


def read_chat(body: dict[str, Any], options: Options, header: str = "") -> GenerationCall:
    """Return the call in the body of ``POST /v1/chat/completions``."""
    messages = body.get("messages")
    if "messages" not in body:
        refuse_field(body, "messages", "missing", "Field required")
    if not isinstance(messages, list):
        refuse_field(body, "messages", "list_type", "Input should be a valid list")
    model = check_model(body.get("model"), options)
    if not messages:
        refuse("Cannot apply chat template to an empty conversation. Provide at least one message.")
    prompt = _last_user_text(messages)
    tokens = 3 + sum(4 + _message_tokens(message) for message in messages if isinstance(message, dict))
    if body.get("tools"):
        tokens += text_tokens(msgspec.json.encode(body["tools"]).decode())
    asked = [bound for key in ("max_completion_tokens", "max_tokens") if (bound := body.get(key)) is not None]
    base = GenerationCall(
        model=model,
        prompts=(prompt,),
        prompt_tokens_each=(tokens,),
        tokens_max=_bound(asked[0] if asked else None, tokens, options.max_model_len),
        reasons="THINK" in prompt or body.get("reasoning_effort") not in (None, "none"),
        tool_call=_tool_call(body, messages),
        top_logprobs=int(body.get("top_logprobs") or 0) if body.get("logprobs") is True else None,
    )
    return _with_common_fields(base, body, options, header)


def read_completion(body: dict[str, Any], options: Options, header: str = "") -> GenerationCall:
    """Return the call in the body of ``POST /v1/completions``: a text, token ids, or a list of either."""
    prompt = body.get("prompt")
    if prompt is None:
        refuse_field(body, "prompt", "missing", "Field required")
    model = check_model(body.get("model"), options)
    listed = isinstance(prompt, list) and not (prompt and isinstance(prompt[0], int))
    prompts: list[Any] = prompt if listed else [prompt]
    if not prompts:
        refuse("You must pass at least one prompt")
    texts = tuple(one if isinstance(one, str) else repr(one) for one in prompts)
    each = tuple(text_tokens(one) if isinstance(one, str) else len(one) for one in prompts)
    bound = body.get("max_tokens")  # the classic default of this route is 16
    tokens_max = _bound(16 if bound is None else bound, max(each), options.max_model_len)
    base = GenerationCall(
        model=model,
        prompts=texts,
        prompt_tokens_each=each,
        tokens_max=tokens_max,
        top_logprobs=None if body.get("logprobs") is None else int(body["logprobs"]),
        echo=body.get("echo") is True,
    )
    return _with_common_fields(base, body, options, header)


def _with_common_fields(call: GenerationCall, body: dict[str, Any], options: Options, header: str) -> GenerationCall:
    """Check and add what both routes share."""
    streamed = body.get("stream") is True
    stream_options = body.get("stream_options")
    if stream_options is not None and not streamed:
        text = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
        refuse(text, "stream_options")
    temperature = body.get("temperature")
    if isinstance(temperature, int | float) and temperature < 0:
        got = float(temperature)
        refuse(
            f"temperature must be non-negative, got {got}. (parameter=temperature, value={got})",
            "temperature",
        )
    n, stop = body.get("n") or 1, body.get("stop")
    stream_options = stream_options if isinstance(stream_options, dict) else {}
    forced = options.force_include_usage
    include_usage = forced or stream_options.get("include_usage") is True
    return msgspec.structs.replace(
        call,
        n=n if isinstance(n, int) else 1,
        tokens_min=call.tokens_max if body.get("ignore_eos") is True else int(body.get("min_tokens") or 0),
        streamed=streamed,
        stops=(stop,) if isinstance(stop, str) else tuple(map(str, stop or ())),
        include_usage=include_usage,
        continuous_usage=forced or (include_usage and stream_options.get("continuous_usage_stats") is True),
        switches=switches_of("\n".join(call.prompts), header),
    )


def _bound(asked: object, prompt_tokens: int, max_model_len: int) -> int:
    """Return how many tokens an answer may have."""
    if prompt_tokens >= max_model_len:
        refuse_long(max_model_len)
    if not isinstance(asked, int):
        return max_model_len - prompt_tokens
    if asked < 1:
        refuse(f"max_tokens must be at least 1, got {asked}. (parameter=max_tokens, value={asked})", "max_tokens")
    if asked > max_model_len:
        refuse(
            f"max_tokens={asked} cannot be greater than max_model_len={max_model_len}. Please request fewer"
            f" output tokens. (parameter=max_tokens, value={asked})",
            "max_tokens",
        )
    return min(asked, max_model_len - prompt_tokens)


def _content_parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _message_tokens(message: dict[str, Any]) -> int:
    parts = _content_parts(message)
    return sum(text_tokens(str(part["text"])) if "text" in part else _IMAGE_TOKENS for part in parts)


def _last_user_text(messages: list[Any]) -> str:
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            return "\n".join(str(part["text"]) for part in _content_parts(message) if "text" in part)
    return ""


def _tool_call(body: dict[str, Any], messages: list[Any]) -> ToolCall | None:
    """Return the function to call, the named or the first one; None after a tool's answer."""
    choice = body.get("tool_choice")
    tools = [tool["function"] for tool in body.get("tools") or [] if isinstance(tool, dict) and "function" in tool]
    has_answered = isinstance(messages[-1], dict) and messages[-1].get("role") == "tool"
    if not tools or choice == "none" or has_answered:
        return None
    wanted = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    function = next((tool for tool in tools if tool.get("name") == wanted), tools[0])
    properties = function.get("parameters", {}).get("properties", {})
    samples = {"string": "Paris", "integer": 1, "number": 1, "boolean": True, "array": [], "object": {}}
    arguments = {name: samples.get(schema.get("type"), "Paris") for name, schema in properties.items()}
    return ToolCall(str(function.get("name")), msgspec.json.encode(arguments).decode().replace('":', '": '))
