"""Which core a call is to go to: plain decisions. Knows names, weights and loads; no core's inside, clock or queue.

A model name may stand for several cores. Of those that can begin a call now one is chosen, so no call waits while a
core that may serve it is free; preferences only say which. In order: the core of the call's session; one that has
computed the beginning of its prompt; where cores are alike busy, the one that served its process last; the one whose
turn it is by the weights; the least loaded. A preference yields when that core is busier than the least loaded one by
more than MARGIN of its slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from aios.abi.calls import nearest
from aios.abi.errors import AiosError, ModuleFault, NotFound, Stopping

from ..config import ModelSection
from .affinity import Affinity, Ties
from .embed import is_for_embedding
from .roster import CoreState, Roster, Seat

MARGIN = 0.5
CATCH_UP = 4.0
"""Turns that a core which could not take its own may make up for later, one after another."""

SERVING = frozenset({CoreState.READY, CoreState.OPENING, CoreState.RESTARTING})
"""States of cores that take calls, or soon will."""
CanBegin = Callable[[Seat], bool]
"""Whether a core can begin the call now."""
HasRefused = Callable[[Seat], bool]
"""Whether a core would not begin this very call, and need not be asked again now."""


@dataclass(slots=True, eq=False)
class Lane:
    """One core of a route. `weight` is None where nobody gave any: then shares are as slots are.

    `turns` is how much the core was given, each call counted as one by the weight.
    """

    seat: Seat
    weight: float | None = None
    turns: float = 0.0

    @property
    def load(self) -> float:
        return self.seat.active / self.seat.core.slots

    @property
    def share(self) -> float:
        return self.seat.core.slots if self.weight is None else self.weight


@dataclass(slots=True, eq=False)
class Route:
    """The cores behind a name, in tiers: a later tier is asked when none of an earlier one will serve the call."""

    tiers: list[list[Lane]]
    by_name: dict[str, Lane] = field(init=False)

    def __post_init__(self) -> None:
        self.by_name = {lane.seat.name: lane for tier in self.tiers for lane in tier}

    @property
    def seats(self) -> list[Seat]:
        return [lane.seat for lane in self.by_name.values()]


class Router:
    """A request's `model` is an alias, a `[[model]]`, a core or the model of cores, in this order; names that are none
    go to `default` when one is set. `default` and aliases name any of these."""

    def __init__(
        self,
        roster: Roster,
        default: str | None = None,
        *,
        models: Sequence[ModelSection] = (),
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.default = default
        self._roster = roster
        self._models = {model.name: model for model in models}
        self._aliases = dict(aliases or {})
        self._affinity = Affinity()
        self._known: dict[str | None, Route] = {}
        """By names that there are: agents may send any others, as many and as long as they like."""
        roster.listen(self._changed)

    def _changed(self, seat: Seat) -> None:
        self._known.clear()
        if seat.state is CoreState.CLOSED:
            self._affinity.forget([seat.name])

    # ── names ──

    def route(self, model: str | None) -> Route | None:
        """The cores behind `model`, in whatever state; None when there is nothing of that name and no default."""
        route = self._named(model) if model else None
        if route is None and self.default is not None:
            route = self._named(self.default)
        return self._named(None) if route is None and not model else route

    def _named(self, name: str | None) -> Route | None:
        if name is not None:
            name = self._aliases.get(name, name)
        route = self._known.get(name)
        if route is None and (route := self._only() if name is None else self._found(name)) is not None:
            self._known[name] = route
        return route

    def _only(self) -> Route | None:
        """The one core that answers, where there is no other."""
        chatting = [seat for seat in self._roster if not is_for_embedding(seat.core)]
        return Route([[Lane(chatting[0])]]) if len(chatting) == 1 else None

    def _found(self, name: str) -> Route | None:
        if (model := self._models.get(name)) is not None:
            first = [Lane(seat, weight) for each, weight in _weighted(model) if (seat := self._roster.get(each))]
            rest = [[Lane(seat)] for each in model.fallback if (seat := self._roster.get(each))]
            return Route([tier for tier in (first, *rest) if tier])
        if (seat := self._roster.get(name)) is not None:
            return Route([[Lane(seat)]])
        found = [Lane(seat) for seat in self._roster if seat.core.model == name]
        return Route([found]) if found else None

    @property
    def others(self) -> set[str]:
        """Names that are taken by what is no core."""
        return {*self._models, *self._aliases}

    def names(self) -> Iterator[str]:
        """Each name that a request may put into `model`, cores' own first."""
        seats = list(self._roster)
        known = [s.name for s in seats] + [s.core.model for s in seats] + [*self._models, *self._aliases]
        yield from dict.fromkeys(known)

    def serving(self, model: str | None) -> list[Seat]:
        """Cores that take calls for `model`, or soon will, never none. Raises NotFound for a name that nobody knows,
        and what keeps the cores of a known one from serving."""
        route = self.route(model)
        if route is None:
            raise self._unknown(model)
        serving = [seat for seat in route.seats if seat.state in SERVING]
        if not serving:
            raise _out_of_service(model, route.seats)
        return serving

    def _unknown(self, model: str | None) -> NotFound:
        if not len(self._roster):
            why = "this kernel has no LLM core; add one with 'aios cores add', or a [[core]] to aios.toml"
        elif not model:
            there = ", ".join(sorted(seat.name for seat in self._roster))
            why = f"no model was named and [router] sets no default; name one of {there}, or set [router] default"
        else:
            known = list(self.names())
            hint = nearest(model[:200], known) or f"; known are {', '.join(sorted(known))}"
            why = f"there is no model '{model[:200]}'{hint}"
        return NotFound(why, code="model_not_found", param="model")

    # ── choosing ──

    def choose(self, route: Route, ties: Ties, can_begin: CanBegin, has_refused: HasRefused) -> Seat | None:
        """The core that a call is to begin on now; None when it has to wait.

        It waits for cores that are only busy; past those that are down, leave, or refused it, it goes on to the next
        tier.
        """
        for tier in route.tiers:
            able = [lane for lane in tier if can_begin(lane.seat)]
            if able:
                return self._best(able, ties).seat
            if any(_is_well(lane.seat) and not has_refused(lane.seat) for lane in tier):
                return None
        return None

    def _best(self, able: list[Lane], ties: Ties) -> Lane:
        if len(able) == 1:
            return able[0]
        least = min(able, key=lambda lane: (lane.load, lane.turns))
        by_name = {lane.seat.name: lane for lane in able}
        for name in self._affinity.firm(ties):
            if (lane := by_name.get(name)) is not None and lane.load - least.load <= MARGIN:
                return lane
        lane = by_name.get(self._affinity.loose(ties) or "")
        if lane is not None and lane.load <= least.load:
            return lane
        if all(lane.weight is None for lane in able):
            return least
        next_one = min(able, key=lambda lane: lane.turns + 1.0 / lane.share)
        return next_one if next_one.load - least.load <= MARGIN else least

    def begins(self, route: Route, ties: Ties, name: str) -> None:
        """A call with `ties` begins on the core `name`."""
        lane = route.by_name.get(name)
        if lane is None:
            return
        self._affinity.remember(ties, name)
        tier = next(tier for tier in route.tiers if lane in tier)
        ahead = max(each.turns for each in tier)
        lane.turns = max(lane.turns, ahead - CATCH_UP) + 1.0 / lane.share


def _weighted(model: ModelSection) -> Iterator[tuple[str, float | None]]:
    if isinstance(model.cores, dict):
        yield from model.cores.items()
    else:
        yield from ((name, None) for name in model.cores)


def _is_well(seat: Seat) -> bool:
    return seat.state is CoreState.READY and not seat.is_down


def _out_of_service(model: str | None, seats: Sequence[Seat]) -> AiosError:
    """Why no core of a known name takes calls."""
    what = f"no core serves '{model[:200]}' now" if model else "no core serves calls now"
    if not seats:
        return NotFound(f"{what}: all of its cores were removed; 'aios cores' lists what there is", code="no_core")
    states = "; ".join(f"core '{seat.name}' {_told(seat)}" for seat in seats)
    if all(seat.state is CoreState.FAILED for seat in seats):
        return ModuleFault(f"{what}: {states}; 'aios cores add NAME' tries again", code="core_failed")
    return Stopping(f"{what}: {states}", code="core_drained", retry_after=5)


def _told(seat: Seat) -> str:
    if seat.state is CoreState.FAILED:
        return f"failed ({seat.why})"
    return f"is being {'removed' if seat.is_leaving else 'drained'}, and takes nothing new"
