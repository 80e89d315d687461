"""What an agent asks, as Anthropic's Messages API wants to be asked. Plain conversion: no I/O.

What the API has no word for is refused, unless it changes nothing or the core was told to leave it out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from aios.abi.calls import LLMGenerate
from aios.abi.errors import BadRequest
from aios.abi.messages import FunctionSpec, Message, ToolCall

Block = dict[str, Any]
Recall = Callable[[Message], list[Block] | None]
"""What the server itself said in a turn, block for block, where that is still known."""

_EMPTY: dict[str, Callable[[Any], bool]] = {
    "logprobs": lambda value: not value,
    "top_logprobs": lambda value: not value,
    "presence_penalty": lambda value: not value,
    "frequency_penalty": lambda value: not value,
    "logit_bias": lambda value: not value,
    "min_tokens": lambda value: not value,
    "beam_width": lambda value: value == 1,
    "functions": lambda value: not value,
    "function_call": lambda value: not value,
    "audio": lambda value: not value,
    "modalities": lambda value: value == ["text"],
    "web_search_options": lambda value: not value,
}
"""Parameters that the API does not have, and when leaving them out changes nothing."""

_DROPPED = frozenset(
    ("length_penalty", "cache_salt", "store", "prompt_cache_key", "prompt_cache_retention", "verbosity", "prediction",
     "user", "safety_identifier", "metadata", "service_tier", "reasoning_effort", "stream", "stream_options")
) | _EMPTY.keys()  # fmt: skip
"""Parameters of OpenAI's that say nothing about the answer, or that are translated below."""

_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
_TIERS = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
_CHOICES = {"none": "none", "auto": "auto", "required": "any"}
_CACHE = {"type": "ephemeral"}


# ── what cannot be asked ──


def refuse(core: str, args: LLMGenerate, ignored: Collection[str]) -> None:
    """Raise BadRequest for what the API cannot do and what would be a lie to leave out in silence."""
    asked = {**(args.extra or {}), **msgspec.structs.asdict(args)}
    for name, is_empty in _EMPTY.items():
        value = asked.get(name)
        if value is not None and name not in ignored and not is_empty(value):
            raise _unsupported(core, name, f"no {name}")
    if args.temperature is not None and args.temperature > 1 and "temperature" not in ignored:
        raise _unsupported(core, "temperature", f"temperatures from 0 to 1, not {args.temperature:g}")
    kind = (args.response_format or {}).get("type", "text")
    if kind not in ("text", "json_schema") and "response_format" not in ignored:
        raise _unsupported(core, "response_format", f"no response_format '{kind!s:.40}'; it has json_schema")


def _unsupported(core: str, name: str, what: str) -> BadRequest:
    return BadRequest(
        f"core '{core}' is Anthropic's API, which has {what}; ask without it, or let its [[core]] leave it out by "
        f'ignore = ["{name}"]',
        code="unsupported_parameter",
        param=name,
    )


# ── the request ──


def body_of(args: LLMGenerate, model: str, max_tokens: int, ignored: Collection[str], recall: Recall) -> dict[str, Any]:
    """The body to post. Raises BadRequest for messages and tools that cannot be said in it."""
    extra = dict(args.extra or {})
    body = {name: value for name, value in extra.items() if name not in _DROPPED and name not in ignored}
    body |= {"model": model, "max_tokens": args.max_tokens or max_tokens, "stream": True}
    for name in ("temperature", "top_p", "top_k"):
        if (value := getattr(args, name)) is not None and name not in ignored:
            body[name] = value
    if args.stop:
        body["stop_sequences"] = [args.stop] if isinstance(args.stop, str) else args.stop
    if system := _system(args.messages):
        body["system"] = system
    turns = _turns(args.messages, recall)
    if "cache_control" not in body and not args.cache_salt and any(turn["role"] == "assistant" for turn in turns):
        _mark(turns)
    body["messages"] = turns
    return body | _tools(args) | _output(args, extra, ignored) | _about(extra)


def _about(extra: dict[str, Any]) -> dict[str, Any]:
    """Who asks, and how urgently."""
    about: dict[str, Any] = {}
    metadata = extra.get("metadata")
    given = metadata.get("user_id") if isinstance(metadata, dict) else None
    if who := given or extra.get("safety_identifier") or extra.get("user"):
        about["metadata"] = {"user_id": who}
    if (tier := _TIERS.get(str(extra.get("service_tier")))) is not None:
        about["service_tier"] = tier
    return about


def _output(args: LLMGenerate, extra: dict[str, Any], ignored: Collection[str]) -> dict[str, Any]:
    """The form of the answer, and how much thought goes into it."""
    given, effort = extra.get("output_config") or {}, extra.get("reasoning_effort")
    if not isinstance(given, dict):
        raise BadRequest("output_config must be an object", param="output_config")
    if not isinstance(effort, str | None):
        raise BadRequest(f"reasoning_effort must be one of {', '.join(_EFFORTS)} or none", param="reasoning_effort")
    config, asked = dict(given), args.response_format or {}
    if asked.get("type") == "json_schema" and "response_format" not in ignored:
        wanted = asked.get("json_schema")
        schema = wanted.get("schema") if isinstance(wanted, dict) else None
        if not isinstance(schema, dict):
            raise BadRequest("response_format.json_schema has no schema", param="response_format.json_schema.schema")
        config["format"] = {"type": "json_schema", "schema": schema}
    if effort in _EFFORTS:
        config.setdefault("effort", _EFFORTS[effort])
    more = {"thinking": {"type": "disabled"}} if effort == "none" and "thinking" not in extra else {}
    return ({"output_config": config} if config else {}) | more


