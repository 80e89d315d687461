"""What the operating system says about a mounted folder, in words for agents: with their paths, never the machine's."""

from __future__ import annotations

import contextlib
import errno
import os
import stat as st
from collections.abc import Iterator

from aios.abi.errors import AiosError, BadRequest, Conflict, Denied, Full, ModuleFault, NotFound, Stopping


class Gone(Stopping):
    """The mounted folder is not there: a disk was taken out, the folder moved. Nothing is deleted by that."""

    default_code = "mount_gone"

    why = ""

    @classmethod
    def because(cls, why: str) -> Gone:
        error = cls(f"the mounted folder is not there ({why})", retry_after=30)
        error.why = why
        return error


class Changed(Exception):
    """Somebody outside was faster: look again. No call ends with it: who gives up says so (`Mount.is_busy`)."""


def is_folder(path: str, found: os.stat_result) -> bool:
    """Raises Denied for a link, BadRequest for what is neither file nor folder."""
    if st.S_ISDIR(found.st_mode):
        return True
    if st.S_ISREG(found.st_mode):
        return False
    if st.S_ISLNK(found.st_mode):
        raise Denied(
            f"'{path[:200]}' is a link, and links in mounted folders are not followed: name what it points to",
            code="is_a_link",
            param="path",
        )
    raise BadRequest(
        f"'{path[:200]}' is neither a file nor a folder (a pipe, a socket or a device)", code="not_a_file", param="path"
    )


def is_a_folder(path: str) -> BadRequest:
    return BadRequest(f"'{path}' is a folder; sto_list shows what is in it", code="is_a_folder", param="path")


def is_there(path: str, param: str = "path") -> Conflict:
    return Conflict(f"something is at '{path}' already", code="path_exists", param=param)


@contextlib.contextmanager
def told(path: str) -> Iterator[None]:
    """Tell an OSError about the file or folder `path` of a mount as one of ours."""
    try:
        yield
    except OSError as error:
        raise _told(path[:200], error) from None


def _told(path: str, error: OSError) -> AiosError:
    match error.errno:
        case errno.ENOENT:
            return NotFound(
                f"there is no file or folder '{path}'; sto_list shows what is there", code="no_such_path", param="path"
            )
        case errno.ENOTDIR | errno.ELOOP:
            return Conflict(
                f"a part of '{path}' is no folder, so nothing is below it", code="not_a_folder", param="path"
            )
        case errno.EACCES | errno.EPERM:
            return Denied(
                f"the kernel's user may not do that with '{path}': its owner can allow it (chmod, chown)",
                code="folder_denied",
                param="path",
            )
        case errno.EROFS:
            return Denied(f"'{path}' is on a disk that can only be read", code="folder_denied", param="path")
        case errno.ENAMETOOLONG | errno.EINVAL | errno.EILSEQ:
            return BadRequest(
                f"the file system does not take the name '{path}' ({error.strerror})", code="bad_path", param="path"
            )
        case errno.EEXIST | errno.ENOTEMPTY | errno.EISDIR:
            return is_there(path)
        case errno.ENOSPC | errno.EDQUOT:
            return Stopping(
                f"the disk of the mounted folder is full: '{path}' was not written; free some space there",
                code="storage_full",
                retry_after=5.0,
            )
        case errno.EMFILE | errno.ENFILE:
            return Full("too many files are open on this machine; try again", code="too_many_files", retry_after=1.0)
    return ModuleFault(f"'{path}' cannot be used: the disk says {error.strerror or error}", code="folder_failed")
