"""Messages that cross between agents, kernel, cores and tools. Plain data: no behaviour, no I/O.

Shapes follow OpenAI's chat format, the common tongue of agents. Sizes are counted in tokens of the core that answers.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, field

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class FunctionCall(Struct, frozen=True):
    """`arguments` is JSON text, as the model wrote it."""

    name: str
    arguments: str = "{}"


class ToolCall(Struct, frozen=True):
    id: str
    function: FunctionCall
    type: str = "function"


class Message(Struct, frozen=True, omit_defaults=True):
    """One turn. `content` is text, null, or a list of typed parts."""

    role: Role
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None

    def text(self) -> str:
        """The text of all parts, joined; "" when there is none."""
        if isinstance(self.content, str):
            return self.content
        return "".join(str(part.get("text", "")) for part in self.content or [])


class FunctionSpec(Struct, frozen=True, omit_defaults=True):
    """A function that a model may call; `parameters` is a JSON Schema. `strict=False` turns constrained output off."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(Struct, frozen=True):
    function: FunctionSpec
    type: str = "function"


class PromptDetails(Struct, frozen=True):
    """`cached_tokens` of the prompt were computed for an earlier one that began alike; `cache_write_tokens` were put
    by for later ones, where a server says so because it asks for money for that."""

    cached_tokens: int = 0
    cache_write_tokens: int | UnsetType = UNSET


class Usage(Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptDetails = PromptDetails()

    @classmethod
    def of(cls, prompt: int, completion: int, cached: int = 0) -> Usage:
        return cls(prompt, completion, prompt + completion, PromptDetails(cached))


class TopLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TopLogprob] = field(default_factory=list)


class FunctionDelta(Struct, frozen=True, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Struct, frozen=True, omit_defaults=True):
    """A piece of a tool call; `id` and `function.name` come with the first piece of each `index` only."""

    index: int
    id: str | None = None
    type: str | None = None
    function: FunctionDelta | None = None


class Chunk(Struct, frozen=True):
    """A piece of an answer under way. `tokens` says how many tokens it holds; `reasoning` is what the model thinks
    aloud before it answers.

    `raw` is set only by cores that pass an upstream's OpenAI chat stream through: the server-sent events as they came
    (whole events, `data: …` and blank line). The other fields are filled as well, so a surface that speaks another
    wire need not look at it.
    """

    text: str = ""
    tool_calls: list[ToolCallDelta] | None = None
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    tokens: int = 0
    raw: bytes = b""
    reasoning: str = ""


class ContextReport(Struct, frozen=True, omit_defaults=True):
    """What was left out of the messages so that they fit the model's window, as the call had asked for.

    `is_estimate`: the tokens were not counted by the model's own tokenizer. `summary` stands in the system message in
    place of what was dropped; `is_summary_cut`: its model had more to say.
    """

    policy: Literal["drop", "summarise"]
    dropped_messages: int = 0
    dropped_tokens: int = 0
    is_estimate: bool = False
    summary: str | None = None
    is_summary_cut: bool = False


class MemoryReport(Struct, frozen=True, omit_defaults=True):
    """What of the agent's memory was told to the model beside the question: ids of entries, and the tokens that they
    take, by an estimate. `is_failed`: memory could not be asked, and the model was asked without it."""

    recalled: list[str] = field(default_factory=list)
    tokens: int = 0
    is_failed: bool = False


class Generation(Struct, frozen=True, omit_defaults=True):
    """What `llm_generate` answers. `seed` is the one used, drawn by the kernel if the agent named none.

    `context` says what was left out of the messages; None: nothing was. `memory` says what was recalled for it; None:
    it has no runtime memory. `cost` is US dollars, None where the price of
    the model is not known.
    `raw_usage` is an upstream's own `usage`, JSON as it came: it may say more than `usage` does.
    `id` and `created` are what a server behind a core called its stream, when that went to the client as it came.
    """

    message: Message
    finish_reason: FinishReason
    usage: Usage
    model: str
    core: str
    seed: int | None = None
    logprobs: list[TokenLogprob] | None = None
    fingerprint: str | None = None
    raw_usage: str | None = None
    id: str | None = None
    created: int | None = None
    context: ContextReport | None = None
    memory: MemoryReport | None = None
    cost: float | None = None


class Embedding(Struct, frozen=True):
    """The vector of the input's text number `index`: numbers, or base64 of little-endian f32, as was asked."""

    index: int
    embedding: list[float] | str


class Embeddings(Struct, frozen=True, omit_defaults=True):
    """What `llm_embed` answers: a vector for each text, in the input's order. `cost` as in a Generation."""

    data: list[Embedding]
    model: str
    core: str
    usage: Usage
    cost: float | None = None
