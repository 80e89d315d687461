"""How people may word a task: a grammar a family, expanded to phrasings. Knows no values and no tools.

In a row, `[a|b]` stands for each of its alternatives and `{slot}` for a value drawn later. One expanded row is one
phrasing; a fifth of the rows, chosen by a hash, is held out with all that they expand to.
"""

from __future__ import annotations

import itertools
import re
from functools import lru_cache
from typing import Final, NamedTuple

from aios.eval.workload.split import Phrasing, is_held_out_phrasing, phrasing_order


class Wording(NamedTuple):
    text: str
    kind: str  # which computation or source the wording asks for


MIN_ROWS: Final = 5
_CHOICE: Final = re.compile(r"\[([^\[\]]*)\]")


def expand(row: str) -> list[str]:
    """All the texts that a row with `[a|b]` stands for."""
    parts = _CHOICE.split(row)
    options = [part.split("|") if index % 2 else [part] for index, part in enumerate(parts)]
    return ["".join(each) for each in itertools.product(*options)]


@lru_cache(maxsize=64)
def wordings(table: str, phrasing: Phrasing) -> tuple[Wording, ...]:
    """The phrasings of a table that are seen in training, or those that never are."""
    return tuple(
        Wording(text, kind)
        for kind, rows in TABLES[table].items()
        for text, is_unseen in _held_out(rows)
        if is_unseen == (phrasing == "unseen")
    )


