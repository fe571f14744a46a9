"""
Reading a whole journal through: what is in it, what is damaged, what is missing.

Beside what each record says of itself, the tables are held against each other: every
message of the log that is to be kept for good must be among what is kept.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import topics
from .child import run_in_child
from .errors import StoreCorrupt
from .journal_reader import Damage, JournalReader
from .records import frame_seq

PROGRESS_EVERY = 200  # records

_KEPT = tuple(topics.topic(kind) for kind in topics.KEPT_KINDS)


def verify(path: Path) -> Iterator[dict[str, Any]]:
    """
    Yield {"seq", "head"} now and then, and at last the report; all of it is read in a child.

    The report: whether it is "ok"; "records", "messages", "first_seq", "last_seq" of the log;
    "kept", how many; "damaged", a list of {"table", "first_seq", "last_seq", "reason"};
    "checkpoints", by host what is "whole" and what "damaged"; "unreadable", why LMDB gave up.

    Raises: StoreError: there is no journal.
    """
    try:
        yield from run_in_child(lambda: survey(path), f"reading the journal {path}")
    except StoreCorrupt as error:
        yield {"ok": False, "journal": str(path), "unreadable": str(error)}


def survey(path: Path) -> Iterator[dict[str, Any]]:
    """
    Yield as verify() does, in this process.

    Raises: StoreCorrupt: LMDB cannot read it, or it is of another format.
    """
    with contextlib.closing(JournalReader(path)) as reader:
        report: dict[str, Any] = {"ok": True, "journal": str(path), "records": 0, "messages": 0}
        report |= {"first_seq": reader.first(), "last_seq": 0, "kept": 0, "damaged": [], "unreadable": ""}
        yield from _survey_log(reader, report)
        yield from _survey_kept(reader, report)
        report["checkpoints"] = {host: _survey_host(reader, host) for host in reader.hosts()}
        is_whole = not any(host["damaged"] for host in report["checkpoints"].values())
        report["ok"] = is_whole and not report["damaged"]
        yield report


def _survey_log(reader: JournalReader, report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kept = _Kept(reader, report["first_seq"])
    head = reader.claimed_head()
    for found in reader.scan():
        if isinstance(found, Damage):
            report["damaged"].append({"table": "log", **found._asdict()})
            continue
        report["records"] += 1
        report["messages"] += len(found.frames)
        report["last_seq"] = found.last_seq
        wanted = [frame_seq(frame) for frame in found.frames if frame.startswith(_KEPT)]
        missing = [seq for seq in wanted if not kept.has(seq)]
        if missing:
            report["damaged"].append(
                {"table": "kept", "first_seq": missing[0], "last_seq": missing[-1], "reason": "not kept"}
            )
        if report["records"] % PROGRESS_EVERY == 1:
            yield {"seq": found.last_seq, "head": head}


def _survey_kept(reader: JournalReader, report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for count, found in enumerate(reader.scan(table="kept")):
        if isinstance(found, Damage):
            report["damaged"].append({"table": "kept", **found._asdict()})
        else:
            report["kept"] += len(found.frames)
            if count % PROGRESS_EVERY == 0:
                yield {"seq": found.last_seq, "head": report["last_seq"]}


def _survey_host(reader: JournalReader, host: str) -> dict[str, Any]:
    whole, damaged = reader.stored_checkpoints(host)
    return {"whole": [found.position for found in whole], "damaged": damaged}


class _Kept:
    """What is kept, walked along the log."""

    def __init__(self, reader: JournalReader, first_seq: int) -> None:
        self._found = reader.scan(max(0, first_seq - 1), "kept")
        self._seqs: set[int] = set()
        self._lost = range(0)
        self._end = 0

    def has(self, seq: int) -> bool:
        """Return whether *seq* is kept, or lost with what is damaged anyway; asked in rising order."""
        while self._end < seq and (found := next(self._found, None)):
            if isinstance(found, Damage):
                self._seqs, self._end = set(), found.last_seq or 2**64
                self._lost = range(found.first_seq, self._end + 1)
            else:
                self._seqs, self._end = set(map(frame_seq, found.frames)), found.last_seq
                self._lost = range(0)
        return seq in self._seqs or seq in self._lost
