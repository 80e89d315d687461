"""Arguments and results of the storage calls.

A path is a name inside the agent's storage; its first part may be a mount, which is somebody else's folder.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from .call import Args, Limit, Name, Number, Path, Query, Result, Time
from .memory import SearchMode

Encoding = Literal["utf-8", "base64"]
MountName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class StoMount(Args, frozen=True):
    """Show `folder` of the machine, or a fresh one of the kernel's own without it, as the first part `name` of paths:
    to the agent `agent` of the caller's owner, else to the groups that may use it."""

    name: MountName
    folder: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    agent: Name | None = None
    is_read_only: bool = field(default=False, name="read_only")


class StoUnmount(Args, frozen=True):
    """The folder stays as it is, and so do the versions that were kept of its files."""

    name: MountName
    agent: Name | None = None


class StoMounts(Args, frozen=True):
    """All for an admin; for an agent those that it may look into."""


class StoCreate(Args, frozen=True):
    path: Path
    kind: Literal["file", "folder"] = "file"


class StoWrite(Args, frozen=True):
    """With `base`, only if that is the file's newest version (0: if there is none), else 409. `upload` names what
    PUT /aios/v1/files/PATH has taken in; `content` is empty then."""

    path: Path
    content: Annotated[str, Meta(max_length=24 << 20)]
    encoding: Encoding = "utf-8"
    base: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    upload: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


class StoRead(Args, frozen=True):
    """`length` bytes from `offset` on, all of it without them. What is no UTF-8 takes `encoding` "base64"."""

    path: Path
    version: Number | None = None
    encoding: Encoding = "utf-8"
    offset: Annotated[int, Meta(ge=0, le=2**53)] = 0
    length: Annotated[int, Meta(ge=0, le=16 << 20)] | None = None


class StoList(Args, frozen=True):
    """With `trash`, what was cleared and can be restored. `after` is the last path seen."""

    path: str = ""
    trash: bool = False
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    after: str | None = None


class StoMove(Args, frozen=True):
    path: Path
    to: Path


class StoClear(Args, frozen=True):
    """A file or a folder and all beneath it; into the trash of the agent, not out of the world. With `trash`, what
    was cleared there before leaves the trash for good, all versions of it ("." is all of the trash); what is not in
    the trash stays. That makes room and cannot be undone, so it takes a key that is no process's."""

    path: Path
    trash: bool = False


class StoRestore(Args, frozen=True):
    """Bring back what was cleared last at `path`, and all beneath it."""

    path: Path


class StoRetrieve(Args, frozen=True):
    """Of files that are text, Markdown, source code, CSV, HTML or PDF, the agent's own and those of mounts that it may
    read; each is found as it is now. `where` narrows them; `mode` as in mem_search."""

    query: Query
    k: Limit = 5
    where: Where | None = None
    mode: SearchMode | None = None


class Where(Args, frozen=True):
    """Files at or below `path`, whose name fits the pattern `name` ("*.md"; one with a "/" is of whole paths), of one
    of `types` (suffixes without the dot), changed from `since` until before `until`, whose newest version is by the
    agent `author`."""

    path: str | None = None
    name: Annotated[str, Meta(max_length=200)] | None = None
    types: Annotated[list[Annotated[str, Meta(max_length=20)]], Meta(min_length=1, max_length=50)] | None = None
    since: Time | None = None
    until: Time | None = None
    author: Name | None = None


class StoHistory(Args, frozen=True):
    """`before` is the lowest version seen."""

    path: Path
    limit: Limit = 100
    before: Number | None = None


class StoDiff(Args, frozen=True):
    """Between two versions: without `to` the newest, without `since` the one before that."""

    path: Path
    since: Number | None = None
    to: Number | None = None


class StoRollback(Args, frozen=True):
    """Make an old version the newest again; those between stay in the history."""

    path: Path
    version: Number


class StoShare(Args, frozen=True):
    """A link that opens the file, or that version of it, for anybody who has it, for `ttl` seconds; 0 ends all links
    to it."""

    path: Path
    ttl: Annotated[float, Meta(ge=0, le=366 * 86_400)] = 86_400.0
    version: Number | None = None


class StoStat(Args, frozen=True):
    """What the agent's files take, and may."""


class Version(Result, frozen=True):
    path: str
    version: int


class File(Result, frozen=True):
    """`size` is that of the whole file in bytes."""

    path: str
    content: str
    version: int
    encoding: Encoding = "utf-8"
    size: int | None = None


class Stat(Result, frozen=True):
    path: str
    kind: Literal["file", "folder", "mount"]
    size: int
    version: int
    modified: float


class MountInfo(Result, frozen=True):
    """`agent` is whose it is, None for a shared one; `folder` is told to admins. `why_gone` says why the folder cannot
    be used now. All of it is looked through at each start (`looking`; `seen` files and folders so far). `not_kept` of
    its files have no version, for want of room. Without `watched`, changes by others are found by looking only."""

    name: str
    agent: str | None
    folder: str | None
    is_read_only: bool = field(name="read_only")
    is_configured: bool = field(name="configured")
    why_gone: str | None
    is_looking: bool = field(name="looking")
    seen: int
    not_kept: int
    is_watched: bool = field(name="watched")


class MountList(Result, frozen=True):
    mounts: list[MountInfo]


class Listing(Result, frozen=True):
    """`has_more`: there are more after these."""

    entries: list[Stat]
    has_more: bool = False


class Passage(Result, frozen=True):
    """A piece of a file that answers: `text` is its words, from byte `start` to `end` of what was read of that
    version (of the file itself where that is text). `title` is the heading it stands under."""

    path: str
    version: int
    start: int
    end: int
    text: str
    score: float
    title: str | None = None


class Passages(Result, frozen=True):
    """`pending` files of those asked about are not read yet: they are read in the background, ask again. `skipped` says
    by path which cannot be read, or not wholly, and why (of a hundred at most). `note`: why it went by words only."""

    passages: list[Passage]
    pending: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    note: str | None = None


class Revision(Result, frozen=True):
    """`author` is the agent that wrote it, or "outside" for a change that was found in a mounted folder. `why` is the
    call."""

    version: int
    size: int
    created: float
    author: str | None = None
    why: str | None = None


class History(Result, frozen=True):
    """`not_kept` says why a file of a mount is no version as it is in its folder now, if so."""

    path: str
    revisions: list[Revision]
    has_more: bool = False
    not_kept: str | None = None


class Diff(Result, frozen=True):
    """`text` is a unified diff, empty where both are equal."""

    path: str
    since: int
    to: int
    text: str


class Link(Result, frozen=True):
    """`url` is a path of the kernel's address, None when links were ended; this is shown once."""

    url: str | None
    expires: float | None
    ended: int = 0


class StorageStat(Result, frozen=True):
    """Of one agent: files and folders, versions, and bytes of these; `stored` is what they take on disk."""

    entries: int
    max_entries: int
    bytes: int
    max_bytes: int
    versions: int
    trash_entries: int
    trash_bytes: int
    stored: int
