"""``python -m proxy.simulator``: serve a simulated cluster until SIGINT or SIGTERM."""

import argparse
import asyncio
import signal

from proxy.core.catalogue import Engine
from proxy.simulator import Options, SimulatedCluster
from proxy.simulator.engines import ENGINES


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proxy.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9900)
    parser.add_argument("--tokens-per-second", type=float, default=60.0, help="of each answer; 0: no pace")
    parser.add_argument("--models", default="", help="names, separated by commas; default: any name is accepted")
    parser.add_argument("--max-model-len", type=int, default=131_072)
    parser.add_argument("--seed", type=int, default=0)
    engines = [engine.value for engine in ENGINES]
    parser.add_argument("--engine", choices=engines, default=Engine.VLLM.value, help="whose routes and shapes it has")
    parser.add_argument("--force-include-usage", action="store_true", help="usage in every event of every stream")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace) -> None:
    options = Options(
        tokens_per_second=arguments.tokens_per_second,
        models=tuple(name for name in arguments.models.split(",") if name),
        max_model_len=arguments.max_model_len,
        seed=arguments.seed,
        force_include_usage=arguments.force_include_usage,
        engine=Engine(arguments.engine),
    )
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    cluster = SimulatedCluster(options)
    await cluster.start(arguments.host, arguments.port)
    print(f"simulated cluster on {cluster.url}", flush=True)  # noqa: T201
    await stopped.wait()
    await cluster.stop()


if __name__ == "__main__":
    asyncio.run(_serve(_arguments()))
