"""`/metrics`: the kernel's own counts in Prometheus' text format, read when asked for. No call pays for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .exchange import Exchange

if TYPE_CHECKING:
    from aios.kernel import Kernel

KIND = b"text/plain; version=0.0.4; charset=utf-8"


class KernelCollector(Collector):
    """Reads `kernel.statistics()` and the trace's totals."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def collect(self) -> Iterator[Metric]:
        numbers = self._kernel.statistics()
        yield GaugeMetricFamily("aios_processes", "Live agent processes.", numbers["processes"])
        yield GaugeMetricFamily("aios_open_calls", "Calls that are not over.", numbers["open_calls"])
        yield self._moves()
        yield from self._queues(numbers["queues"])
        yield from self._rooms("core", numbers["cores"])
        yield from self._flat("context", numbers["context"])
        yield from self._flat("journal", numbers["journal"])
        yield from self._flat("memory", numbers["memory"])
        yield from self._flat("search", numbers["search"])
        yield from self._flat("search_cache", numbers["search"]["cache"])
        yield from self._tokens()

    def _moves(self) -> Metric:
        moves = CounterMetricFamily(
            "aios_call_moves", "Moves of calls into a state, since boot.", labels=["call", "state"]
        )
        for (name, state), number in self._kernel.trace.totals.items():
            moves.add_metric([name, state], number)
        return moves

    def _queues(self, queues: dict[str, dict[str, int]]) -> Iterator[Metric]:
        for what in ("waiting", "running"):
            gauge = GaugeMetricFamily(f"aios_queue_{what}", f"Calls that are {what}, by module.", labels=["module"])
            for name, counts in queues.items():
                gauge.add_metric([name], counts[what])
            yield gauge

    def _rooms(self, label: str, rooms: dict[str, dict[str, object]]) -> Iterator[Metric]:
        """One gauge for each number that some of them tell."""
        names = {key for room in rooms.values() for key, value in room.items() if isinstance(value, int | float)}
        for key in sorted(names):
            gauge = GaugeMetricFamily(f"aios_{label}_{key}", f"What each {label} tells as '{key}'.", labels=[label])
            for name, room in rooms.items():
                if isinstance(value := room.get(key), int | float):
                    gauge.add_metric([name], value)
            yield gauge

    def _flat(self, prefix: str, numbers: dict[str, object]) -> Iterator[Metric]:
        for key, value in numbers.items():
            if isinstance(value, int | float):
                yield GaugeMetricFamily(f"aios_{prefix}_{key}", f"What the {prefix} tells as '{key}'.", value)

    def _tokens(self) -> Iterator[Metric]:
        everyone = self._kernel.processes.list(ended=True)
        for what in ("in", "out"):
            total = sum(getattr(process, f"tokens_{what}") for process in everyone)
            yield GaugeMetricFamily(f"aios_tokens_{what}", f"Tokens {what} of the remembered processes.", total)
        cost = sum(process.cost or 0.0 for process in everyone)
        yield GaugeMetricFamily("aios_cost_dollars", "What the remembered processes are known to have cost.", cost)


async def show_metrics(exchange: Exchange) -> None:
    exchange.check_admin()  # the counts are everybody's
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(KernelCollector(exchange.kernel))
    await exchange.reply(200, generate_latest(registry), KIND)
