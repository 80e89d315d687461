"""The durable record of calls: what was acknowledged, what ended how, what must be taken up after a crash.

This is its door. It knows calls, not modules: what a call does is none of its business.

A call without a key is an event in the log, one row a group of commits, folded down to the open calls as it grows. A
call with a key has a row of its own, with its arguments and its answer. What is large is stored once by its hash, and a
list of messages is a chain of nodes, each the hash of its parent and one message: a dialogue that grows by two
messages a call costs two nodes a call.
"""

from .journal import Journal
from .records import OpenRecord, Recorded, body_hash

__all__ = ["Journal", "OpenRecord", "Recorded", "body_hash"]
