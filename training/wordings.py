"""More ways to word a task, for training alone: they widen what the model has heard. None is a held-out phrasing."""

from __future__ import annotations

import random
from functools import lru_cache

from stories import SCENES, scene

from aios.eval.workload.families import Draw
from aios.eval.workload.phrasings import TABLES, Wording, expand, wordings

SHARE = 0.4  # of the wordings drawn in training
STORIES = 0.25  # of the sums

MORE: dict[str, dict[str, list[str]]] = {
    "arithmetic": {
        "symbols": [
            "[Let me know|Say|Check] what {e} is.",
            "[My sheet|The page|The board] says {e}. [Solve it|What is it|The value?]",
            "[Type|Enter|Put] {e} into the calculator.",
            "I [cannot|can't] work out {e}[. Can you?| by myself.]",
            "[Does|Do] you know {e}?",
            "[Simplify|Determine|Figure out] {e}[.|, thanks.|]",
            "And {e}?",
            "{e} [please|is what|makes]?",
            "[Next sum|Sum|Exercise]: {e}",
            "[Run|Do] {e} for me.",
        ],
        "mul": [
            "[Each of|All of] {a} [workers|robots|pupils] [carries|has|needs] {b} [bricks|pens|bolts]."
            " How many in total?",
            "[How many|What number of] [tiles|stones|eggs] [are|is] in {b} [rows|boxes|trays] of {a}?",
            "[Scale|Blow up] {a} by a factor of {b}.",
            "[I earn|She earns|It makes] {a} [coins|points] per [week|round]. How much in {b} [weeks|rounds]?",
            "{a} multiplied by {b}, [please|what is it]?",
            "[Work|Figure] out {b} lots of {a}.",
            "[Let|Suppose] {b} [buses|vans] carry {a} people each. [The total|How many people]?",
            "[Do|Try] {a} times {b}.",
        ],
        "add": [
            "[Count|Put|Take] {a} and {b} together.",
            "{a} plus {b}[, please|?| is what?]",
            "[What do|How much do] {a} and {b} [make|give|come to]?",
            "A [jar|box|shop] has {a} [beans|nails|books]. [Someone|She|He] puts in {b} more. [The new"
            " count|How many in all]?",
            "[Raise|Increase] {a} by {b}.",
            "[My bill|The cost|Our order] is {a} and there is a fee of {b}. [What do I pay|The total]?",
            "[The village|The club] had {a} members and {b} joined. How many now?",
            "[Do|Try] {a} plus {b}.",
        ],
        "sub": [
            "{a} minus {b}[, please|?| is what?]",
            "[Lower|Reduce|Cut] {a} by {b}.",
            "[The club|The town] had {a} members and {b} left. How many [stayed|remain]?",
            "[From|Out of] {a} [eggs|seats|pages], {b} are [broken|taken|read]. How many [are not|remain]?",
            "[I owe|She owes] {a} and [pay|pays] back {b}. What is still owed?",
            "[Do|Try] {a} minus {b}.",
            "By how much does {a} exceed {b}?",
            "[What must I add to|How far is it from] {b} to [get|reach] {a}?",
        ],
        "div": [
            "{a} divided by {b}[, please|?| is what?]",
            "[Cut|Break] {a} into {b} equal parts. How big is one?",
            "[A rope|A pipe] of {a} meters is cut into {b} pieces. How long is each?",
            "[Do|Try] {a} divided by {b}.",
            "[We|They] [pay|owe] {a} coins for {b} [days|nights]. How much is that per [day|night]?",
            "[Share out|Deal out|Hand out] {a} [cards|sweets] to {b} [players|kids]. Each gets how many?",
            "[If|When] {b} [friends|people] split a bill of {a}, what does each pay?",
        ],
        "percent": [
            "[I want|We need|He gets] {b}% of {a}. How much is [that|it]?",
            "{b}% of {a}[?| is what?| please]",
            "[Out of|Of] {a} [votes|people], {b} percent said yes. How many is that?",
        ],
        "square": [
            "{a} squared[?| please.]",
            "Multiply {a} by itself.",
            "[A field|A room] is {a} by {a}. [Its area|What is the area]?",
        ],
        "half": [
            "[Cut|Split] {a} in half.",
            "[What is|Give me] one half of {a}?",
            "{a} divided in two halves: how much is each?",
        ],
        "double": ["[Make|Take] {a} two times.", "Two times {a}[?| is what?]", "[Give me|I need] the double of {a}."],
        "mod": ["[Divide|Split] {a} by {b}. What remains?", "{a} mod {b}[?| please]", "[Give me|Tell me] {a} mod {b}."],
    },
    "conversion": {
        "forward": [
            "[Let me know|Say|Check] what {v} {u} is in {w}.",
            "[The box|The parcel|The form] says {v} {u}. [In|And in] {w}?",
            "[Please give|Please state|Kindly give] {v} {u} in {w}.",
            "{v} {u} = ? {w}",
            "[Do|Try] {v} {u} to {w}.",
            "[Switch|Transform|Bring|Recalculate|Rework] {v} {u} [to|into] {w}.",
            "[From|Going from] {u} to {w}: {v}.",
            "[They|We] measured {v} {u}. [Put|Say] that in {w}.",
            "[My friend|My boss] uses {w}. Tell [him|her] {v} {u}.",
            "What {w} value [has|fits] {v} {u}?",
            "[Is|Was] {v} {u} a lot in {w}? How much exactly?",
            "It [took|weighed|was] {v} {u}. [And in|How much in] {w}?",
            "[Read|Translate] {v} {u} as {w}.",
            "[Can|Could] {v} {u} be given in {w}?",
            "{v} {u}, but in {w}[.|, please.]",
        ],
        "backward": [
            "[To|As] {w}: {v} {u}.",
            "[Count|Calculate|Compute|Find] the {w} in {v} {u}.",
            "[How much|What] in {w} is {v} {u}?",
            "[I need|We need|Give] {w}[:| from] {v} {u}.",
            "[The number of|How many] {w} in {v} {u}?",
            "[How many|What number of] {w} would {v} {u} [be|make]?",
            "Into {w}, please: {v} {u}.",
        ],
    },
    "date": {
        "plus": [
            "[Let me know|Say|Check] the date {n} days after {d}.",
            "[Go|Jump|Count] {n} days [forward|ahead|on] from {d}.",
            "[Shift|Put off] {d} by {n} days.",
            "[My|Our|Her] [lease|ticket|pass] is valid for {n} days from {d}. [Until when|The last day]?",
            "[Do|Try] {d} and {n} more days.",
            "[I|We] [ordered|sent] it on {d}. It comes after {n} days. When[ is that|]?",
            "[The baby|The egg|The plant] needs {n} days from {d}. [On which date|When] is it ready?",
            "[Which|What] date [follows|comes] {n} days after {d}?",
            "In {n} days from {d}, what [is the date|day will it be]?",
            "[With|Given] {d} as the first day, what is the date {n} days later?",
            "[Extend|Prolong] {d} by {n} days.",
            "{n} days have passed since {d}. What is the date [now|today]?",
        ],
        "minus": [
            "[Let me know|Say|Check] the date {n} days before {d}.",
            "[Go|Jump|Count] {n} days back from {d}.",
            "[Do|Try] {d} less {n} days.",
            "[My|Our|Her] [train|flight] leaves on {d}. I must book {n} days [ahead|earlier]. When[ is that|]?",
            "[Bring|Move|Pull] {d} forward to {n} days earlier.",
            "[It|The letter] arrived on {d} after {n} days. When was it sent?",
            "What [was|is] the [date|day] {n} days [prior to|ahead of] {d}?",
            "[The work|The trip] ended on {d} and took {n} days. When did it start?",
            "{n} days [earlier|back] than {d}: which date?",
        ],
    },
    "notes": {
        "notes": [
            "[Let me know|Say|Check] {k}; [the|my] notes have it.",
            "[Read|Browse] [the|my] notes and [say|give] {k}.",
            "Notes: {k}?",
            "[Which|What] {k} [do|did] [I|we] note down?",
            "[Please|Kindly] [search|check] [the|my] notes: {k}.",
            "[I am sure|I think] {k} is [in|among] [the|my] notes.",
            "[Use|Take] [the|my] notes to [find|answer]: what is {k}?",
            "[Search|Find] {k}. It is in [the|my] notes.",
            "[Where|What] in [the|my] notes is {k}?",
            "[Are|Is] there {k} in [the|my] notes? [What is it|Tell me].",
            "[Pull|Dig] {k} out of [the|my] notes.",
            "[The|My] notes [should|must] say {k}. [Look|Check].",
            "[With|From] the help of [the|my] notes, say {k}.",
        ],
    },
    "neutral": {
        "neutral": [
            "[Let me know|Say|State|Name] {k}.",
            "[And|So] {k}?",
            "[Please say|Please give me|Kindly tell me] {k}.",
            "[I wonder|I ask|They ask] what {k} is.",
            "[Does anyone|Do you] know {k}?",
            "[Somebody|My boss|A friend] asks for {k}.",
            "[Could|Would] you [find|get|give me] {k}?",
            "{k}[, please|?]",
            "[Get|Fetch|Bring] me {k}.",
            "I have to know {k}.",
        ],
    },
    "file": {
        "file": [
            "[Let me know|Say|Check] {k}; it is [in|inside] {f}.",
            "[Using|With] {f}, [say|find|tell me] {k}.",
            "{f}: {k}?",
            "[Load|Look at|Inspect] {f} and [say|state|name] {k}.",
            "[Please|Kindly] [read|open] {f}. [I need|I want to know] {k}.",
            "[Which|What] {k} [stands|is written] in {f}?",
            "{k} [is|stands] in {f}. [What is it|Tell me].",
            "[Pull|Dig|Take] {k} out of {f}.",
            "[I am sure|I think] {f} [knows|says] {k}.",
            "[Search|Scan|Go through] {f} for {k}.",
            "[Inside|Within] {f} [you find|there is] {k}. [Get it|What is it]?",
            "[Answer|Tell me] from {f}: what is {k}?",
            "Have a look at {f}: {k}?",
        ],
        "whole": [
            "[Please read|Display|List|Load] {f}.",
            "[Let me see|I need to see|Let me read] {f}.",
            "[Which|What] text [is|stands] in {f}?",
            "{f}, please.",
            "[Say|Repeat] what {f} [says|holds].",
            "[What did|What does] {f} [contain|hold]?",
        ],
    },
    "remember": {
        "remember": [
            "[Know|Be aware|Take in] that {s}. [You will be asked|Keep it].",
            "[Please|Kindly] [store|save|keep|note] that {s}.",
            "[Put|Enter] this [in|into] [memory|your memory]: {s}.",
            "[From now on|You should know]: {s}[. Remember it.|. Store it.]",
            "[Let me tell you|I tell you now] that {s}. [Remember it|Keep it in mind].",
            "[Keep|Hold on to] this fact: {s}.",
            "[Memory|Remember|Note|Save|Store]: {s}",
            "[It would help if you|You must] [remembered|remember|keep in mind] that {s}.",
            "{s}[: remember this|, remember that|; keep this for later].",
            "[A fact|Something] [for|to put in] your memory: {s}.",
            "[I trust you to|Be sure to|Make sure to] remember that {s}.",
        ],
    },
    "recall": {
        "recall": [
            "[Let me know|Say|Check] {k}; I told you[ before|].",
            "[Try|Do try] to [remember|recall] {k}.",
            "[Which|What] {k} did I [tell|give] you?",
            "[You know|You were told] {k}. [What is it|Say it].",
            "[What|Which] was it that I told you [about|of] {k}?",
            "[Recall|Remember] what I said: {k}?",
            "[Use|Search|Ask] your memory for {k}.",
            "[You have|There is] {k} in [memory|your memory]. [What is it|Tell me].",
            "[Out of|Based on] your memory, [say|tell me] {k}.",
            "[We talked about|We spoke of] {k}[ before| earlier]. What [is|was] it?",
            "[Think back|Go back]: what [is|was] {k}?",
            "Memory: {k}?",
            "[Did I tell you|Have I told you] {k}? [What is it|Then say it].",
        ],
    },
    "then": {
        "mul": [
            "[Take|Get] {k} {source} and [make it|scale it] {b} times as [much|big].",
            "[If|When] {k} {source} is multiplied by {b}, what [comes out|do we get]?",
            "{k} {source} times {b}[?|, please.]",
            "[Read|Check] {k} {source}. Times {b}?",
            "[We need|I need] {b} times {k} {source}.",
        ],
        "add": [
            "[Take|Get] {k} {source} and [raise|increase] it by {b}.",
            "{k} {source} plus {b}[?|, please.]",
            "[Read|Check] {k} {source}. Plus {b}?",
            "[If|When] {b} is added to {k} {source}, what [comes out|do we get]?",
            "[Sum|Total] of {k} {source} and {b}?",
        ],
        "sub": [
            "[Take|Get] {k} {source} and [lower|reduce] it by {b}.",
            "{k} {source} minus {b}[?|, please.]",
            "[Read|Check] {k} {source}. Minus {b}?",
            "[If|When] {b} is taken from {k} {source}, what remains?",
            "[Reduce|Lower|Cut] {k} {source} by {b}.",
        ],
        "div": [
            "[Take|Get] {k} {source} and [split|share] it by {b}.",
            "{k} {source} divided by {b}[?|, please.]",
            "[Read|Check] {k} {source}. Divided by {b}?",
            "[If|When] {k} {source} is shared among {b}, what does each get?",
        ],
        "convert": [
            "[Take|Get] {k} {source} and [give|say] it in {w}.",
            "{k} {source}, but in {w}[.|, please.]",
            "[Read|Check] {k} {source}. In {w}?",
            "[I need|We need] {k} {source} in {w}.",
            "[In|To] {w}: {k} {source}.",
            "[Let me know|Say|Show] {k} {source} in {w}.",
            "[How many|What number of] {w} [does|do] {k} {source} make?",
        ],
        "plus": [
            "[Take|Get] {k} {source} and go {n} days [on|forward].",
            "{n} days after {k} {source}[?| is which date?]",
            "[Read|Check] {k} {source}. What is the date {n} days later?",
            "{k} {source} plus {n} days[?|, please.]",
            "[Shift|Delay|Push] {k} {source} by {n} days.",
            "[I come|We meet] {n} days after {k} {source}. [When|Which date] is that?",
        ],
        "minus": [
            "[Take|Get] {k} {source} and go {n} days back.",
            "{n} days before {k} {source}[?| is which date?]",
            "[Read|Check] {k} {source}. What is the date {n} days earlier?",
            "{k} {source} minus {n} days[?|, please.]",
            "[I start|We begin] {n} days before {k} {source}. [When|Which date] is that?",
        ],
    },
}
_ASIDES = (
    "I am writing a report. |My boss wants to know. |It is for school. |We talk about this later. |I lost my phone. "
    "|It rains today. |I am on the train. |This is for a friend. |You are a great help. |I have little time. "
    "|Do not guess. |The last answer was good. |Let us go on. |I am back. |Now something else. |I forgot my glasses. "
    "|They wait for it. |Just checking. |For my list: |First: |Then: "
)
ASIDES = tuple(_ASIDES.split("|"))


@lru_cache(maxsize=256)
def more(table: str, kind: str) -> tuple[str, ...]:
    """The extra phrasings of a kind, less any that happens to be held out."""
    unseen = {each.text.casefold() for each in wordings(table, "unseen")}
    rows = MORE.get(table, {}).get(kind, [])
    return tuple(text for row in rows for text in expand(row) if text.casefold() not in unseen)


class WideDraw(Draw):
    """Draws wordings of the extra rows too, and at times begins with an aside."""

    def wording(self, table: str, kind: str | None = None) -> Wording:
        usual = super().wording(table, kind)
        if table == "arithmetic" and usual.kind in SCENES and self.rng.random() < STORIES:
            return Wording(scene(self.rng, usual.kind), usual.kind)
        extra = more(table, usual.kind)
        if not extra or self.rng.random() > SHARE:
            return usual
        return Wording(self.rng.choice(extra), usual.kind)

    def dress(self, prompt: str) -> str:
        dressed = super().dress(prompt)
        return random_aside(self.rng) + dressed if self.rng.random() < 0.06 else dressed


def random_aside(rng: random.Random) -> str:
    return rng.choice(ASIDES)


assert all(table in TABLES and kind in TABLES[table] for table in MORE for kind in MORE[table])
