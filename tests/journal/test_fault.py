"""What a check finds in the pages of a store."""

from __future__ import annotations

from pathlib import Path

import apsw

from aios.kernel.database import page_faults


def test_each_thing_that_is_wrong_with_the_pages_is_a_line(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    connection = apsw.Connection(str(file))
    connection.execute("CREATE TABLE t(x)")
    connection.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9) "
                       "INSERT INTO t SELECT zeroblob(3000) FROM n")  # fmt: skip
    connection.close()
    data = bytearray(file.read_bytes())
    for leaf in (3, 5):
        data[4096 * leaf + 3 : 4096 * leaf + 5] = b"\0\0"  # it says that it holds no row
    file.write_bytes(data)
    found = page_faults(apsw.Connection(str(file)), 20)
    assert len(found) >= 2
    assert not [line for line in found if "\n" in line or "***" in line]
