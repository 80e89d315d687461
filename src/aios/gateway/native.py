"""Our own surface, `/aios/v1`: every call of the table, processes, cores and keys. Made from the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

from msgspec import Meta, Struct

from aios.abi.calls import Args, CallSpec, Name, ProcList, ProcSignal, convert_args, spec_of
from aios.abi.errors import AiosError, BadRequest, NotFound
from aios.abi.messages import Chunk

from .body import read_args
from .errors import native_error
from .exchange import JSON, Exchange, call_headers, encode
from .stream import stream_call

if TYPE_CHECKING:
    from aios.kernel import Syscall


async def run_call(exchange: Exchange, name: str) -> None:
    """`POST /aios/v1/calls/{name}`: JSON arguments in, JSON result out, or a stream of chunks and then the result."""
    spec = spec_of(name)
    args = read_args(await exchange.body(), spec.args)
    await _run(exchange, spec, args)


async def _run(exchange: Exchange, spec: CallSpec, args: Args) -> None:
    if spec.is_streamed and _wants_stream(exchange):
        await stream_call(exchange, spec.name, args, NativeStream())
        return
    call = exchange.kernel.submit(
        exchange.principal,
        spec.name,
        args,
        key=exchange.idempotency_key(),
        timeout=exchange.timeout(),
        session=exchange.session(),
        nice=exchange.nice(),
    )
    result = await exchange.outcome(call)
    await exchange.reply(200, encode(result), JSON, call_headers(call))


def _wants_stream(exchange: Exchange) -> bool:
    return "text/event-stream" in (exchange.header(b"accept") or "") or exchange.flag("stream")


class _Piece(Struct, omit_defaults=True):
    """A chunk, as this surface shows it."""

    text: str = ""
    tool_calls: Any = None
    logprobs: Any = None
    tokens: int = 0
    reasoning: str = ""


class NativeStream:
    """Chunks of an answer as `chunk` events, then `result` or `error`."""

    def begin(self, call: Syscall) -> None:
        """Its id goes out in a header."""

    def chunk(self, chunk: Chunk) -> bytes:
        if not (chunk.text or chunk.tool_calls or chunk.reasoning):
            return b""
        piece = _Piece(chunk.text, chunk.tool_calls, chunk.logprobs, chunk.tokens, chunk.reasoning)
        return b"event: chunk\ndata: %s\n\n" % encode(piece)

    def tail(self, result: Any) -> bytes:
        return b"event: result\ndata: %s\n\n" % encode(result)

    def error(self, error: AiosError) -> bytes:
        return b"event: error\ndata: %s\n\n" % encode(native_error(error))


# ── processes ──


async def list_processes(exchange: Exchange) -> None:
    await _run(exchange, spec_of("proc_list"), ProcList(is_all=exchange.flag("all")))


def _pid(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and len(text) <= 15 and int(text) > 0):
        raise BadRequest(f"a pid is a whole number above 0, not '{text[:40]}'", code="bad_arguments", param="pid")
    return int(text)


async def get_process(exchange: Exchange, pid: str) -> None:
    wanted, kernel = _pid(pid), exchange.kernel
    process = kernel.find(exchange.principal, wanted)
    if process is None:
        raise NotFound(f"there is no process {wanted} among those you may see", code="no_such_process", param="pid")
    await exchange.reply_json(kernel.info(process))


SIGNALS = get_args(get_type_hints(ProcSignal)["signal"])


class SignalBody(Args, frozen=True):
    """What to send; `code` is the exit code that goes with `exit`."""

    signal: Annotated[str, Meta(extra_json_schema={"enum": list(SIGNALS)})]
    code: int | None = None


async def signal_process(exchange: Exchange, pid: str) -> None:
    wanted = _pid(pid)
    body = read_args(await exchange.body(), SignalBody)
    spec = spec_of("proc_signal")
    await _run(exchange, spec, convert_args(spec, {"pid": wanted, "signal": body.signal, "code": body.code}))


# ── the home ──


class FaultTold(Struct):
    """`where` says which thing of which room, `what` is wrong with it, and `mend` what a repair does about it."""

    where: str
    what: str
    mend: str


class Checked(Struct):
    faults: list[FaultTold]


async def check_home(exchange: Exchange) -> None:
    exchange.check_admin()
    found = await exchange.kernel.check_home()
    await exchange.reply_json(Checked([FaultTold(*fault) for fault in found]))


# ── keys ──


class NewKey(Args, frozen=True):
    """A key called `name` for `agent`, which is called like the key unless it is given."""

    name: Name
    agent: Name | None = None


class MintedKey(Struct):
    """`key` is shown this once; the kernel keeps its hash only."""

    id: str
    key: str
    name: str
    agent: str


async def list_keys(exchange: Exchange) -> None:
    exchange.check_admin()
    await exchange.reply_json({"keys": exchange.kernel.access.keys()})


async def mint_key(exchange: Exchange) -> None:
    exchange.check_admin()
    wanted = read_args(await exchange.body(), NewKey)
    agent = wanted.agent or wanted.name
    key_id, key = exchange.kernel.access.mint(owner=exchange.principal.owner, agent=agent, name=wanted.name)
    await exchange.kernel.access.settled()
    await exchange.reply_json(MintedKey(key_id, key, wanted.name, agent), 201)


async def revoke_key(exchange: Exchange, id: str) -> None:
    exchange.check_admin()
    exchange.kernel.control.revoke(id)
    await exchange.kernel.access.settled()
    await exchange.reply_json({})
