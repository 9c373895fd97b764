import subprocess
import sys
from pathlib import Path

from benchmarks.barriers import BarrierFile, Barriers

REPOSITORY = Path(__file__).resolve().parents[3]
# In a process of its own: counting replaces functions of the whole process.
PROGRAM = """
import os, sqlite3, sys
from pathlib import Path
from benchmarks.barriers import BarrierFile, count_here
count_here(BarrierFile(Path(sys.argv[1])))
connection = sqlite3.connect(sys.argv[2], isolation_level=None)
connection.execute("CREATE TABLE t (n INTEGER)")
for statement in ("INSERT INTO t VALUES (?)", "DELETE FROM t WHERE n = ?"):
    for number in (1, 2):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(statement, (number,))
        connection.execute("COMMIT")
connection.execute("BEGIN IMMEDIATE")
connection.execute("DELETE FROM t WHERE n = 99")
connection.execute("COMMIT")
descriptor = os.open(sys.argv[2], os.O_RDONLY)
os.fsync(descriptor)
"""


def test_commits_that_change_something_and_syncs_of_files_are_counted_across_processes(tmp_path: Path) -> None:
    counts = BarrierFile(tmp_path / "barriers")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "barriers"), str(tmp_path / "t.db")]
    subprocess.run(command, check=True, cwd=REPOSITORY, timeout=60)
    assert counts.read() == Barriers(commits=4, file_syncs=1)
    counts.close()


def test_barriers_are_told_for_each_step() -> None:
    between = Barriers(commits=602, file_syncs=3) - Barriers(commits=22, file_syncs=3)
    assert between.per(290) == {"commits_each": 2.0, "file_syncs_each": 0.0}
