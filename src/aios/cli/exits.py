"""Exit codes of the command, and which error has which. They are part of the interface: add, never change.

    0    done
    1    failed: the thing itself did not work (an agent without an answer, a broken tool, a bug)
    2    usage: an unknown command, option or value; a configuration that cannot be used
    3    no kernel at the address
    4    denied: no key, a wrong key, or not allowed
    5    there is no such thing
    6    busy: full, stopping, or a port or home that is taken
    7    timed out
    130  interrupted with ctrl-C
`aios run -- PROGRAM` ends with the program's own code; 128 + n when signal n ended it.
"""

from __future__ import annotations

from typing import Final

from aios.abi.errors import (
    AiosError,
    BadRequest,
    Conflict,
    CutShort,
    Denied,
    Full,
    NotFound,
    Stopping,
    TimedOut,
    Unauthorized,
)
from aios.sdk.transport import NoKernel

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NO_KERNEL: Final = 3
DENIED: Final = 4
NOT_FOUND: Final = 5
BUSY: Final = 6
TIMED_OUT: Final = 7
INTERRUPTED: Final = 130

_TABLE: tuple[tuple[type[AiosError], int], ...] = (
    (NoKernel, NO_KERNEL),
    (Unauthorized, DENIED),
    (Denied, DENIED),
    (NotFound, NOT_FOUND),
    (Full, BUSY),
    (Stopping, BUSY),
    (CutShort, BUSY),
    (Conflict, BUSY),
    (TimedOut, TIMED_OUT),
    (BadRequest, USAGE),
)
_BY_CODE = {"home_in_use": BUSY}


def code_of(error: AiosError) -> int:
    """The exit code of a command that ended with `error`."""
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    return next((code for kind, code in _TABLE if isinstance(error, kind)), FAILED)
