"""`/openapi.json`, made from the table of calls and the few fixed routes. Knows shapes, runs nothing."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from aios import __version__
from aios.abi.calls import CALLS, CallSpec, Processes, ProcessInfo
from aios.kernel import CoreSection

from .embeddings import EmbeddingList, EmbedRequest
from .exchange import JSON, Exchange
from .native import Checked, MintedKey, NewKey, SignalBody
from .openai import ChatRequest, Completion

REF = "#/components/schemas/{name}"
ABOUT = """\
Every system call of the kernel, and OpenAI's chat completions. Each request carries `Authorization: Bearer KEY`
(or `x-api-key: KEY`), but for the two health pages.

`GET /aios/v1/events` is left out below, since its answer has no end: it streams the moves of calls as server-sent
events (`event: call`, `data: {"time", "call_id", "pid", "agent", "name", "state", "core", "why"}`), the last
`tail` ones first; `follow=false` ends after those.

A call with an `Idempotency-Key` outlives its connection and is answered once: the same key with the same body joins
it or gets its recorded answer. Any call takes a header `X-AIOS-Timeout`, the seconds after which it is given up (504).
`X-AIOS-Priority`, -20 to 19 as `nice` has it, ranks a call at servers that rank theirs, never before its process.
"""
REASONS = {
    400: "The arguments are wrong; the message says which and why.",
    401: "There is no key, or one that is not known.",
    403: "The access manager said no.",
    404: "There is no such thing among what the caller may see.",
    405: "This path does not take this method.",
    408: "The request did not arrive in time.",
    409: "It conflicts with what is there.",
    413: "The body or content is beyond its bound.",
    416: "The file does not have the part that is asked for.",
    429: "A queue or a bound is full; `retry-after` says when to return.",
    431: "The headers are too large.",
    499: "The call was cancelled.",
    500: "A module or the kernel itself is at fault.",
    502: "The server behind a core failed.",
    503: "The kernel is stopping, or cannot write its journal.",
    504: "The call was not done in its time.",
}
READING = (400, 401, 403, 404, 405, 408, 413, 429, 431, 500, 503)
"""What may come of any request that makes no call."""


class ErrorDetail(Struct, omit_defaults=True):
    type: str
    code: str
    message: str
    fault: str
    call_id: str | None = None
    param: str | None = None
    retry_after: float | None = None


class Error(Struct):
    """An error of `/aios/v1`; `fault` is agent, module, upstream or kernel."""

    error: ErrorDetail


class OpenAIErrorDetail(Struct):
    message: str
    type: str
    param: str | None
    code: str | None
    fault: str


class OpenAIError(Struct):
    """An error of `/v1`, in OpenAI's shape."""

    error: OpenAIErrorDetail


class Model(Struct):
    id: str
    object: str
    created: int
    owned_by: str


class Models(Struct):
    object: str
    data: list[Model]


class Status(Struct, omit_defaults=True):
    status: str
    why: str | None = None


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": REF.format(name=name)}


