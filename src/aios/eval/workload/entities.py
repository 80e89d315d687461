"""Open-set names: persons, things, places, files, keys and what is said of them. Knows the split, no task.

Names are put together from syllables or pairs of words, so that there are far too many to learn by heart and a model
has to copy them. Each belongs to one split by its hash.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from aios.eval.workload.split import Split, draw_int, is_held_out_entity, numbers_fit


def _words(text: str) -> list[str]:
    return text.split()


def _parts(text: str) -> list[str]:
    return text.split("|")


_ONSETS: Final = _words("b br c ch cl d dr f fl g gr h j k kl l m n p pr qu r s sh sk st t th tr v w y z")
_VOWELS: Final = _words("a e i o u ai ea ie oo ou")
_CODAS: Final = _words("d k l lm ld m n nd ng nt r rn rd rt s sk st t th v x")
_ADJECTIVES: Final = _words(
    "copper silver golden wooden iron glass paper velvet crystal marble amber scarlet crimson green blue "
    "yellow purple orange black white grey pink broken folded hidden silent lonely bright dark heavy "
    "light tall short narrow wide round square hollow frozen dusty rusty polished painted striped spotted"
    " ancient modern northern southern eastern western upper lower inner outer quiet noisy rapid slow "
    "clever lucky brave gentle wild calm sharp smooth rough sweet bitter salty fresh old new little big "
    "giant tiny royal common secret open closed double single"
)
_NOUNS: Final = _words(
    "lantern bridge tower engine kettle piano violin clock mirror ladder basket bottle barrel wagon ship "
    "boat anchor compass telescope camera printer scanner server router laptop monitor keyboard drill "
    "hammer saw wrench pump valve pipe tank boiler furnace oven stove fridge freezer lamp chair table "
    "desk shelf cabinet door window gate fence garden orchard forest river lake island harbor castle "
    "temple museum library theater school market bakery farm mill mine quarry tunnel station airport "
    "garage workshop studio office warehouse cellar attic kitchen statue fountain rocket satellite "
    "turbine battery magnet crane truck tractor bicycle scooter drone robot sensor cable"
)
_PLACE_ENDS: Final = _words("ville port ton ham field ford dale mouth stead burg shire wick")
_FILE_ENDS: Final = _words(".txt .txt .txt .md .md .log .csv .json .cfg")
_FILE_WORDS: Final = _words(
    "notes report plan budget list summary minutes draft orders stock fees events contacts log index "
    "letter schedule inventory recipes tasks rates results journal memo agenda members invoices prices "
    "routes"
)
_ATTRIBUTES: Final = _parts(
    "code|key|pin|password|number|badge|locker|seat|room|gate|lane|channel|model|serial "
    "number|batch|ticket|account|phone "
    "number|extension|owner|manager|author|keeper|teacher|pilot|driver|supplier|contact|home town|birthpl"
    "ace|location|address|destination|color|flavor|material|symbol|nickname|motto|label|status|rank|score"
    "|level|password|door code|gate code|access code|room number|flight number|order number|invoice "
    "number|case number|platform|capital|founder|builder|captain|doctor|agent|partner|sponsor|favorite "
    "color|favorite song|favorite dish"
)
AMOUNTS: Final = _parts(
    "price|cost|budget|salary|rent|fee|population|count|stock|capacity|total|balance|income|debt|page "
    "count|attendance|number of seats|number of boxes|number of workers|number of "
    "visitors|output|score|quota|supply|bill|profit"
)
MEASURES: Final = (  # what can be measured, and the units it comes in
    ("weight|mass|load|cargo", "kg g lb oz pounds kilograms"),
    ("length|height|width|depth|distance|range|altitude", "km m cm feet miles yards inches meters"),
    ("volume|tank size|fuel capacity", "liters ml gallons pints cups"),
    ("temperature|melting point|boiling point", "celsius fahrenheit kelvin"),
    ("speed|top speed|cruise speed", "km/h mph m/s knots"),
    ("duration|run time|travel time", "minutes hours days weeks seconds"),
    ("file size|disk space|memory size", "mb gb kb tb"),
    ("area|land area", "hectares acres km2"),
)
DATED: Final = _parts(
    "birthday|deadline|start date|launch date|due date|opening day|arrival date|departure date|wedding "
    "day|exam date|delivery date|inspection date|release date|founding date|expiry "
    "date|visit|anniversary|renewal date"
)
_COLORS: Final = _words("red blue green violet teal ochre ivory maroon navy olive coral indigo beige lilac")


def _held(make: Callable[[random.Random], str], rng: random.Random, split: Split) -> str:
    while True:
        name = make(rng)
        if is_held_out_entity(name) == (split == "test"):
            return name


def syllables(rng: random.Random, low: int = 1, high: int = 3) -> str:
    if high > 1 and low == 1 and rng.random() < 0.6:
        low = 2
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.randint(low, high))]
    return "".join(parts) + (rng.choice(_CODAS) if rng.random() < 0.6 else "")


def word(rng: random.Random, split: Split) -> str:
    """A lower-case word that no dictionary has."""
    return _held(syllables, rng, split)


def person(rng: random.Random, split: Split) -> str:
    first = word(rng, split).capitalize()
    return first if rng.random() < 0.6 else f"{first} {word(rng, split).capitalize()}"


def place(rng: random.Random, split: Split) -> str:
    return _held(lambda r: (syllables(r, 1, 2) + r.choice(_PLACE_ENDS)).capitalize(), rng, split)


def thing(rng: random.Random, split: Split) -> str:
    """Two words that go together like a name: "copper lantern", "Velmar bridge"."""
    if rng.random() < 0.3:
        return f"{word(rng, split).capitalize()} {rng.choice(_NOUNS)}"
    return _held(lambda r: f"{r.choice(_ADJECTIVES)} {r.choice(_NOUNS)}", rng, split)


def file_name(rng: random.Random, split: Split) -> str:
    def make(r: random.Random) -> str:
        first = syllables(r, 1, 2) if r.random() < 0.6 else r.choice(_ADJECTIVES + _NOUNS)
        return first + r.choice("_-_") + r.choice(_FILE_WORDS) + r.choice(_FILE_ENDS)

    return _held(make, rng, split)


def entity(rng: random.Random, split: Split) -> str:
    """A person, a place or a thing with its article."""
    kind = rng.random()
    if kind < 0.35:
        return person(rng, split)
    return place(rng, split) if kind < 0.5 else f"the {thing(rng, split)}"


def attribute(rng: random.Random) -> str:
    """What a fact is about; now and then a word nobody has heard."""
    return rng.choice(_ATTRIBUTES) if rng.random() < 0.75 else f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}"


def value(rng: random.Random, split: Split) -> str:
    """What is said of an attribute: a number, a code, a name, a colour, a place."""
    kind = rng.random()
    if kind < 0.35:
        return str(draw_int(rng, 100, 10 ** rng.randint(3, 6) - 1, split))
    if kind < 0.5:
        letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.randint(1, 3)))
        return f"{letters}{rng.choice(['-', '', '-'])}{draw_int(rng, 100, 9999, split)}"
    if kind < 0.65:
        return person(rng, split)
    if kind < 0.75:
        return place(rng, split)
    if kind < 0.87:
        return _held(lambda r: f"{r.choice(_COLORS)}{r.choice(' -')}{r.choice(_NOUNS)}", rng, split)
    return word(rng, split)


def year_date(rng: random.Random, split: Split) -> str:
    """A date whose year belongs to the split."""
    year = draw_int(rng, 1900, 2199, split)
    return f"{year}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def amount(rng: random.Random, split: Split) -> str:
    """A number to reckon with: whole, seldom with decimals."""
    if rng.random() < 0.12:
        while True:
            text = f"{rng.randint(1, 99)}.{rng.randint(1, 9)}"
            if numbers_fit(text, split):
                return text
    return str(draw_int(rng, 100, rng.choice([999, 999, 9999, 99999]), split))
