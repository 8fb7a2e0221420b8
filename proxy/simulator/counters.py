"""The truth: what the cluster has really read and generated, as vLLM's ``GET /metrics`` tells it.

What belongs here: the counters and their text. A test compares a ledger with these.
"""

from collections import Counter

import msgspec

from proxy.clock import unix_ms

_MODEL_NAMES_MAX = 100
_OTHER = "other"


class Counters(msgspec.Struct):
    """Counted by model; names beyond the first hundred are counted together, because clients choose them."""

    prompt_tokens: Counter[str] = msgspec.field(default_factory=Counter)
    generation_tokens: Counter[str] = msgspec.field(default_factory=Counter)
    running: Counter[str] = msgspec.field(default_factory=Counter)
    finished: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    """By model and finish reason (stop, length, tool_calls, abort, error)."""
    since_ms: int = msgspec.field(default_factory=unix_ms)
    """When counting began, Unix milliseconds."""

    def label(self, model: str) -> str:
        """Return the label under which a model is counted, and make its counters appear."""
        if model not in self.prompt_tokens:
            if len(self.prompt_tokens) >= _MODEL_NAMES_MAX:
                model = _OTHER
            for counter in (self.prompt_tokens, self.generation_tokens, self.running):
                counter.setdefault(model, 0)
        return model

    def text(self) -> str:
        """Return the Prometheus text exposition."""
        lines = ["# TYPE process_start_time_seconds gauge", f"process_start_time_seconds {self.since_ms / 1000}"]
        for name, kind, counter in (
            ("vllm:prompt_tokens_total", "counter", self.prompt_tokens),
            ("vllm:generation_tokens_total", "counter", self.generation_tokens),
            ("vllm:num_requests_running", "gauge", self.running),
        ):
            lines.append(f"# TYPE {name} {kind}")
            lines += [f'{name}{{engine="0",{_label(model)}}} {n:.1f}' for model, n in counter.items()]
        lines.append("# TYPE vllm:request_success_total counter")
        lines += [
            f'vllm:request_success_total{{engine="0",finished_reason="{reason}",{_label(model)}}} {n:.1f}'
            for (model, reason), n in self.finished.items()
        ]
        return "\n".join(lines) + "\n"


def _label(model: str) -> str:
    escaped = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'model_name="{escaped}"'