def _content(schema: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {kind: {"schema": schema}}


def _responses(
    result: dict[str, Any] | None,
    codes: tuple[int, ...],
    *,
    status: int = 200,
    error: str = "Error",
    is_streamed: bool = False,
) -> dict[str, Any]:
    content = _content(result if result is not None else {"type": "object"})
    if is_streamed:
        content |= _content({"type": "object"}, "text/event-stream")
    answers: dict[str, Any] = {str(status): {"description": "Done.", "content": content}}
    answers |= {str(code): {"$ref": f"#/components/responses/{error}{code}"} for code in codes}
    return answers


def _parameter(name: str, where: str, schema: dict[str, Any], about: str) -> dict[str, Any]:
    return {"name": name, "in": where, "required": where == "path", "schema": schema, "description": about}


KEY = _parameter(
    "Idempotency-Key",
    "header",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "Run this at most once, and answer a repeated request with the first answer.",
)
YES_OR_NO = {"type": "boolean", "default": False}


def _body(schema: dict[str, Any], *, is_required: bool = True) -> dict[str, Any]:
    return {"required": is_required, "content": _content(schema)}


def _call(spec: CallSpec, result: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
    parameters = [KEY] if spec.module != "kernel" else []
    if spec.is_streamed:
        about = "Answer with server-sent events: `chunk`s, then `result` or `error`."
        parameters.append(_parameter("stream", "query", YES_OR_NO, about))
    return {
        "operationId": spec.name,
        "summary": spec.doc,
        "tags": [spec.module],
        "parameters": parameters,
        "requestBody": _body(args, is_required=any(f.required for f in msgspec.structs.fields(spec.args))),
        "responses": _responses(result, tuple(REASONS), is_streamed=spec.is_streamed),
    }


def _get(
    id: str, summary: str, result: dict[str, Any] | None, *parameters: dict[str, Any], **more: Any
) -> dict[str, Any]:
    return {
        "operationId": id,
        "summary": summary,
        "tags": [more.pop("tag", "kernel")],
        "parameters": list(parameters),
        "responses": _responses(result, more.pop("codes", READING), **more),
    }


def _health(id: str, summary: str, *codes: int) -> dict[str, Any]:
    page = _get(id, summary, _ref("Status"), codes=(400, 403, 405, 408, 429, 431))
    for code in codes:
        page["responses"][str(code)] = {"description": REASONS[code], "content": _content(_ref("Status"))}
    return page | {"security": []}


def _openai_paths() -> dict[str, Any]:
    model = _parameter("model", "path", {"type": "string", "minLength": 1}, "A name from the list of models.")
    chat = {
        "operationId": "createChatCompletion",
        "summary": "Ask a model for the next message, as OpenAI's clients do.",
        "tags": ["openai"],
        "parameters": [KEY],
        "requestBody": _body(_ref("ChatRequest")),
        "responses": _responses(_ref("Completion"), tuple(REASONS), error="OpenAIError", is_streamed=True),
    }
    embed = chat | {
        "operationId": "createEmbedding",
        "summary": "Turn texts into vectors, as OpenAI's clients do.",
        "requestBody": _body(_ref("EmbedRequest")),
        "responses": _responses(_ref("EmbeddingList"), tuple(REASONS), error="OpenAIError"),
    }
    return {
        "/v1/models": {
            "get": _get("listModels", "Models that answer.", _ref("Models"), tag="openai", error="OpenAIError")
        },
        "/v1/models/{model}": {
            "get": _get("getModel", "One model.", _ref("Model"), model, tag="openai", error="OpenAIError")
        },
        "/v1/chat/completions": {"post": chat},
        "/v1/embeddings": {"post": embed},
    }


def _process_paths() -> dict[str, Any]:
    pid = _parameter("pid", "path", {"type": "integer", "minimum": 1, "maximum": 2**49}, "A process.")
    ended = _parameter("all", "query", YES_OR_NO, "Ended ones too.")
    signal = _get("signalProcess", CALLS["proc_signal"].doc, None, pid, codes=tuple(REASONS))
    signal["requestBody"] = _body(_ref("SignalBody"))
    listing = _get("listProcesses", CALLS["proc_list"].doc, _ref("Processes"), ended, codes=tuple(REASONS))
    return {
        "/aios/v1/processes": {"get": listing},
        "/aios/v1/processes/{pid}": {"get": _get("getProcess", "One process.", _ref("ProcessInfo"), pid)},
        "/aios/v1/processes/{pid}/signal": {"post": signal},
    }


def _file_paths() -> dict[str, Any]:
    """Files as bytes. The path may hold slashes, which this language of descriptions has no word for."""
    path = _parameter("path", "path", {"type": "string", "minLength": 1}, "A file, as the storage calls name it.")
    version = _parameter("version", "query", {"type": "integer", "minimum": 1}, "An older version.")
    part = _parameter("Range", "header", {"type": "string"}, "One part: bytes=FIRST-LAST, bytes=FIRST-, bytes=-LENGTH.")
    match = _parameter("If-Match", "header", {"type": "string"}, 'The version that is written upon, such as "3".')
    new = _parameter("If-None-Match", "header", {"type": "string"}, "*: only where there is no file.")
    token = _parameter("token", "path", {"type": "string", "minLength": 1}, "As sto_share gives it.")
    whole = {"description": "The bytes.", "content": _content({"type": "string", "format": "binary"}, "*/*")}
    put = _get("putFile", "Write a file of any length.", _ref("Version"), path, KEY, match, new, tag="storage")
    put["responses"] |= _responses(_ref("Version"), (*REASONS,), status=201)
    put["requestBody"] = {"required": True, "content": _content({"type": "string", "format": "binary"}, "*/*")}
    get = _get(
        "getFile", "Read a file, or a part of it.", None, path, version, part, tag="storage", codes=tuple(REASONS)
    )
    shared = _get("getShared", "Read what a link opens; no key is needed.", None, token, part, codes=tuple(REASONS))
    for each in (get, shared):
        each["responses"] |= {"200": whole, "206": whole, "304": {"description": "As it was."}}
    return {
        "/aios/v1/files/{path}": {"put": put, "get": get},
        "/aios/v1/shared/{token}": {"get": shared | {"security": []}},
    }


def _or_later(operation: dict[str, Any]) -> dict[str, Any]:
    """202 as well as 200: what was asked has begun."""
    answers = operation["responses"]
    answers["202"] = {"description": "Begun; look again.", "content": answers["200"]["content"]}
    return operation


def _steer(id: str, summary: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    return _or_later(_get(id, summary, None, *parameters, codes=(*READING, 409)))


def _kernel_paths() -> dict[str, Any]:
    key_id = _parameter("id", "path", {"type": "string", "minLength": 1}, "A key's id.")
    mint = _get("mintKey", "Mint a key (admins only).", _ref("MintedKey"), status=201)
    mint["requestBody"] = _body(_ref("NewKey"))
    core = _parameter("name", "path", {"type": "string", "minLength": 1}, "A core's name.")
    now = _parameter("now", "query", YES_OR_NO, "Do not wait for what runs: it goes to another core, or ends.")
    add = _get("addCore", "Begin to open a core (admins only); 202 until it is ready.", None, codes=(*READING, 409))
    add["requestBody"] = _body(_ref("CoreSection"))
    metrics = _get("showMetrics", "Counts, in Prometheus' text format (admins only).", None)
    metrics["responses"]["200"]["content"] = _content({"type": "string"}, "text/plain")
    return {
        "/aios/v1/cores": {"get": _get("listCores", "The LLM cores.", None), "post": _or_later(add)},
        "/aios/v1/cores/{name}": {
            "get": _get("getCore", "One LLM core.", None, core),
            "delete": _steer("removeCore", "Drain a core, then close it (admins only).", core, now),
        },
        "/aios/v1/cores/{name}/open": {
            "post": _steer("openCore", "Open anew a core that failed, put back one that drains (admins only).", core)
        },
        "/aios/v1/cores/{name}/drain": {
            "post": _steer("drainCore", "Give a core nothing new; what runs there ends (admins only).", core)
        },
        "/aios/v1/check": {
            "get": _get("checkHome", "What is wrong in the home; reads all of it (admins only).", _ref("Checked"))
        },
        "/aios/v1/keys": {
            "get": _get("listKeys", "All keys, without their secrets (admins only).", None),
            "post": mint,
        },
        "/aios/v1/keys/{id}": {
            "delete": _get("revokeKey", "Revoke a key (admins only).", None, key_id, codes=(*READING, 409))
        },
        "/healthz": {"get": _health("isAlive", "The process is alive.")},
        "/readyz": {"get": _health("isReady", "The kernel takes calls.", 503)},
        "/metrics": {"get": metrics},
        "/openapi.json": {"get": _get("describe", "This document.", None)},
    }


def _schemas() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Schemas of each call's arguments and result, and of all named types."""
    rows = list(CALLS.values())
    fixed = [
        Error,
        OpenAIError,
        Models,
        Model,
        Status,
        ChatRequest,
        Completion,
        EmbedRequest,
        EmbeddingList,
        SignalBody,
        NewKey,
        Checked,
        MintedKey,
        CoreSection,
    ]
    kinds = [row.args for row in rows] + [row.result for row in rows] + fixed + [Processes, ProcessInfo]
    refs, components = msgspec.json.schema_components(kinds, ref_template=REF)
    args = dict(zip(CALLS, refs, strict=False))
    results = dict(zip(CALLS, refs[len(rows) :], strict=False))
    return args, results, components


def _refusals() -> dict[str, Any]:
    """Each error answer once, in both shapes."""
    return {
        f"{shape}{code}": {"description": about, "content": _content(_ref(shape))}
        for shape in ("Error", "OpenAIError")
        for code, about in REASONS.items()
    }


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """The whole description."""
    args, results, schemas = _schemas()
    calls = {f"/aios/v1/calls/{name}": {"post": _call(spec, results[name], args[name])} for name, spec in CALLS.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "AIOS", "version": __version__, "description": ABOUT},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"apiKey": []}],
        "paths": {**_openai_paths(), **calls, **_process_paths(), **_file_paths(), **_kernel_paths()},
        "components": {
            "schemas": schemas,
            "responses": _refusals(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


async def show_openapi(exchange: Exchange) -> None:
    await exchange.reply(200, msgspec.json.encode(document()), JSON)
