"""Server-sent events out of bytes as they come: pieces may end anywhere, also inside a character. Knows no payload."""

from __future__ import annotations

MAX_EVENT = 8 << 20
"""Bytes of one event; a server that sends more without an end of event is lying."""


class EndlessEvent(Exception):
    """More than `MAX_EVENT` bytes came without the end of an event."""


class EventReader:
    """Takes bytes, gives the data of each event that is complete; events without data (comments, pings) give none."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Raises EndlessEvent."""
        data = self._rest + data
        held = b"\r" if data.endswith(b"\r") else b""  # the other half of a line's end may be still to come
        data = data.removesuffix(held)
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, rest = data.split(b"\n\n")
        self._rest = rest + held
        if len(self._rest) > MAX_EVENT:
            raise EndlessEvent
        return [payload for event in events if (payload := payload_of(event))]


def payload_of(event: bytes) -> bytes:
    """The data of an event, which may have other fields, comments or several lines."""
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
