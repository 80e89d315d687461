"""The tables of a home, script by script, and how an older home is brought up to them. Knows no thread and no room."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import apsw

from .home import HomeError

_HEX = "0123456789abcdef"
_NUMBER = " + ".join(f"((instr('{_HEX}', substr(entries_3.id, {n}, 1)) - 1) << {4 * (16 - n)})" for n in range(2, 17))
"""The number that an entry's id says: an "m" and 15 hexadecimal digits."""

MEMORY = f"""
    CREATE TABLE blocks(
        id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT, agent TEXT, name TEXT,
        bound INTEGER, watermark REAL, k INTEGER,
        num_entries INTEGER NOT NULL DEFAULT 0, raw INTEGER NOT NULL DEFAULT 0, kept INTEGER NOT NULL DEFAULT 0,
        disk INTEGER NOT NULL DEFAULT 0);
    CREATE UNIQUE INDEX blocks_by_name ON blocks(owner, agent, name);
    INSERT INTO blocks(owner, agent, name, num_entries, raw, kept, disk)
        SELECT owner, agent, '', count(*), sum(octet_length(content)),
            sum(octet_length(content) + octet_length(metadata)), sum(octet_length(content))
        FROM entries GROUP BY owner, agent;
    DELETE FROM kept WHERE room = 'memory';

    ALTER TABLE entries RENAME TO entries_3;
    DROP INDEX entries_by_agent;
    CREATE TABLE entries(
        row INTEGER PRIMARY KEY, block INTEGER NOT NULL, kind TEXT NOT NULL, metadata BLOB NOT NULL,
        created REAL NOT NULL, source TEXT, importance REAL, modified REAL, revision INTEGER NOT NULL,
        size INTEGER NOT NULL, tip INTEGER, tail BLOB NOT NULL, seal BLOB);
    CREATE INDEX entries_by_block ON entries(block, row);
    INSERT INTO entries
        SELECT {_NUMBER}, blocks.id, kind, metadata, created, NULL, NULL, NULL, 1,
            octet_length(content) + octet_length(metadata), NULL, CAST(content AS BLOB), NULL
        FROM entries_3 JOIN blocks USING (owner, agent) ORDER BY entries_3.id;
    CREATE TABLE entries_were(
        row INTEGER NOT NULL, revision INTEGER NOT NULL, kind TEXT NOT NULL, metadata BLOB NOT NULL,
        created REAL NOT NULL, source TEXT, importance REAL, modified REAL,
        size INTEGER NOT NULL, tip INTEGER, tail BLOB NOT NULL, seal BLOB, PRIMARY KEY(row, revision)) WITHOUT ROWID;

    CREATE TABLE segments(
        id INTEGER PRIMARY KEY, scope INTEGER NOT NULL, key BLOB NOT NULL, parent INTEGER, refs INTEGER NOT NULL,
        body BLOB NOT NULL);
    CREATE UNIQUE INDEX segments_by_key ON segments(key);
"""
_INDEX = """
    CREATE VIRTUAL TABLE {room}_words USING fts5(words, content='', contentless_delete=1, tokenize='porter ascii');
    CREATE TABLE {room}_vectors(
        key INTEGER PRIMARY KEY, row INTEGER NOT NULL UNIQUE, model INTEGER NOT NULL DEFAULT 0, vector BLOB);
    CREATE INDEX {room}_unembedded ON {room}_vectors(key) WHERE model = 0;
"""
SEARCH = """
    CREATE TABLE search_rooms(room TEXT PRIMARY KEY, model INTEGER NOT NULL DEFAULT 0, taken_up INTEGER) WITHOUT ROWID;
    CREATE TABLE search_scopes(
        room TEXT NOT NULL, number INTEGER NOT NULL, texts INTEGER NOT NULL, next INTEGER NOT NULL,
        is_gone INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(room, number)) WITHOUT ROWID;
    CREATE INDEX search_scopes_gone ON search_scopes(room) WHERE is_gone;
    CREATE TABLE search_models(
        number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, dimension INTEGER NOT NULL);
    INSERT INTO search_rooms(room, taken_up) SELECT 'memory', 0 WHERE EXISTS (SELECT 1 FROM entries);
    DROP TABLE entries_text;
    DROP TABLE entries_3;
""" + "".join(_INDEX.format(room=room) for room in ("memory", "passages"))

