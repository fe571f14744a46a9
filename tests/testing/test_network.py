"""Links keep their order whatever happens to them."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tickerml.testing.network import Conditions, Pipe, Subscription

SLOW = Conditions(delay=(0, 1000), spike=0.2, spike_delay=50_000)


def drain(pipe):
    told = []
    while (at := pipe.next_at) is not None:
        told.append((at, pipe.take()))
    return told


@given(
    st.lists(st.one_of(st.integers(0, 500), st.tuples(st.just("part"), st.integers(0, 5000))), max_size=30),
    st.integers(0, 2**32),
)
def test_a_pipe_delivers_everything_once_in_order_and_never_early(steps, seed):
    pipe, now, sent, parted_until = Pipe(SLOW, Random(seed)), 0, [], 0
    for step in steps:
        if isinstance(step, tuple):
            parted_until = max(parted_until, now + step[1])
            pipe.part(now + step[1])
        else:
            now += step
            sent.append((now, b"%d" % len(sent)))
            pipe.send(now, sent[-1][1])

    arrived = drain(pipe)

    assert [data for _, data in arrived] == [data for _, data in sent]
    assert [at for at, _ in arrived] == sorted(at for at, _ in arrived)
    assert all(at >= sent_at for (at, _), (sent_at, _) in zip(arrived, sent, strict=True))


def test_nothing_arrives_before_a_parted_link_is_mended():
    pipe = Pipe(Conditions(delay=(1, 2)), Random(0))
    pipe.send(0, b"before")
    pipe.part(1_000)
    pipe.send(10, b"meanwhile")

    assert not pipe.is_ready(999)
    assert [at for at, _ in drain(pipe)] == [1_000, 1_000]


def test_a_message_can_be_repeated_and_the_next_one_lost():
    pipe = Pipe(Conditions(), Random(0))
    pipe.send(0, b"a")
    pipe.repeat(5)
    pipe.lose_next()
    pipe.send(10, b"b")
    pipe.send(20, b"c")

    assert [data for _, data in drain(pipe)] == [b"a", b"a", b"c"]


def test_of_what_a_dead_process_sent_the_beginning_may_still_arrive_late():
    pipe = Pipe(Conditions(delay=(1, 2)), Random(0))
    for number in range(4):
        pipe.send(number, b"%d" % number)

    pipe.orphan(0.5, 1_000_000)

    arrived = drain(pipe)
    assert [data for _, data in arrived] == [b"0", b"1"]
    assert all(at > 1_000_000 for at, _ in arrived)


def test_a_subscription_hears_what_it_asked_for_once_it_has_joined():
    subscription = Subscription(Conditions(), Random(0), high_water=100)
    subscription.join([b"book."], at=50)

    assert not subscription.publish(10, b"book.a")
    assert not subscription.publish(60, b"trade.a")
    assert subscription.publish(60, b"book.b")
    assert [data for _, data in drain(subscription.pipe)] == [b"book.b"]


def test_a_full_subscription_drops_and_counts():
    subscription = Subscription(Conditions(), Random(0), high_water=2)
    subscription.join([b""], at=0)

    taken = [subscription.publish(0, b"%d" % number) for number in range(5)]

    assert taken == [True, True, False, False, False]
    assert subscription.dropped == 3
