"""The Host header: which names a kernel that listens on this machine only answers to. Knows no route."""

from __future__ import annotations

import ipaddress
import re

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?", re.ASCII | re.IGNORECASE)


class LocalNames:
    """What a Host header may say to a kernel whose configured host is `host`: that, or any loopback name.

    A page in somebody's browser can reach a loopback port by a name that it makes resolve there; the Host header
    then tells of it. Whoever listens on other addresses is known by names that only its owner knows: `is_open`. That
    is decided by `address`, the bound one: a host's own name may well stand for 127.0.1.1.
    """

    def __init__(self, host: str, address: str | None = None) -> None:
        self._own = host.lower().strip("[]")
        self.is_open = not is_loopback(address or self._own)

    def allow(self, header: str | None) -> bool:
        if header is None:  # HTTP/1.0, as some health checks speak it
            return self.is_open
        name = host_of(header)
        return name is not None and (self.is_open or name == self._own or is_loopback(name))


def host_of(header: str) -> str | None:
    """The name or address in `host[:port]`, in lower case and without brackets; None when it is anything else."""
    match = _HOST.fullmatch(header)
    if match is None or int(match[2] or 0) > 65_535:
        return None
    return match[1].lower().strip("[]")


def is_loopback(name: str) -> bool:
    """Whether `name` is this machine, whoever asks: `localhost` or a loopback address."""
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
