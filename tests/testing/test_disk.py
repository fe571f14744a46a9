"""The disk in memory against LMDB itself, and each thing that can go wrong with it."""

import tempfile
from random import Random

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerml.testing.disk import Disk, Trouble

TABLES = [b"log", b"meta"]
KEYS = st.sampled_from([b"a", b"ab", b"b", b"c", b"\xff"])
ANY_KEYS = st.one_of(KEYS, st.sampled_from([b"", b"k" * 512]))
VALUES = st.binary(max_size=4)
TABLE = st.sampled_from(TABLES)

OPERATIONS = st.one_of(
    st.tuples(st.just("put"), TABLE, ANY_KEYS, VALUES, st.booleans(), st.booleans()),
    st.tuples(st.just("delete"), TABLE, KEYS),
    st.tuples(st.just("get"), TABLE, KEYS),
    st.tuples(st.just("commit")),
    st.tuples(st.just("abort")),
    st.tuples(st.just("read"), TABLE),
    st.tuples(
        st.just("walk"),
        TABLE,
        st.lists(
            st.one_of(
                st.sampled_from(["first", "last", "next", "prev", "delete", "list", "keys"]),
                st.tuples(st.just("set_range"), KEYS),
            ),
            max_size=8,
        ),
    ),
)


class Subject:
    """Runs operations on one of the two and tells what it answered."""

    def __init__(self, opened):
        self.env = opened
        self.tables = {name: opened.open_db(name) for name in TABLES}
        self.txn = opened.begin(write=True)
        self.old = opened.begin()

    def run(self, operation):
        try:
            return self._run(*operation)
        except lmdb.Error as error:
            return type(error).__name__

    def _run(self, name, *arguments):
        match name, arguments:
            case "put", (table, key, value, overwrite, append):
                return self.txn.put(key, value, overwrite=overwrite, append=append, db=self.tables[table])
            case "delete", (table, key):
                return self.txn.delete(key, db=self.tables[table])
            case "get", (table, key):
                return self.txn.get(key, b"none", db=self.tables[table])
            case "commit", ():
                self.txn.commit()
                self.txn = self.env.begin(write=True)
            case "abort", ():
                self.txn.abort()
                self.txn = self.env.begin(write=True)
            case "read", (table,):
                with self.env.begin() as new:
                    seen = [list(txn.cursor(self.tables[table])) for txn in (self.old, new)]
                self.old.abort()
                self.old = self.env.begin()
                return seen
            case "walk", (table, steps):
                return self._walk(self.txn.cursor(self.tables[table]), steps)
        return None

    def _walk(self, cursor, steps):
        told, is_lost = [], False
        for step in steps:
            if is_lost and step in ("next", "prev", "list", "keys"):
                continue  # from where a move has failed LMDB goes on in its own ways
            match step:
                case ("set_range", key):
                    told.append(cursor.set_range(key))
                case "list":
                    told.append(list(cursor))
                case "keys":
                    told.append(list(cursor.iternext(keys=True, values=False)))
                case _:
                    told.append(getattr(cursor, step)())
            told.append(cursor.item())
            is_lost = not cursor.key()
        return told


@given(st.lists(OPERATIONS, max_size=40))
@settings(max_examples=150, deadline=None)
def test_answers_what_lmdb_answers(operations):
    with tempfile.TemporaryDirectory() as directory:
        real = lmdb.open(directory, max_dbs=4, map_size=2**20, sync=False)
        subject, oracle = Subject(Disk(Random(0)).open("/disk", max_dbs=4, map_size=2**20)), Subject(real)
        for operation in operations:
            assert subject.run(operation) == oracle.run(operation), operation
        oracle.txn.abort()
        oracle.old.abort()
        real.close()


@pytest.fixture
def disk():
    return Disk(Random(1))


@pytest.fixture
def env(disk):
    env = disk.open("/journal", map_size=2**20)
    env.open_db(b"log")
    return env


def put(env, key, value=b"value"):
    with env.begin(write=True) as txn:
        txn.put(key, value, db=b"log")


def stored(env):
    with env.begin() as txn:
        return dict(txn.cursor(b"log"))


def test_refuses_to_open_for_reading_what_is_not_there(disk):
    with pytest.raises(lmdb.Error, match="No such file"):
        disk.open("/nowhere", readonly=True, create=False)


