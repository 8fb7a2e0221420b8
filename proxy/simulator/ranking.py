"""Rerank and score as vLLM 0.32 answers them.

What belongs here: reading the calls, a relevance that a reader can predict (shared words come first), vLLM's shapes.
What does not: other engines' shapes (dialects.py).
"""

import hashlib
import secrets
import time

import msgspec

from proxy.simulator.answers import Whole, of_json
from proxy.simulator.options import Options, Switches
from proxy.simulator.requests import check_model, refuse, refuse_field, refuse_long, switches_of, text_tokens
from proxy.simulator.shapes import Json


class Ranked(msgspec.Struct, frozen=True):
    """One document and how well it fits.

    Args:
        index: its place in the call.
        text: what it says.
        relevance: 0 to 1.
        tokens: read with the query before it.
    """

    index: int
    text: str
    relevance: float
    tokens: int


class Ranking(msgspec.Struct, frozen=True):
    """A call that has been ranked.

    Args:
        model: as named.
        documents: all of them, the best first.
        top_n: how many are asked for.
        switches: how it shall go wrong.
    """

    model: str
    documents: tuple[Ranked, ...]
    top_n: int
    switches: Switches

    @property
    def best(self) -> tuple[Ranked, ...]:
        """Those that are asked for."""
        return self.documents[: self.top_n]

    @property
    def tokens(self) -> int:
        """Read, of all pairs together."""
        return sum(document.tokens for document in self.documents)

    @property
    def reported(self) -> int:
        """The tokens to report."""
        return self.tokens if self.switches.prompt_tokens is None else self.switches.prompt_tokens


def read_ranking(body: Json, options: Options, header: str = "", *, documents: str = "documents") -> Ranking:
    """Return a call whose query and documents have been checked for their types."""
    query = str(body["query"])
    ranked = [
        Ranked(index, text, relevance(query, text), 3 + text_tokens(query) + text_tokens(text))
        for index, text in enumerate(map(text_of, body[documents]))
    ]
    ranked.sort(key=lambda one: -one.relevance)
    top_n = body.get("top_n")
    return Ranking(
        model=str(body.get("model") or check_model(None, options)),
        documents=tuple(ranked),
        top_n=top_n if isinstance(top_n, int) and top_n > 0 else len(ranked),
        switches=switches_of(query, header),
    )


def text_of(document: object) -> str:
    """Return the text of a document: itself, its ``text``, or the text parts of its ``content``."""
    if not isinstance(document, dict):
        return str(document)
    if isinstance(document.get("content"), list):
        return "\n".join(str(part.get("text", "")) for part in document["content"] if isinstance(part, dict))
    return str(document.get("text", ""))


def rerank(body: Json, options: Options, header: str = "") -> Whole:
    """Answer vLLM's three rerank routes."""
    for field in ("query", "documents"):
        if field not in body:
            refuse_field(body, field, "missing", "Field required")
    _check_documents(body["documents"])
    model = check_model(body.get("model"), options, with_aliases=False)
    ranking = read_ranking(body | {"model": model}, options, header)
    if not ranking.documents:
        refuse("At least one text_pair element must be given")
    _check_lengths(ranking, options.max_model_len)
    results = [
        {"index": one.index, "document": {"text": one.text, "multi_modal": None}, "relevance_score": one.relevance}
        for one in ranking.best
    ]
    usage = {"usage": {"prompt_tokens": ranking.reported, "total_tokens": ranking.reported}}
    answer: Json = {"id": f"score-{secrets.token_hex(8)}", "model": model}
    answer |= {} if ranking.switches.no_usage else usage
    return answered(ranking, answer | {"results": results})


def score(body: Json, options: Options, header: str = "") -> Whole:
    """Answer vLLM's ``POST /v1/score``: how well each second text fits the first."""
    for field in ("text_1", "text_2"):
        if field not in body:
            refuse_field(body, field, "missing", "Field required")
    model = check_model(body.get("model"), options, with_aliases=False)
    texts = body["text_2"] if isinstance(body["text_2"], list) else [body["text_2"]]
    if not texts:
        refuse("At least one text_pair element must be given")
    ranking = read_ranking({"model": model, "query": body["text_1"], "documents": texts}, options, header)
    _check_lengths(ranking, options.max_model_len)
    in_order = sorted(ranking.documents, key=lambda one: one.index)
    data = [{"index": one.index, "object": "score", "score": one.relevance} for one in in_order]
    usage: Json = {"prompt_tokens": ranking.reported, "total_tokens": ranking.reported, "completion_tokens": 0}
    usage |= {"prompt_tokens_details": None, "completion_tokens_details": None}
    head = {"id": f"score-{secrets.token_hex(8)}", "object": "list", "created": int(time.time()), "model": model}
    return answered(ranking, head | {"data": data} | ({} if ranking.switches.no_usage else {"usage": usage}))


def answered(ranking: Ranking, body: object) -> Whole:
    """Return the answer with this body."""
    return Whole(ranking.model, of_json(body), ranking.tokens, switches=ranking.switches)


def relevance(query: str, text: str) -> float:
    """Return 0 to 1: the share of the query's words that the text has, and a little noise of its own."""
    asked, found = set(query.lower().split()), set(text.lower().split())
    noise = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=2).digest()
    return len(asked & found) / (len(asked) or 1) * 0.9 + int.from_bytes(noise, "big") / 65536 * 0.1


def _check_lengths(ranking: Ranking, max_model_len: int) -> None:
    if any(one.tokens > max_model_len for one in ranking.documents):
        refuse_long(max_model_len)


def _check_documents(documents: object) -> None:
    """Refuse documents that are neither texts nor have a ``content``, as the union of their schemas does."""
    whole = f"'<list of {len(documents)} items>'" if isinstance(documents, list) else repr(documents)
    faults = [
        ("string_type", "body.documents", "Input should be a valid string", whole),
        ("dict_type", "body.documents.ScoreMultiModalParam", "Input should be a valid dictionary", whole),
    ]
    for index, one in enumerate(documents if isinstance(documents, list) else []):
        if isinstance(one, str) or (isinstance(one, dict) and "content" in one):
            continue
        place = f"body.documents.{index}"
        shown = f"'<dict of {len(one)} items>'" if isinstance(one, dict) else repr(one)
        faults.append(("string_type", place, "Input should be a valid string", shown))
        if isinstance(one, dict):
            faults.append(("missing", f"{place}.ScoreMultiModalParam.content", "Field required", shown))
    if len(faults) > 2 or not isinstance(documents, list):  # noqa: PLR2004 - the two that stand before any item's own
        lines = [f"  {{'type': '{kind}', 'loc': '{at}', 'msg': '{text}', 'input': {shown}}}"
                 for kind, at, text, shown in faults]  # fmt: skip
        refuse("\n".join([f"{len(faults)} validation errors:", *lines]), "body.documents", "Bad Request")