def _tools(args: LLMGenerate) -> dict[str, Any]:
    tools = [_tool(spec.function) for spec in args.tools or ()]
    if not tools:
        # The API wants every tool named that the conversation has used, also when none may be used any more.
        used = dict.fromkeys(call.function.name for message in args.messages for call in message.tool_calls or ())
        tools = [_tool(FunctionSpec(name)) for name in used]
        return {"tools": tools, "tool_choice": {"type": "none"}} if tools else {}
    choice = _choice(args.tool_choice)
    if args.parallel_tool_calls is False and (choice or {}).get("type") != "none":
        choice = (choice or {"type": "auto"}) | {"disable_parallel_tool_use": True}
    return {"tools": tools} | ({"tool_choice": choice} if choice else {})


def _tool(function: FunctionSpec) -> Block:
    tool: Block = {"name": function.name, "input_schema": function.parameters or {"type": "object", "properties": {}}}
    if function.description:
        tool["description"] = function.description
    if function.strict:
        tool["strict"] = True
    return tool


def _choice(asked: str | dict[str, Any] | None) -> Block | None:
    if asked is None:
        return None
    if isinstance(asked, str):
        return {"type": _CHOICES[asked]}
    named = asked.get("function")
    if asked.get("type") == "function" and isinstance(named, dict) and named.get("name"):
        return {"type": "tool", "name": named["name"]}
    raise BadRequest(
        'tool_choice must be "none", "auto", "required" or {"type": "function", "function": {"name": …}}',
        param="tool_choice",
    )


# ── the conversation ──


def _system(messages: Sequence[Message]) -> str:
    """All that the system says: the API takes it at one place, before the conversation."""
    return "\n\n".join(text for m in messages if m.role in ("system", "developer") and (text := m.text()))


def _turns(messages: Sequence[Message], recall: Recall) -> list[Block]:
    """Turns of user and assistant by turns: what stands side by side is one, so that all results of tools are in the
    turn behind the calls."""
    turns: list[Block] = []
    for n, message in enumerate(messages):
        if message.role in ("system", "developer"):
            continue
        role, blocks = _turn(message, f"messages[{n}]", recall)
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return turns


def _turn(message: Message, place: str, recall: Recall) -> tuple[str, list[Block]]:
    if message.role == "assistant":
        return "assistant", recall(message) or _said(message, place)
    if message.role == "user":
        return "user", _blocks(message.content, f"{place}.content")
    if message.role == "tool" and message.tool_call_id:
        content = _blocks(message.content, f"{place}.content")
        result: Block = {"type": "tool_result", "tool_use_id": message.tool_call_id}
        return "user", [result | ({"content": content} if content else {})]
    if message.role == "tool":
        raise BadRequest(f"{place} is the result of a tool and names no tool_call_id", param=f"{place}.tool_call_id")
    why = f"has the role '{message.role}', which is no more; answer a call of a tool with the role 'tool'"
    raise BadRequest(f"{place} {why}", param=f"{place}.role")


def _said(message: Message, place: str) -> list[Block]:
    """A turn of the assistant's. Its reasoning is left out: the server takes only what it has signed."""
    blocks = _blocks(message.content, f"{place}.content")
    if message.refusal:
        blocks.append({"type": "text", "text": message.refusal})
    return blocks + [_use(call) for call in message.tool_calls or ()]


def _use(call: ToolCall) -> Block:
    return {"type": "tool_use", "id": call.id, "name": call.function.name, "input": input_of(call.function.arguments)}


def input_of(arguments: str) -> dict[str, Any]:
    """A call's arguments as the object that the API takes. Text that is none (a model was cut short) is wrapped in
    one, as the API's documentation advises."""
    try:
        decoded = msgspec.json.decode(arguments or "{}")
    except (msgspec.MsgspecError, RecursionError):
        decoded = None
    return decoded if isinstance(decoded, dict) else {"INVALID_JSON": arguments}


def _blocks(content: str | list[dict[str, Any]] | None, place: str) -> list[Block]:
    """Parts of a message. Empty texts are left out, as the API takes none."""
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [block for n, part in enumerate(content) if (block := _part(part, f"{place}[{n}]"))]


def _part(part: dict[str, Any], place: str) -> Block | None:
    kind = part.get("type")
    if kind in ("text", "refusal"):
        text = part.get("text") or part.get("refusal")
        return {"type": "text", "text": text} if text else None
    if kind == "image_url":
        url = part.get("image_url")
        return {"type": "image", "source": _source((url.get("url") if isinstance(url, dict) else url) or "", place)}
    if kind == "file" and isinstance(file := part.get("file"), dict) and file.get("file_data"):
        named = {"title": file["filename"]} if file.get("filename") else {}
        return {"type": "document", "source": _source(file["file_data"], place)} | named
    if kind in ("image", "document") and isinstance(part.get("source"), dict):
        return part
    raise BadRequest(f"{place} is of type '{kind!s:.40}', and this core takes text, image_url and file", param=place)


def _source(url: Any, place: str) -> Block:
    """An address, or the bytes themselves in a data URL."""
    if not isinstance(url, str) or not url.startswith("data:"):
        if isinstance(url, str) and url.startswith(("https://", "http://")):
            return {"type": "url", "url": url}
        raise BadRequest(f"{place} must hold an https:// address or a data: URL", param=place)
    head, _, data = url[5:].partition(",")
    kind, *options = head.split(";")
    if not data or "base64" not in options:
        raise BadRequest(f"{place} holds a data: URL without base64 data", param=place)
    return {"type": "base64", "media_type": kind, "data": data}


def _mark(turns: list[Block]) -> None:
    """Let the server keep the prompt so far: a conversation that has an answer in it is likely to go on."""
    last = turns[-1]["content"][-1]
    if turns[-1]["role"] == "user" and "cache_control" not in last:
        turns[-1]["content"][-1] = last | {"cache_control": _CACHE}
