"""What a tool declares about itself, on either side of the call boundary. Knows not how it is run."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, field

from .calls import Effect
from .messages import FunctionSpec, ToolSpec

ToolName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]

DEFAULT_TIMEOUT = 30.0


def _no_parameters() -> dict[str, Any]:
    return {"type": "object", "properties": {}, "additionalProperties": False}


class ToolManifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One tool's word about itself. `parameters` is the JSON Schema of its arguments, an object.

    Unknown means dangerous: without a declared effect a run is taken as irreversible, and one at a time.
    `timeout` is seconds of one run. An idempotent tool may be run again when its outcome is not known.
    """

    name: ToolName
    description: Annotated[str, Meta(max_length=8192)] = ""
    parameters: dict[str, Any] = field(default_factory=_no_parameters)
    effect: Effect = Effect.IRREVERSIBLE
    is_idempotent: bool = False
    max_instances: Annotated[int, Meta(ge=1, le=1024)] = 1
    timeout: Seconds = DEFAULT_TIMEOUT

    @property
    def changes_the_world(self) -> bool:
        """Whether a second run could do harm that the first did not."""
        return self.effect not in (Effect.PURE, Effect.READ) and not self.is_idempotent

    def spec(self) -> ToolSpec:
        """The tool as models are told of it."""
        return ToolSpec(FunctionSpec(self.name, self.description, self.parameters))
