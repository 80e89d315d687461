"""Which core answers to which model name. Plain decisions; knows no core's inside."""

from __future__ import annotations

from collections.abc import Mapping

from aios.abi.calls import nearest
from aios.abi.errors import NotFound

from .base import Core


class Router:
    """A request's `model` is a core's name or its model's name; unknown names go to `default` when one is set."""

    def __init__(self, cores: Mapping[str, Core], default: str | None = None) -> None:
        self._cores = cores
        self._default = default

    def cores_for(self, model: str | None) -> list[Core]:
        """The cores that answer to `model`, never empty. Raises NotFound (`model_not_found`)."""
        if model:
            if (core := self._cores.get(model)) is not None:
                return [core]
            if found := [core for core in self._cores.values() if core.model == model]:
                return found
        if self._default is not None:
            return [self._cores[self._default]]
        if not model and len(self._cores) == 1:
            return list(self._cores.values())
        if not self._cores:
            raise NotFound(
                "this kernel has no LLM core; add a [[core]] to aios.toml",
                code="model_not_found",
                param="model",
            )
        known = {name for core in self._cores.values() for name in (core.name, core.model)}
        if not model:
            raise NotFound("no model was named and [router] sets no default", code="model_not_found", param="model")
        hint = nearest(model[:200], known) or f"; known are {', '.join(sorted(known))}"
        raise NotFound(f"there is no model '{model[:200]}'{hint}", code="model_not_found", param="model")
