"""A plain program on OpenAI's SDK, with a tool of its own. Knows no AIOS: OPENAI_BASE_URL and OPENAI_API_KEY lead it.

    aios run -- python examples/openai_agent.py "What is 385 * 72?"

needs `pip install openai` and a running kernel (`aios up`).
"""

from __future__ import annotations

import json
import os
import sys

try:
    from openai import OpenAI
except ImportError:
    sys.exit("this example needs OpenAI's SDK: pip install openai")

TOOL = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Evaluate an arithmetic expression.",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
            "additionalProperties": False,
        },
    },
}
OPERATORS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b}


def calculator(expression: str) -> str:
    """Two numbers and what stands between them."""
    for sign, apply in OPERATORS.items():
        left, found, right = expression.partition(sign)
        if found and left.strip():
            try:
                return f"{apply(float(left), float(right)):.12g}"
            except (ValueError, ZeroDivisionError) as error:
                return f"error: {error}"
    return f"error: cannot read '{expression}'"


def main() -> int:
    task = " ".join(sys.argv[1:]) or "What is 385 * 72?"
    client = OpenAI()
    messages: list[dict[str, object]] = [
        {"role": "system", "content": "You are a ReAct agent. Use the tools; answer from what they return."},
        {"role": "user", "content": task},
    ]
    for _ in range(8):
        answer = client.chat.completions.create(
            model=os.environ.get("OPENAI_MODEL", "nano"),
            messages=messages,
            tools=[TOOL],
            temperature=0,
            max_tokens=160,
        )
        message = answer.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            print(message.content)
            return 0
        for call in message.tool_calls:
            result = calculator(**json.loads(call.function.arguments))
            print(f"{call.function.name} {call.function.arguments} -> {result}", file=sys.stderr)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    print("no answer within 8 turns", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
