"""Databases on a mount: SQLite in WAL mode from several processes, and a PostgreSQL cluster."""

from __future__ import annotations

import glob
import os
import pathlib
import pwd
import socket
import sqlite3
import subprocess
import sys
import time

import pytest

from support import harness

WRITER = """
import random, sqlite3, sys
path, worker, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
database = sqlite3.connect(path, timeout=60, isolation_level=None)
database.execute("pragma synchronous = normal")
for number in range(rounds):
    database.execute("begin immediate")
    database.execute("insert into record (worker, number, text) values (?, ?, ?)", (worker, number, "x" * random.randrange(3000)))
    database.execute("update counter set value = value + 1")
    if number % 10 == 9:
        database.execute("delete from record where worker = ? and number = ?", (worker, number - 5))
    database.execute("commit")
"""

READER = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], timeout=60)
end = time.monotonic() + float(sys.argv[2])
last = -1
while time.monotonic() < end:
    value = database.execute("select value from counter").fetchone()[0]
    rows = database.execute("select count(*) from record").fetchone()[0]
    assert value >= last, (value, last)
    last = value
"""


def python(code: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("journal", ["wal", "delete"])
@pytest.mark.limit(300)
def test_sqlite(mount: pathlib.Path, journal: str):
    path, workers, rounds = mount / "test.db", 3, 100 if journal == "wal" else 40
    database = sqlite3.connect(path)
    assert database.execute(f"pragma journal_mode = {journal}").fetchone()[0] == journal
    database.execute("create table record (worker, number, text, primary key (worker, number))")
    database.execute("create table counter (value)")
    database.execute("insert into counter values (0)")
    database.commit()
    processes = [python(WRITER, path, worker, rounds) for worker in range(workers)] + [python(READER, path, 3)]
    for process in processes:
        errors = process.communicate(timeout=200)[1]
        assert process.returncode == 0, errors
    assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert database.execute("select value from counter").fetchone()[0] == workers * rounds
    assert database.execute("select count(*) from record").fetchone()[0] == workers * (rounds - rounds // 10)
    database.execute("vacuum")
    database.close()
    shell = subprocess.run(["sqlite3", str(path), "pragma integrity_check"], capture_output=True, text=True, timeout=60, check=True)
    assert shell.stdout == "ok\n"


def test_sqlite_after_kill_of_a_writer(mount: pathlib.Path):
    path = mount / "test.db"
    database = sqlite3.connect(path, timeout=60)
    database.execute("pragma journal_mode = wal")
    database.execute("create table record (worker, number, text, primary key (worker, number))")
    database.execute("create table counter (value)")
    database.execute("insert into counter values (0)")
    database.commit()
    writer = python(WRITER, path, 1, 100_000)
    time.sleep(1.5)
    writer.kill()
    writer.wait(30)
    assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
    value = database.execute("select value from counter").fetchone()[0]
    assert value > 0 and database.execute("select max(number) + 1 from record").fetchone()[0] == value
    database.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.limit(400)
def test_postgresql(mount: pathlib.Path):
    """initdb, pgbench, a crash of the server process with recovery, a dump that matches."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed")
    binaries = pathlib.Path(found[-1]).parent
    harness.ensure_user("cairn-test-3")
    user = pwd.getpwnam("cairn-test-3")
    cluster = mount / "cluster"
    cluster.mkdir(mode=0o700)
    os.chown(cluster, user.pw_uid, user.pw_gid)
    port = free_port()

    def run(program: str, *arguments: object, limit: float = 180) -> str:
        path = binaries / program
        command = [str(path if path.exists() else pathlib.Path("/usr/bin") / program), *map(str, arguments)]
        result = subprocess.run(
            command, user=user.pw_uid, group=user.pw_gid, extra_groups=[], cwd=cluster, capture_output=True, text=True, timeout=limit,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres"}, check=False,
        )
        log = (cluster / "log").read_text()[-2000:] if (cluster / "log").exists() else ""
        assert result.returncode == 0, f"{command} ended with {result.returncode}:\n{result.stdout}{result.stderr}\n{log}"
        return result.stdout

    data = cluster / "data"
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c shared_buffers=32MB -c data_sync_retry=off"
    start = ("pg_ctl", "-D", data, "-w", "-t", "90", "-l", cluster / "log", "-o", options, "start")
    run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--data-checksums")
    # pg_ctl start keeps the output pipe open through the server; so its own output goes away.
    run("sh", "-c", " ".join(f"'{part}'" for part in (binaries / start[0], *start[1:])) + " >/dev/null 2>&1")
    try:
        run("pgbench", "-i", "-q", "-s", "2", "postgres")
        run("pgbench", "-c", "4", "-j", "2", "-T", "6", "postgres")
        balance = "select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches), " \
                  "(select sum(tbalance) from pgbench_tellers), (select sum(delta) from pgbench_history)"
        sums = set(run("psql", "-At", "-F", " ", "-c", balance, "postgres").split())
        assert len(sums) == 1, f"the books do not balance: {sums}"
        before = run("psql", "-At", "-c", "select count(*), md5(string_agg(h::text, '' order by h::text)) from pgbench_history h", "postgres")
        run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")  # no shutdown checkpoint: recovery from the log
        run("sh", "-c", " ".join(f"'{part}'" for part in (binaries / start[0], *start[1:])) + " >/dev/null 2>&1")
        after = run("psql", "-At", "-c", "select count(*), md5(string_agg(h::text, '' order by h::text)) from pgbench_history h", "postgres")
        assert after == before
        run("psql", "-c", "vacuum full", "postgres")
        run("psql", "-c", "create extension if not exists amcheck", "postgres")
        run("psql", "-At", "-c", "select bt_index_check(oid) from pg_class where relkind = 'i' and relam = 403 and relpersistence = 'p'", "postgres")
    finally:
        run("pg_ctl", "-D", data, "-m", "fast", "-w", "stop")
    run("pg_checksums", "--check", "-D", data)
