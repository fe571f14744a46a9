"""A shadow's outputs are compared one by one with those that were published."""

from tickerml.kernel import Side, codec
from tickerml.kernel.sequencer import Sequencer
from tickerml.kernel.shadow import PATIENCE, Comparison
from tickerml.kernel.testing import Market
from tickerml.kernel.topics import topic_of

MARKET = "exchange-x"


class Published:
    """Frames as they come by the bus, in one order with others."""

    def __init__(self):
        self.sequencer = Sequencer()
        from tickerml.kernel import Trade

        self.number = self.sequencer.admit(MARKET, [Trade])
        self.comparison = Comparison({MARKET: self.number})
        self.comparison.begin(0)

    def frame(self, cause, price=100, n=0):
        message = trade(price)
        raw = codec.pack_output(topic_of(message), self.number, 1, n, cause, codec.encode(message))
        return codec.unpack(self.sequencer.accept(raw))

    def report(self, position):
        said = self.comparison.report("trade", position)
        return said.equal, said.different, said.only_old, said.only_new


def trade(price):
    return Market().trade(1, price, 1, Side.BUY)


def ours(comparison, cause, price=100, n=0):
    comparison.would_publish(MARKET, n, cause, codec.encode(trade(price)))


def test_the_same_bytes_for_the_same_cause_are_equal_whoever_comes_first():
    published = Published()

    published.comparison.published(published.frame(1))
    ours(published.comparison, 1)
    ours(published.comparison, 2)
    published.comparison.published(published.frame(2))

    assert published.report(2) == (2, 0, 0, 0)


def test_other_bytes_for_the_same_cause_are_shown_side_by_side():
    published = Published()

    ours(published.comparison, 7, price=101)
    published.comparison.published(published.frame(7))
    told = published.comparison.report("trade", 7)

    assert (told.equal, told.different) == (0, 1)
    assert "exchange-x because of seq 7" in told.examples[0]
    assert "price=100" in told.examples[0]
    assert "price=101" in told.examples[0]


def test_what_only_one_of_them_says_is_counted_once_both_have_passed_its_cause():
    published = Published()
    ours(published.comparison, 3)
    published.comparison.published(published.frame(4))
    too_early = published.report(4)

    published.comparison.published(published.frame(9))

    assert too_early == (0, 0, 0, 1)
    assert published.report(8) == (0, 0, 1, 1)


def test_nothing_is_kept_for_ever():
    published = Published()
    ours(published.comparison, 1)

    for cause in range(2, 5):
        published.comparison.published(published.frame(cause))
    published.sequencer.seq += PATIENCE
    published.comparison.published(published.frame(PATIENCE))

    assert published.report(0) == (0, 0, 3, 1)