def test_a_reader_may_not_write(disk, env):
    reader = disk.open("/journal", readonly=True)

    with pytest.raises(lmdb.ReadonlyError):
        reader.begin(write=True)
    with pytest.raises(lmdb.ReadonlyError):
        reader.begin().put(b"a", b"1", db=b"log")
    with pytest.raises(lmdb.NotFoundError):
        reader.open_db(b"other", create=False)


@pytest.mark.parametrize("trouble", [Trouble.FULL, Trouble.READ_ONLY, Trouble.ERROR])
def test_a_commit_that_fails_leaves_nothing_behind_and_works_again_afterwards(disk, env, trouble):
    disk.trouble = trouble

    with pytest.raises(lmdb.Error):
        put(env, b"a")
    assert stored(env) == {}

    disk.trouble = Trouble.NONE
    put(env, b"a")
    assert stored(env) == {b"a": b"value"}


def test_a_full_disk_is_told_by_its_own_exception(disk, env):
    disk.trouble = Trouble.FULL

    with pytest.raises(lmdb.DiskError):
        put(env, b"a")


def test_an_ambiguous_commit_is_in_although_it_failed(disk, env):
    disk.trouble = Trouble.AMBIGUOUS

    with pytest.raises(lmdb.Error):
        put(env, b"a")

    assert stored(env) == {b"a": b"value"}


def test_after_a_panic_only_a_new_environment_works(disk, env):
    disk.trouble = Trouble.PANIC
    with pytest.raises(lmdb.Error):
        put(env, b"a")
    disk.trouble = Trouble.NONE

    with pytest.raises(lmdb.PanicError):
        env.begin()
    put(disk.open("/journal"), b"b")
    assert b"b" in stored(disk.open("/journal"))


def test_a_map_that_is_full_can_be_grown(disk):
    env = disk.open("/journal", map_size=64 * 1024)
    env.open_db(b"log")

    with pytest.raises(lmdb.MapFullError):
        put(env, b"a", b"x" * 64 * 1024)
    env.set_mapsize(2**20)
    put(env, b"a", b"x" * 64 * 1024)

    assert len(stored(env)[b"a"]) == 64 * 1024


def test_a_transaction_that_met_a_full_map_can_only_be_aborted(disk):
    env = disk.open("/journal", map_size=64 * 1024)
    env.open_db(b"log")
    txn = env.begin(write=True)
    with pytest.raises(lmdb.MapFullError):
        txn.put(b"a", b"x" * 64 * 1024, db=b"log")

    with pytest.raises(lmdb.BadTxnError):
        txn.put(b"b", b"", db=b"log")


def test_a_reader_learns_that_another_process_has_grown_the_map(disk):
    writer = disk.open("/journal", map_size=64 * 1024)
    writer.open_db(b"log")
    reader = disk.open("/journal", map_size=64 * 1024, readonly=True)
    writer.set_mapsize(2**20)
    put(writer, b"a", b"x" * 100_000)

    with pytest.raises(lmdb.MapResizedError):
        reader.begin()
    reader.set_mapsize(0)

    assert b"a" in stored(reader)


def test_a_disk_that_lies_loses_its_last_commits_together_with_the_power(disk, env):
    put(env, b"a")
    disk.set_lying(True)
    put(env, b"b")
    put(env, b"c")

    assert disk.lose_power() == 2
    assert list(stored(env)) == [b"a"]


def test_an_honest_disk_loses_nothing_with_the_power(disk, env):
    disk.set_lying(True)
    put(env, b"a")
    disk.set_lying(False)
    put(env, b"b")

    assert disk.lose_power() == 0
    assert list(stored(env)) == [b"a", b"b"]


def test_turns_exactly_one_bit(disk, env):
    put(env, b"a", bytes(100))

    disk.flip_bit("/journal", b"log", b"a")

    value = stored(env)[b"a"]
    assert sum(byte.bit_count() for byte in value) == 1
    assert len(value) == 100


def test_tears_off_the_end_of_a_value(disk, env):
    put(env, b"a", b"whole value")

    disk.tear("/journal", b"log", b"a")

    torn = stored(env)[b"a"]
    assert b"whole value".startswith(torn)
    assert torn != b"whole value"


def test_a_closed_environment_says_so(env):
    env.close()

    with pytest.raises(lmdb.Error, match="closed"):
        env.begin()
