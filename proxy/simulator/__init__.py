"""A simulated inference cluster that behaves like vLLM 0.32 on the wire and needs no model.

It ships with the project: ``tollgate demo`` serves it, and the tests stand on it. ``options.py`` lists the
switches with which a prompt makes it go wrong. ``Options(engine=Engine.INFINITY)`` (or llama.cpp, SGLang, TEI, Ollama,
OpenAI, Cohere) gives it the routes of that server and its embeddings, rerank and transcriptions. What does not belong
here: accounts, limits, prices.
"""

from proxy.simulator.cluster import Seen, SimulatedCluster, start
from proxy.simulator.options import Options

__all__ = ["Options", "Seen", "SimulatedCluster", "start"]
