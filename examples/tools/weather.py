"""A file of tools: name it under [[tool]] in aios.toml, and agents can call what is marked with @tool."""

from __future__ import annotations

from typing import Annotated, Literal

from aios import tool

ALMANAC = {
    "Bergen": (8, "rain"),
    "Cairo": (31, "sun"),
    "Lima": (19, "fog"),
    "Oslo": (3, "snow"),
}


@tool(effect="pure", timeout=5, max_instances=4)
def weather(
    city: Annotated[str, "a city of the almanac"],
    unit: Literal["celsius", "fahrenheit"] = "celsius",
) -> str:
    """Tell the usual weather of a city.

    Args:
        unit: the scale of the temperature
    """
    if city not in ALMANAC:
        raise ValueError(f"no weather for '{city}'; the almanac has {', '.join(sorted(ALMANAC))}")
    degrees, sky = ALMANAC[city]
    if unit == "fahrenheit":
        degrees = round(degrees * 9 / 5 + 32)
    return f"{city}: {degrees} degrees {unit}, {sky}"
