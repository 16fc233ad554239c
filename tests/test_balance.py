"""The balancer: which target is tried first, and which next."""

from __future__ import annotations

from collections import Counter

import pytest
from serve_support import FakeTime

from minireactor.proxy.balance import (
    BALANCES,
    FAILURE_COOLDOWN,
    FIRST,
    LEAST_CONNECTIONS,
    ROUND_ROBIN,
    SLOW_SECONDS,
    Balancer,
)

A, B, C = ("a", 80), ("b", 80), ("c", 80)


@pytest.fixture
def time():
    return FakeTime()


@pytest.fixture
def balancer(time):
    return lambda balance: Balancer([A, B, C], balance, time)


def test_first_is_always_the_order_that_was_given(balancer):
    own = balancer(FIRST)
    for _ in range(3):
        assert own.order() == [A, B, C]
        own.joined(A, "client")


def test_round_robin_begins_one_further_each_time(balancer):
    own = balancer(ROUND_ROBIN)
    assert [own.order() for _ in range(4)] == [[A, B, C], [B, C, A], [C, A, B], [A, B, C]]


def test_least_begins_with_the_target_that_has_the_fewest_clients(balancer):
    own = balancer(LEAST_CONNECTIONS)
    for place in (A, A, B, C, C):
        own.joined(place, "client")
    assert own.order()[0] == B
    own.left(A)
    own.left(A)
    assert own.order()[0] == A


def test_least_takes_turns_among_equals(balancer):
    own = balancer(LEAST_CONNECTIONS)
    assert Counter(own.order()[0] for _ in range(300)) == {A: 100, B: 100, C: 100}


@pytest.mark.parametrize("balance", BALANCES)
def test_a_target_that_has_failed_comes_last_for_a_while(balancer, time, balance):
    own = balancer(balance)
    own.failed(A, "client")
    for _ in range(6):
        assert own.order()[-1] == A
    time.advance(FAILURE_COOLDOWN - 0.1)
    assert own.order()[-1] == A
    time.advance(0.2)
    assert A in [own.order()[0] for _ in range(3)]


@pytest.mark.parametrize("balance", BALANCES)
def test_a_target_that_has_taken_a_client_is_as_good_as_any_again(balancer, balance):
    own = balancer(balance)
    own.failed(A, "client")
    own.joined(A, "client")
    own.left(A)
    assert A in [own.order()[0] for _ in range(3)]


@pytest.mark.parametrize("balance", BALANCES)
def test_all_targets_are_tried_even_when_all_have_failed(balancer, balance):
    own = balancer(balance)
    for place in (A, B, C):
        own.failed(place, "client")
    assert sorted(own.order()) == [A, B, C]


def test_the_other_targets_share_the_clients_of_a_failed_one(balancer):
    own = balancer(ROUND_ROBIN)
    own.failed(A, "client")
    assert Counter(own.order()[0] for _ in range(100)) == {B: 50, C: 50}


def test_a_failure_is_news_once_in_a_while(balancer, time):
    own = balancer(FIRST)
    assert [own.failed(place, "client") for place in (A, A, B)] == [
        FAILURE_COOLDOWN,
        0,
        FAILURE_COOLDOWN,
    ]
    time.advance(FAILURE_COOLDOWN)
    assert own.failed(A, "client") == 2 * FAILURE_COOLDOWN


def test_a_failure_of_the_only_target_changes_nothing(time):
    own = Balancer([A], FIRST, time)
    assert not own.failed(A, "client")
    assert own.order() == [A]


def test_each_further_failure_puts_a_target_last_for_longer_until_it_takes_a_client(balancer, time):
    own = balancer(FIRST)
    for seconds in (10, 20, 40, 60, 60):
        assert own.failed(A, "client") == seconds
        time.advance(seconds - 0.1)
        assert own.order() == [B, C, A]
        time.advance(0.2)
        assert own.order() == [A, B, C]
    own.joined(A, "client")
    assert own.failed(A, "client") == FAILURE_COOLDOWN


def test_clients_that_fail_together_count_once(balancer, time):
    own = balancer(FIRST)
    for number in range(5):
        own.began(A, number)
    assert [own.failed(A, number) for number in range(5)] == [FAILURE_COOLDOWN, 0, 0, 0, 0]
    time.advance(FAILURE_COOLDOWN)
    assert own.order() == [A, B, C]


@pytest.mark.parametrize("balance", BALANCES)
def test_one_client_at_a_time_probes_a_target_that_had_failed(balancer, time, balance):
    own = balancer(balance)
    own.failed(A, "client")
    time.advance(FAILURE_COOLDOWN + 1)
    own.began(A, "probe")
    for _ in range(6):
        assert own.order()[-1] == A
    own.gave_up(A, "probe")
    assert A in [own.order()[0] for _ in range(3)]


@pytest.mark.parametrize("balance", BALANCES)
def test_a_target_that_does_not_answer_comes_last(balancer, time, balance):
    own = balancer(balance)
    own.began(A, "waiting")
    time.advance(SLOW_SECONDS - 0.1)
    assert A in [own.order()[0] for _ in range(3)]
    time.advance(0.2)
    assert [own.order()[-1] for _ in range(3)] == [A, A, A]
    own.gave_up(A, "waiting")
    assert A in [own.order()[0] for _ in range(3)]


def test_one_lost_packet_does_not_count_against_a_target_that_answers_others(balancer, time):
    own = balancer(FIRST)
    own.began(A, "unlucky")
    time.advance(SLOW_SECONDS)
    own.began(A, "lucky")
    own.joined(A, "lucky")
    assert own.order() == [A, B, C]


def test_an_attempt_that_has_succeeded_is_no_probe(balancer, time):
    own = balancer(FIRST)
    own.began(A, "client")
    own.joined(A, "client")
    own.failed(A, "another")
    time.advance(FAILURE_COOLDOWN)
    assert own.order() == [A, B, C]


def test_a_client_that_comes_to_the_next_target_gets_one_that_is_good_by_then(balancer, time):
    own = balancer(FIRST)
    targets = own.targets()
    assert next(targets) == A
    own.failed(B, "another client")
    assert list(targets) == [C, B]


def test_a_target_that_is_given_twice_is_one(time):
    own = Balancer([A, B, A], FIRST, time)
    assert list(own.targets()) == [A, B]
