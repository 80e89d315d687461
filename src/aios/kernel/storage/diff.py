"""What differs between two texts, line by line, as a unified diff. Knows no file and no store.

The shortest way from one to the other (Myers, An O(ND) Difference Algorithm, 1986), given up when that is long: what is
left then is shown as replaced whole, which is still a diff that is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

MAX_CHANGES = 1000
"""Lines that come or go on the shortest way; looking for it takes up to half a second."""
CONTEXT = 3
Change = tuple[int, int, int, int]
"""Lines of the old text from and to, and those of the new one that replace them."""


def unified(old: str, new: str, old_name: str, new_name: str) -> str:
    """Empty when they are equal."""
    a, b = _lines(old), _lines(new)
    hunks = list(_hunks(changes(a, b)))
    if not hunks:
        return ""
    lines = [f"--- {old_name}\n", f"+++ {new_name}\n"]
    for hunk in hunks:
        lines += _hunk_lines(a, b, hunk)
    return "".join(lines)


def _lines(text: str) -> list[str]:
    """Each with its end; other separators of Unicode are characters as any."""
    *lines, last = text.split("\n")
    return [f"{line}\n" for line in lines] + ([last] if last else [])


def changes(a: Sequence[str], b: Sequence[str]) -> list[Change]:
    """What is to be replaced to make `b` of `a`, from the top."""
    begin = 0
    while begin < min(len(a), len(b)) and a[begin] == b[begin]:
        begin += 1
    a_end, b_end = len(a), len(b)
    while a_end > begin and b_end > begin and a[a_end - 1] == b[b_end - 1]:
        a_end, b_end = a_end - 1, b_end - 1
    if begin == a_end and begin == b_end:
        return []
    middle = _search(a[begin:a_end], b[begin:b_end])
    if middle is None:
        return [(begin, a_end, begin, b_end)]
    return [(i + begin, j + begin, k + begin, l + begin) for i, j, k, l in middle]  # noqa: E741


def _search(a: Sequence[str], b: Sequence[str]) -> list[Change] | None:
    """The shortest way; None when it is longer than `MAX_CHANGES`."""
    numbers: dict[str, int] = {}
    x_lines = [numbers.setdefault(line, len(numbers)) for line in a]
    y_lines = [numbers.setdefault(line, len(numbers)) for line in b]
    n, m = len(a), len(b)
    zero = min(n + m, MAX_CHANGES) + 1
    reached = [0] * (2 * zero + 1)
    trail: list[list[int]] = []
    for d in range(zero):
        trail.append(reached[zero - d - 1 : zero + d + 2])
        for k in range(-d, d + 1, 2):
            x = reached[zero + k + 1] if _is_down(k, d, reached, zero) else reached[zero + k - 1] + 1
            y = x - k
            while x < n and y < m and x_lines[x] == y_lines[y]:
                x, y = x + 1, y + 1
            reached[zero + k] = x
            if x >= n and y >= m:
                return _joined(_back(trail, n, m))
    return None


def _is_down(k: int, d: int, reached: list[int], zero: int) -> bool:
    return k == -d or (k != d and reached[zero + k - 1] < reached[zero + k + 1])


def _back(trail: list[list[int]], x: int, y: int) -> Iterator[Change]:
    """Single lines that go or come, from the bottom."""
    for d in range(len(trail) - 1, 0, -1):
        reached, k, zero = trail[d], x - y, d + 1
        before = k + 1 if _is_down(k, d, reached, zero) else k - 1
        x = reached[zero + before]
        y = x - before
        yield (x, x, y, y + 1) if before > k else (x, x + 1, y, y)


def _joined(singles: Iterator[Change]) -> list[Change]:
    """Neighbours as one."""
    found: list[Change] = []
    for i, j, k, l in reversed(list(singles)):  # noqa: E741
        if found and found[-1][1] == i and found[-1][3] == k:
            found[-1] = (found[-1][0], j, found[-1][2], l)
        else:
            found.append((i, j, k, l))
    return found


def _hunks(found: list[Change]) -> Iterator[list[Change]]:
    """Changes whose context meets, together."""
    hunk: list[Change] = []
    for change in found:
        if hunk and change[0] - hunk[-1][1] > 2 * CONTEXT:
            yield hunk
            hunk = []
        hunk.append(change)
    if hunk:
        yield hunk


def _hunk_lines(a: Sequence[str], b: Sequence[str], hunk: list[Change]) -> Iterator[str]:
    first, last = hunk[0], hunk[-1]
    before = min(CONTEXT, first[0])
    after = min(CONTEXT, len(a) - last[1])
    old = _range(first[0] - before, last[1] + after)
    new = _range(first[2] - before, last[3] + after)
    yield f"@@ -{old} +{new} @@\n"
    at = first[0] - before
    for i, j, k, l in hunk:  # noqa: E741
        yield from (_line(" ", line) for line in a[at:i])
        yield from (_line("-", line) for line in a[i:j])
        yield from (_line("+", line) for line in b[k:l])
        at = j
    yield from (_line(" ", line) for line in a[at : last[1] + after])


def _range(begin: int, end: int) -> str:
    """As diffs number lines: from 1, and an empty range from the line before it."""
    if end == begin:
        return f"{begin},0"
    return f"{begin + 1}" if end == begin + 1 else f"{begin + 1},{end - begin}"


def _line(sign: str, line: str) -> str:
    return f"{sign}{line}" if line.endswith("\n") else f"{sign}{line}\n\\ No newline at end of file\n"