def _held_out(rows: list[str]) -> list[tuple[str, bool]]:
    """Each phrasing of `rows` and whether it is held out.

    A fifth of the rows is, whole, with all that they expand to, so that no near twin of an unseen phrasing is
    trained on. Where there are fewer than five rows a fifth of what they expand to is.
    """
    if len(rows) < MIN_ROWS:
        return [(text, is_held_out_phrasing(text)) for row in rows for text in expand(row)]
    unseen = set(sorted(rows, key=phrasing_order)[: len(rows) // MIN_ROWS])
    return [(text, row in unseen) for row in rows for text in expand(row)]


@lru_cache(maxsize=256)
def of_kind(table: str, kind: str, phrasing: Phrasing) -> tuple[str, ...]:
    return tuple(each.text for each in wordings(table, phrasing) if each.kind == kind)


ARITHMETIC: Final[dict[str, list[str]]] = {
    "symbols": [
        "[What is|What's|Calculate|Compute|Work out|Evaluate|Find|Solve] {e}[?|.]",
        "[Please calculate|Please work out|Can you compute|Could you evaluate|I need] {e}.",
        "[How much is|Tell me|Give me|What do you get for] {e}?",
        "{e} = ?",
        "{e}",
        "[Result of|Value of|The answer to] {e}[, please.|?]",
        "[What does|What will] {e} [come to|equal|make|give]?",
        "[Use the calculator|Reckon|Do the sum]: {e}",
    ],
    "mul": [
        "[What is|Calculate|Compute|Work out] {a} [times|multiplied by] {b}[?|.]",
        "[Multiply|Please multiply] {a} [by|with] {b}.",
        "[What is|Find|Give me] the product of {a} and {b}.",
        "[A|Each|Every] [crate|box|shelf|truck] holds {a} [bottles|books|parts|apples]. How many are in {b} of them?",
        "[One ticket|A chair|A seat|One lamp] costs {a} coins. What do {b} cost?",
        "[If|When] a machine makes {a} parts [a day|an hour], how many does it make in {b} [days|hours]?",
        "There are {a} rows with {b} seats each. How many seats[ are there|] in all?",
        "[I buy|We order|She needs] {a} packs of {b} screws. How many screws is that?",
        "{a} x {b}[?|]",
        "[How much is|What's] {a} x {b}?",
        "[How many is|How much are] {a} groups of {b}?",
    ],
    "add": [
        "[What is|Calculate|Compute|Work out] {a} plus {b}[?|.]",
        "[Add|Please add] {a} [and|to] {b}.",
        "[What is|Find|Give me] the [sum|total] of {a} and {b}.",
        "I have {a} [coins|stamps|cards] and get {b} more. How many [do I have|are there] now?",
        "One [town|school|shop] has {a} people and another has {b}. How many together?",
        "[What is|Tell me] {a} increased by {b}?",
        "[The first part|Monday] took {a} and [the second|Tuesday] {b}. What is the total?",
        "[Sum up|Total up|Put together] {a} and {b}.",
        "[How much are|How many are] {a} and {b} [together|combined|in all]?",
    ],
    "sub": [
        "[What is|Calculate|Compute|Work out] {a} minus {b}[?|.]",
        "[What is|Find|Give me] the difference between {a} and {b}.",
        "I had {a} [coins|stamps|cards] and [lost|spent|sold|gave away] {b}. How many are left?",
        "[How much is|What is] {a} less {b}?",
        "[Take|Deduct] {b} [from|off] {a}.",
        "[Subtract|Please subtract] {b} from {a}.",
        "[What is|Tell me] {a} [reduced|decreased] by {b}?",
        "A tank holds {a} liters and {b} leak out. How [much remains|many are left]?",
        "How much [more|bigger] is {a} than {b}?",
        "[What remains of|What is left of] {a} after [taking away|removing] {b}?",
    ],
    "div": [
        "[What is|Calculate|Compute|Work out] {a} divided by {b}[?|.]",
        "[Divide|Please divide|Split] {a} by {b}.",
        "[Split|Share|Distribute] {a} [coins|cards|apples] evenly among {b} [people|friends|boxes]."
        " How many does each get?",
        "[What is|Find|Give me] the quotient of {a} and {b}.",
        "[How many times does|How often does] {b} go into {a}?",
        "{b} [tickets|chairs|lamps] cost {a} coins. What does one cost?",
        "{a} [people|guests] sit at {b} tables. How many at each?",
        "[What is|How much is] {a} over {b}?",
    ],
    "percent": [
        "[What is|Calculate|Compute|Find|How much is] {b}% of {a}[?|.]",
        "[What is|How much is|Work out] {b} percent of {a}[?|.]",
        "[Take|Give me] {b} percent of {a}.",
        "A [bill|price] is {a} and the [tip|tax] is {b}%. How much is the [tip|tax]?",
    ],
    "square": [
        "[What is|Calculate|Compute|Find] the square of {a}[?|.]",
        "[What is|Calculate|Work out] {a} squared[?|.]",
        "[Square|Please square] {a}.",
        "[What is|How much is] {a} to the power of 2?",
    ],
    "half": ["[What is|Calculate|Find|How much is] half of {a}[?|.]", "[Halve|Please halve] {a}."],
    "double": ["[What is|How much is] [twice|double] {a}?", "[Double|Please double] {a}."],
    "mod": [
        "[What is|Find|Compute] the remainder of {a} divided by {b}[?|.]",
        "[What is|Calculate] {a} modulo {b}[?|.]",
        "What remains when {a} is divided by {b}?",
    ],
}

CONVERSION: Final[dict[str, list[str]]] = {
    "forward": [
        "[Convert|Please convert|Change|Turn|Translate] {v} {u} [to|into] {w}.",
        "[What is|What's|How much is] {v} {u} in {w}?",
        "[Express|Give me|Write|State] {v} {u} in {w}.",
        "{v} {u} [to|in|into] {w}[?|]",
        "{v} {u} is how many {w}?",
        "[I have|We have|The label says|My guide says] {v} {u}. [What is that|How much is that|Tell me that] in {w}?",
        "[If|When] something [is|measures] {v} {u}, what is it in {w}?",
        "[A recipe says|The sign says|She said|It reads] {v} {u}, but I need {w}.",
        "[Can you|Could you] [convert|turn|change] {v} {u} [to|into] {w}?",
        "[I need|I want|Show me] {v} {u} as {w}.",
        "[How would you say|How do you write] {v} {u} in {w}?",
        "[Make|Rewrite] {v} {u} [into|in] {w}[, please|].",
        "[What does|What would] {v} {u} [come to|make|equal] in {w}?",
        "[Unit conversion|Conversion]: {v} {u} [to|in] {w}.",
    ],
    "backward": [
        "How many {w} [is|are|are in|make] {v} {u}?",
        "How many {w} [do I get from|go into|correspond to|equal] {v} {u}?",
        "[Tell me|I want to know|Work out|Find out] how many {w} {v} {u} [is|are].",
        "[In|Measured in] {w}, [how much is|what is] {v} {u}?",
        "[Give|Tell] me the {w} for {v} {u}.",
        "What number of {w} [is the same as|equals|matches] {v} {u}?",
        "I think in {w}. [How much is|What is] {v} {u}?",
    ],
}

DATE: Final[dict[str, list[str]]] = {
    "plus": [
        "[What date is|What day is|Which date is|Which day is|What is the date] {n} days after {d}?",
        "[Add|Please add] {n} days to {d}.",
        "[What is|Find|Give me|Tell me] the date {n} days [after|from] {d}.",
        "[What is|What's|Calculate] {d} plus {n} days[?|.]",
        "[A loan|The rental|My trial|A visa] starts on {d} and [lasts|runs] {n} days. When does it end?",
        "[Starting from|From|Counting from] {d}, what date is it in {n} days?",
        "[It is|Today is] {d}. What will the date be in {n} days?",
        "[A parcel|The crew|She|The train] left on {d} and arrives {n} days later. On [what|which] date?",
        "[Move|Push|Shift|Delay] {d} [back|out|forward|on] by {n} days.",
        "{d} + {n} days[?|]",
        "[When is|When will it be] {n} days [past|after] {d}?",
        "{n} days after {d}[ is when|, please|]?",
        "[If|When] I wait {n} days from {d}, what date is it?",
        "The [job|course|tour] begins {d}. It takes {n} days. [Which|What] date is it done?",
    ],
    "minus": [
        "[What date was|What day was|Which date is|What date is|What is the date] {n} days before {d}?",
        "[Subtract|Please subtract|Take] {n} days from {d}.",
        "[What is|Find|Give me|Tell me] the date {n} days [before|prior to|ahead of] {d}.",
        "[What is|What's|Calculate] {d} minus {n} days[?|.]",
        "[It is|Today is] {d}. What was the date {n} days ago?",
        "[Going|Counting] back {n} days from {d}, what date is it?",
        "The [exam|show|wedding] is on {d}. I start {n} days [earlier|before]. On what date?",
        "{d} - {n} days[?|]",
        "[When was|When is] {n} days before {d}?",
        "{n} days before {d}[, please|]?",
        "[Which|What] date lies {n} days [before|earlier than] {d}?",
    ],
}

# {k} is what is asked for ("the door code of Kelvor"), {q} the same as a clause ("what the door code of Kelvor is").
NOTES: Final[dict[str, list[str]]] = {
    "notes": [
        "[What|What do the notes say] is {k}? [Check|Search|Look in|Use] [the|my] notes.",
        "[According to|Based on|Going by|From] [the|my] notes, what is {k}?",
        "[Search|Look through|Go through|Check|Consult] [the|my|our] notes [for|and tell me|and find] {k}.",
        "[Find|Look up|Get|Look for] {k} in [the|my|our] notes.",
        "[Do|What do] [the|my] notes say [about|on] {k}?",
        "[What is|Tell me|Give me] {k}[, according to the notes|, as in the notes|, from the notes][?|.]",
        "[I wrote down|I noted|We noted] {k}. What is it?",
        "[I need|I want|Find me] {k} from [the|my|our] notes.",
        "In [the|my] notes, what is {k}?",
        "[The notes|My notes|Our notes] [have|hold|mention|give] {k}. [What is it|Tell me|Which is it]?",
        "[Look at|See|Scan] [the|my] notes: what is {k}?",
        "[Can|Could] you [find|look up] {k} in [the|my] notes?",
        "[Somewhere in|There is in] [the|my] notes {k}. [Find it|Get it|What is it].",
    ],
}
NEUTRAL: Final[dict[str, list[str]]] = {
    "neutral": [
        "[What is|What's|Tell me|Give me|Find|Look up] {k}[?|.]",
        "[I need|I want|I forgot|Do you know|Remind me of] {k}[.|?]",
        "[Can|Could] you tell me {k}?",
        "[What was|What would be] {k} again?",
        "[Please find|Please tell me|Let me know|Find out] {k}.",
    ],
}
FILE: Final[dict[str, list[str]]] = {
    "file": [
        "[What is|Tell me|Give me] {k} [in|according to|from] {f}[?|.]",
        "[Read|Open|Check|Look in|Look into|Use] {f} and [tell me|find|give me|report] {k}.",
        "[According to|Based on|Going by|From|In] {f}, what is {k}?",
        "[The file|There is a file] {f}[ has it|]. What is {k}?",
        "[Find|Look up|Get] {k} in [the file |]{f}.",
        "[I need|I want|Find me] {k} from {f}.",
        "{f} [gives|lists|mentions|contains|has] {k}. [What is it|Which is it|Tell me]?",
        "[What does|What would] {f} [say about|give as|list as|have as] {k}?",
        "[Can|Could] you [open|read|check] {f} [for|and find] {k}?",
        "[Open|See|Take] {f}: what is {k}?",
        "[Somebody|I|She] put {k} in {f}. What is it?",
        "[Which|What] is {k}? It is in {f}.",
    ],
    "whole": [
        "[What does|What is in|What stands in] {f}[ say|]?",
        "[Read|Show|Open|Print|Quote] {f}[ to me| for me|].",
        "[Show|Tell|Give] me [what is in|the contents of|the text of] {f}.",
        "[What are the contents|What is the text] of {f}?",
        "[Can|Could] you read {f} [to me|out|aloud]?",
        "I want to [see|read|know] [what {f} says|the text of {f}].",
    ],
}
REMEMBER: Final[dict[str, list[str]]] = {
    "remember": [
        "[Remember|Please remember|Remember for later|Keep in mind|Bear in mind] that {s}.",
        "[Remember this|Note this|Store this|Save this|Memorize this|Keep this][: | for later: ]{s}.",
        "[Make a note|Take note|Don't forget|Do not forget|Never forget] that {s}.",
        "[Store|Save|Keep|Put] in [memory|your memory] that {s}.",
        "[I want you to|You should|Could you|Can you] remember that {s}[.| please.]",
        "[For later|For the record|For next time]: {s}. [Remember it|Keep it|Store it].",
        "{s}. [Remember that|Keep that in mind|Don't forget it|Memorize that|Save that for later].",
        "[Learn|Memorize|Retain] that {s}.",
        "[Add to|Write to] [memory|your memory]: {s}.",
        "[Here is|This is] something to remember: {s}.",
        "[It matters later|You will need this later]: {s}[. Remember.|. Keep it.]",
    ],
}
RECALL: Final[dict[str, list[str]]] = {
    "recall": [
        "[What did I tell you|What did I say|What do you remember] [about|regarding] {k}?",
        "[Do you remember|Can you recall|Recall|Please recall|Do you recall] {k}[?|.]",
        "[From memory|From your memory|As you remember], what is {k}?",
        "[I told you|I gave you|I mentioned|You remembered|You stored] {k}. What [is|was] it?",
        "[What is|Tell me|Give me] {k}, [as I told you|as you remember|from memory|that you remembered][?|.]",
        "[Search|Check|Look in|Use] your memory: what is {k}?",
        "[Look up|Find|Get] {k} in [your memory|memory].",
        "[Earlier|Before|Last time|Some time ago] I told you {k}. [What was it|Which was it|Say it again].",
        "[Remind me|Tell me again]: what [is|was] {k}?",
        "[What was|Which was] {k} [that I told you|I asked you to remember|I had you remember]?",
        "[I asked you to remember|I had you remember|You were to remember] {k}. [What is it|Tell me].",
        "[Does your memory hold|Is there in your memory] {k}?",
        "[Bring back|Fetch] {k} from [memory|your memory].",
    ],
}

# The second step: {k} stands for a number found in the first one, {source} for where that is.
SOURCES: Final[dict[str, list[str]]] = {
    "notes": ["in the notes", "in my notes", "from the notes", "according to the notes", "from my notes"],
    "file": ["in {f}", "from {f}", "according to {f}", "listed in {f}", "given in {f}"],
    "recall": ["that I told you", "in your memory", "you remember", "from memory", "I told you earlier"],
}
THEN: Final[dict[str, list[str]]] = {
    "mul": [
        "[What is|Calculate|Work out] {k} {source} times {b}[?|.]",
        "[Multiply|Take] {k} {source} [by|times] {b}.",
        "[Find|Look up|Get] {k} {source} and multiply it by {b}.",
        "[How much is|What is] {b} times {k} {source}?",
        "{b} [times|x] {k} {source}[?| is what?]",
        "[Find|Look up] {k} {source}, then [multiply|times] by {b}.",
    ],
    "add": [
        "[What is|Calculate|Work out] {k} {source} plus {b}[?|.]",
        "[Add|Please add] {b} to {k} {source}.",
        "[Find|Look up|Get] {k} {source} and add {b}[ to it|].",
        "[If|When] {k} {source} grows by {b}, what is it then?",
        "[Find|Look up] {k} {source}, then add {b}.",
    ],
    "sub": [
        "[What is|Calculate|Work out] {k} {source} minus {b}[?|.]",
        "[Subtract|Take|Deduct] {b} from {k} {source}.",
        "[Find|Look up|Get] {k} {source} and subtract {b}[ from it|].",
        "[If|When] {k} {source} drops by {b}, what is left?",
        "[Find|Look up] {k} {source}, then take away {b}.",
    ],
    "div": [
        "[What is|Calculate|Work out] {k} {source} divided by {b}[?|.]",
        "[Divide|Split] {k} {source} by {b}.",
        "[Find|Look up|Get] {k} {source} and divide it by {b}.",
        "[Find|Look up] {k} {source}, then divide by {b}.",
    ],
    "convert": [
        "[What is|How much is|Give me|Tell me] {k} {source} in {w}[?|.]",
        "[Convert|Change|Turn] {k} {source} [to|into] {w}.",
        "[Find|Look up|Get] {k} {source} and convert it [to|into] {w}.",
        "[Express|Report|State] {k} {source} in {w}.",
        "How many {w} is {k} {source}?",
        "[Find|Look up] {k} {source}, then turn it into {w}.",
    ],
    "plus": [
        "[What date is|Which date is|What day is] {n} days after {k} {source}?",
        "[Add|Please add] {n} days to {k} {source}.",
        "[Find|Look up|Get] {k} {source} and add {n} days[ to it|].",
        "[What is|Tell me] the date {n} days after {k} {source}.",
        "[If|When] {k} {source} is moved back by {n} days, what date is it?",
        "[Find|Look up] {k} {source}, then go {n} days on.",
    ],
    "minus": [
        "[What date is|Which date is|What day is] {n} days before {k} {source}?",
        "[Subtract|Take] {n} days from {k} {source}.",
        "[Find|Look up|Get] {k} {source} and subtract {n} days[ from it|].",
        "[What is|Tell me] the date {n} days before {k} {source}.",
        "[Find|Look up] {k} {source}, then go back {n} days.",
    ],
}

# What may stand before and after any task, seen and unseen alike.
_OPENERS: Final = (
    "Hi. |Hello. |Hi there! |Quick question: |One more thing: |I have a question. |Help me with "
    "this: |A small task: |Next: |Okay. |Good morning. |Hey, |So, |Task: |Question: |Please help. "
    "|Now this: "
)
_CLOSERS: Final = (
    " Thanks.| Thank you.| Please.| Be brief.| I am in a hurry.| Answer shortly.| Thanks a lot!| It "
    "is important.| Thank you very much."
)
OPENERS: Final = tuple(_OPENERS.split("|"))
CLOSERS: Final = tuple(_CLOSERS.split("|"))

TABLES: Final[dict[str, dict[str, list[str]]]] = {
    "arithmetic": ARITHMETIC,
    "conversion": CONVERSION,
    "date": DATE,
    "notes": NOTES,
    "neutral": NEUTRAL,
    "file": FILE,
    "remember": REMEMBER,
    "recall": RECALL,
    "then": THEN,
}