STORAGE = """
    CREATE TABLE scopes(id INTEGER PRIMARY KEY, owner TEXT NOT NULL, agent TEXT NOT NULL, mount TEXT NOT NULL);
    CREATE UNIQUE INDEX scopes_by_name ON scopes(owner, agent, mount);
    INSERT INTO scopes(owner, agent, mount) SELECT DISTINCT owner, agent, '' FROM files;

    DROP INDEX files_by_path; DROP INDEX files_by_parent; DROP INDEX files_in_trash;
    ALTER TABLE files RENAME TO old_files;
    CREATE INDEX old_files_by_path ON old_files(owner, agent, path, trashed);
    CREATE TABLE files(
        id INTEGER PRIMARY KEY, scope INTEGER NOT NULL, parent INTEGER NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
        size INTEGER NOT NULL, version INTEGER NOT NULL, oldest INTEGER NOT NULL, modified REAL NOT NULL,
        trashed REAL, was TEXT);
    INSERT INTO files
        WITH homed AS (
            SELECT *, (SELECT max(id) FROM old_files AS folder WHERE folder.owner = file.owner
                AND folder.agent = file.agent AND folder.path = file.parent AND folder.kind = 'folder'
                AND folder.trashed IS file.trashed AND coalesce(folder.trashed, 0) >= 0
                AND file.id = (SELECT max(id) FROM old_files AS twin WHERE twin.owner = file.owner
                    AND twin.agent = file.agent AND twin.path = file.path AND twin.trashed IS file.trashed)) AS folder
            FROM old_files AS file)
        SELECT homed.id, scopes.id, coalesce(folder, 0), substr(path, length(parent) + 1 + (parent != '')), kind, size,
            version, 1, modified, iif(folder IS NULL, trashed, NULL), iif(folder IS NULL AND trashed >= 0, path, NULL)
        FROM homed JOIN scopes USING (owner, agent);
    DROP TABLE old_files;
    CREATE UNIQUE INDEX files_by_name ON files(scope, parent, name) WHERE trashed IS NULL;
    CREATE INDEX files_in_trash ON files(scope, was) WHERE was IS NOT NULL;
    CREATE INDEX files_leaving ON files(id) WHERE trashed < 0;

    ALTER TABLE contents RENAME TO old_contents;
    CREATE TABLE contents(
        id INTEGER PRIMARY KEY, hash BLOB NOT NULL, size INTEGER NOT NULL, refs INTEGER NOT NULL, chunks TEXT,
        body BLOB);
    CREATE INDEX contents_unnamed ON contents(refs) WHERE refs <= 0;
    CREATE TABLE chunks(
        id INTEGER PRIMARY KEY, scope INTEGER NOT NULL, hash BLOB NOT NULL, size INTEGER NOT NULL,
        refs INTEGER NOT NULL, token INTEGER, body BLOB);
    CREATE UNIQUE INDEX chunks_by_hash ON chunks(scope, hash);
    CREATE INDEX chunks_in_files ON chunks(hash, token) WHERE token IS NOT NULL;
    INSERT INTO chunks SELECT rowid, 0, hash, size, 1, 0, NULL FROM old_contents WHERE body IS NULL;
    INSERT INTO contents SELECT rowid, hash, size, (SELECT count(*) FROM versions WHERE versions.hash = each.hash),
        iif(body IS NULL, json_array(rowid), NULL), body FROM old_contents AS each;

    DROP INDEX versions_by_hash;
    ALTER TABLE versions RENAME TO old_versions;
    CREATE TABLE versions(
        file INTEGER NOT NULL, version INTEGER NOT NULL, content INTEGER NOT NULL, size INTEGER NOT NULL,
        created REAL NOT NULL, author TEXT, why TEXT, PRIMARY KEY(file, version)) WITHOUT ROWID;
    INSERT INTO versions SELECT file, version,
        coalesce((SELECT rowid FROM old_contents WHERE old_contents.hash = each.hash), 0), size, created, NULL, NULL
        FROM old_versions AS each;
    DROP TABLE old_versions;
    DROP TABLE old_contents;

    CREATE TABLE uploads(
        owner TEXT NOT NULL, agent TEXT NOT NULL, name TEXT NOT NULL, content INTEGER NOT NULL, created REAL NOT NULL,
        PRIMARY KEY(owner, agent, name)) WITHOUT ROWID;
    CREATE TABLE links(
        hash BLOB PRIMARY KEY, file INTEGER NOT NULL, version INTEGER, created REAL NOT NULL, expires REAL NOT NULL,
        author TEXT NOT NULL) WITHOUT ROWID;
    CREATE INDEX links_by_file ON links(file);

    CREATE TABLE mounts(
        owner TEXT NOT NULL, agent TEXT NOT NULL, name TEXT NOT NULL, folder TEXT NOT NULL, device INTEGER,
        inode INTEGER, is_read_only INTEGER NOT NULL, is_configured INTEGER NOT NULL, created REAL NOT NULL,
        PRIMARY KEY(owner, agent, name)) WITHOUT ROWID;
    CREATE TABLE seen(
        file INTEGER PRIMARY KEY, size INTEGER NOT NULL, modified INTEGER NOT NULL, changed INTEGER NOT NULL,
        inode INTEGER NOT NULL, checked INTEGER NOT NULL, is_ours INTEGER NOT NULL);
    CREATE TABLE intents(
        id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, agent TEXT NOT NULL, mount TEXT NOT NULL,
        intent TEXT NOT NULL);
    CREATE TRIGGER unseen AFTER DELETE ON files BEGIN DELETE FROM seen WHERE file = OLD.id; END;

    CREATE TABLE readings(
        id INTEGER PRIMARY KEY AUTOINCREMENT, file INTEGER NOT NULL, version INTEGER NOT NULL, state INTEGER NOT NULL,
        num_passages INTEGER NOT NULL, why TEXT, lacks TEXT);
    CREATE INDEX readings_by_file ON readings(file);
    CREATE INDEX readings_by_state ON readings(state) WHERE state <> 1;
    CREATE INDEX readings_that_lack ON readings(lacks) WHERE lacks IS NOT NULL;
    CREATE TRIGGER unread AFTER DELETE ON files BEGIN UPDATE readings SET state = 2 WHERE file = OLD.id; END;
    CREATE TABLE passages(
        row INTEGER PRIMARY KEY, scope INTEGER NOT NULL, reading INTEGER NOT NULL, start INTEGER NOT NULL,
        stop INTEGER NOT NULL);
    CREATE TABLE passage_texts(row INTEGER PRIMARY KEY, title TEXT, text TEXT NOT NULL);
    CREATE INDEX passages_by_reading ON passages(reading);
"""
"""`scopes` are whose files: an agent's own, or those of a mount. `files` are a tree: `parent` 0 is a scope's top. The
trash holds the topmost entry of what was cleared, which says where it `was`; `trashed` below 0 is leaving for good. A
content is a `body`, or the ids of its `chunks` in their order; `refs` counts who names it (-1: it is being written),
and a chunk's how often contents do. A chunk without a body is a file: `token` makes its name unique. `seen` is what the
newest version of a mount's file looks like in its folder, `intents` what is being done there. `readings` are of a
file's version, `passages` what it was split into, whose texts are apart so that conditions on many are looked up fast;
ids of files are used again, those of readings never."""


MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE effects(call TEXT PRIMARY KEY, result BLOB NOT NULL) WITHOUT ROWID;

    CREATE TABLE log(seq INTEGER PRIMARY KEY, events BLOB NOT NULL);
    CREATE TABLE calls(
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, agent TEXT NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL,
        pid INTEGER NOT NULL, nice INTEGER NOT NULL, opened REAL NOT NULL, is_begun INTEGER NOT NULL DEFAULT 0,
        state TEXT, ended REAL, size INTEGER NOT NULL, body_hash BLOB NOT NULL, tip BLOB,
        args BLOB NOT NULL, result BLOB, error BLOB) WITHOUT ROWID;
    CREATE UNIQUE INDEX calls_by_key ON calls(owner, agent, key);
    CREATE INDEX calls_by_age ON calls(ended, size);
    CREATE TABLE nodes(
        hash BLOB PRIMARY KEY, parent BLOB, used REAL NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL);
    CREATE INDEX nodes_by_age ON nodes(used, size);
    CREATE TABLE processes(
        pid INTEGER PRIMARY KEY, agent TEXT NOT NULL, owner TEXT NOT NULL, parent INTEGER, nice INTEGER NOT NULL,
        command TEXT, started REAL NOT NULL);

    CREATE TABLE keys(
        hash BLOB PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, agent TEXT NOT NULL, pid INTEGER,
        is_admin INTEGER NOT NULL, name TEXT NOT NULL, created REAL NOT NULL) WITHOUT ROWID;

    CREATE TABLE entries(
        row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, agent TEXT NOT NULL, kind TEXT NOT NULL,
        created REAL NOT NULL, content TEXT NOT NULL, metadata BLOB NOT NULL);
    CREATE INDEX entries_by_agent ON entries(owner, agent, id);
    CREATE VIRTUAL TABLE entries_text USING fts5(
        scope, content, content='', contentless_delete=1, tokenize='porter unicode61 remove_diacritics 2');

    CREATE TABLE files(
        id INTEGER PRIMARY KEY, owner TEXT NOT NULL, agent TEXT NOT NULL, path TEXT NOT NULL, parent TEXT NOT NULL,
        kind TEXT NOT NULL, size INTEGER NOT NULL, version INTEGER NOT NULL, modified REAL NOT NULL, trashed REAL);
    CREATE UNIQUE INDEX files_by_path ON files(owner, agent, path) WHERE trashed IS NULL;
    CREATE INDEX files_by_parent ON files(owner, agent, parent) WHERE trashed IS NULL;
    CREATE TABLE versions(
        file INTEGER NOT NULL, version INTEGER NOT NULL, hash BLOB NOT NULL, size INTEGER NOT NULL,
        created REAL NOT NULL, PRIMARY KEY(file, version)) WITHOUT ROWID;
    CREATE TABLE contents(hash BLOB PRIMARY KEY, size INTEGER NOT NULL, body BLOB);
    """,
    """
    CREATE TABLE kept(
        room TEXT NOT NULL, owner TEXT NOT NULL, agent TEXT NOT NULL, entries INTEGER NOT NULL, bytes INTEGER NOT NULL,
        PRIMARY KEY(room, owner, agent)) WITHOUT ROWID;
    INSERT INTO kept SELECT 'memory', owner, agent, count(*), sum(octet_length(content) + octet_length(metadata))
        FROM entries GROUP BY owner, agent;
    INSERT INTO kept SELECT 'storage', owner, agent, count(DISTINCT id), coalesce(sum(versions.size + 100), 0)
        FROM files LEFT JOIN versions ON file = id GROUP BY owner, agent;
    CREATE INDEX versions_by_hash ON versions(hash);
    CREATE INDEX files_in_trash ON files(owner, agent, trashed) WHERE trashed IS NOT NULL;
    """,
    "ALTER TABLE processes ADD COLUMN window TEXT;",
    "ALTER TABLE processes ADD COLUMN memory TEXT;" + MEMORY + SEARCH + STORAGE,
)
"""Script n brings a home of version n to n + 1. Never edit one that was released: add the next."""


def migrate(connection: apsw.Connection, path: Path, migrations: Sequence[str]) -> None:
    """Bring the file to version `len(migrations)`, keeping a copy of an older one. Raises HomeError for a newer one."""
    version = connection.pragma("user_version")
    if version > len(migrations):
        raise HomeError(
            f"{path.parent} was written by a newer kernel (version {version}, this one knows {len(migrations)}): "
            "install that kernel, or name another home",
            code="home_too_new",
        )
    if version == len(migrations):
        return
    if version:
        _keep_copy(connection, path.with_name(f"{path.name}.v{version}"))
    with connection:
        for script in migrations[version:]:
            connection.execute(script)
        connection.pragma("user_version", len(migrations))


def _keep_copy(connection: apsw.Connection, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    connection.execute("VACUUM INTO ?", (os.fspath(part),))
    part.chmod(0o600)
    part.rename(target)
