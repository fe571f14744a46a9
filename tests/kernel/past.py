"""A journal in memory that a test writes, with the runs that a kernel would publish of it."""

from collections.abc import Iterator

from tickerml.kernel import codec, control, topics


class Past:
    """A journal in memory, written as far as `committed`, and what the kernel tells of it."""

    def __init__(self) -> None:
        self.frames_by_seq: list[bytes] = []
        self.counts: dict[bytes, int] = {}
        self.heads: list[control.Head] = []
        self.committed = 0
        self.oldest = 1
        self.session = 1

    def say(self, *names: bytes) -> list[bytes]:
        """Put one message on each of the topics; return the runs they are published in."""
        runs = []
        for topic in names:
            seq = len(self.frames_by_seq) + 1
            self.counts[topic] = self.counts.get(topic, 0) + 1
            pushed = codec.pack_output(topic, 1, self.session, 0, seq, b"body %d" % seq)
            self.frames_by_seq.append(codec.stamp(pushed, len(topic) + 1, seq, self.counts[topic]))
            self.heads.append(control.Head(seq, dict(self.counts)))
            runs.append(self._run_of(topic + b"\0", self.frames_by_seq[-1]))
        return runs

    def _run_of(self, lead: bytes, raw: bytes) -> bytes:
        kinds = dict.fromkeys(topics.KINDS, 0)
        for topic, count in self.counts.items():
            kinds[topics.parse(topic)[0]] += count
        return codec.pack_run(lead, codec.pack_kind_counts(*kinds.values()), [raw[len(lead) :]])

    def crash(self, survives: int) -> None:
        """Lose everything beyond seq *survives*; the next session begins there."""
        del self.frames_by_seq[survives:], self.heads[survives:]
        self.counts = dict(self.heads[-1].counts) if self.heads else {}
        self.committed = survives
        self.session += 1

    @property
    def now(self) -> control.Head:
        """How far the order is."""
        return control.Head(len(self.frames_by_seq), dict(self.counts))

    def head(self) -> int:
        """Return the last committed seq."""
        return self.committed

    def first(self) -> int:
        """Return the first seq that is still held."""
        return self.oldest

    def frames(self, after: int, until: int) -> Iterator[bytes]:
        """Yield what is committed."""
        for seq in range(max(after + 1, self.oldest), min(until, self.committed) + 1):
            yield self.frames_by_seq[seq - 1]

    def close(self) -> None:
        """Nothing is to be let go of."""
