"""What each simulated engine serves.

What belongs here: one table. What does not: how an answer is made. An engine that is not in it cannot be simulated;
what generates text (chat, completions) has vLLM's shape, whichever engine serves it.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NoReturn

import msgspec

from proxy.core.catalogue import Engine
from proxy.simulator import dialects, infinity
from proxy.simulator.answers import Whole
from proxy.simulator.embeddings import embed
from proxy.simulator.options import Options
from proxy.simulator.ranking import rerank, score
from proxy.simulator.shapes import Json

Answerer = Callable[[Json, Options, str], Whole]
"""(body, options, value of ``X-Sim``) -> answer. Raises RefusedError."""


class Served(msgspec.Struct, frozen=True):
    """What one engine serves.

    Args:
        answers: its routes that take JSON and generate nothing.
        generates: whether it has ``/v1/chat/completions`` and ``/v1/completions``.
        hears: its routes for audio.
        refuse_json: refuse a body that is no JSON: (what is wrong, where); None: as vLLM does.
    """

    answers: Mapping[str, Answerer]
    generates: bool = False
    hears: tuple[str, ...] = ()
    refuse_json: Callable[[str, int], NoReturn] | None = None


_TRANSCRIPTIONS: Final = "/v1/audio/transcriptions"
_TRANSLATIONS: Final = "/v1/audio/translations"
_EMBEDDINGS: Final = "/v1/embeddings"

ENGINES: Final[Mapping[Engine, Served]] = MappingProxyType(
    {
        Engine.VLLM: Served(
            {
                _EMBEDDINGS: embed,
                **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), rerank),
                **dict.fromkeys(("/score", "/v1/score"), score),
            },
            generates=True,
            hears=(_TRANSCRIPTIONS, _TRANSLATIONS),
        ),
        Engine.SGLANG: Served(
            {_EMBEDDINGS: dialects.sglang_embed, "/v1/rerank": dialects.sglang_rerank},
            generates=True,
            hears=(_TRANSCRIPTIONS,),
            refuse_json=dialects.sglang_bad_json,
        ),
        Engine.LLAMA_CPP: Served(
            {
                _EMBEDDINGS: dialects.llama_cpp_embed,
                **dict.fromkeys(("/rerank", "/v1/rerank", "/reranking"), dialects.llama_cpp_rerank),
            },
            generates=True,
            refuse_json=dialects.llama_cpp_bad_json,
        ),
        Engine.INFINITY: Served(
            {_EMBEDDINGS: infinity.embed, "/v1/rerank": infinity.rerank},
            refuse_json=infinity.bad_json,
        ),
        Engine.TEI: Served(
            {_EMBEDDINGS: dialects.tei_embed, "/rerank": dialects.tei_rerank},
            refuse_json=dialects.tei_bad_json,
        ),
        Engine.COHERE: Served(
            {
                _EMBEDDINGS: dialects.openai_embed,
                "/v1/rerank": dialects.cohere_rerank,
                "/v2/rerank": dialects.cohere_rerank_v2,
            },
            refuse_json=dialects.cohere_bad_json,
        ),
        Engine.OLLAMA: Served(
            {_EMBEDDINGS: dialects.ollama_embed}, generates=True, refuse_json=dialects.openai_bad_json
        ),
        Engine.OPENAI: Served(
            {_EMBEDDINGS: dialects.openai_embed},
            generates=True,
            hears=(_TRANSCRIPTIONS, _TRANSLATIONS),
            refuse_json=dialects.openai_bad_json,
        ),
    }
)
