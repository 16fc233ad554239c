"""Which target is tried first, and which next."""

from __future__ import annotations

from collections import Counter

import pytest
from serve_support import FakeTime

from minireactor.balance import BALANCES, FIRST, LEAST, OUT_SECONDS, ROUND_ROBIN, Balancer

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
        own.joined(A)


def test_round_robin_begins_one_further_each_time(balancer):
    own = balancer(ROUND_ROBIN)
    assert [own.order() for _ in range(4)] == [[A, B, C], [B, C, A], [C, A, B], [A, B, C]]


def test_least_begins_with_the_one_that_has_the_fewest_clients(balancer):
    own = balancer(LEAST)
    for place in (A, A, B, C, C):
        own.joined(place)
    assert own.order()[0] == B
    own.left(A)
    own.left(A)
    assert own.order()[0] == A


def test_least_takes_turns_among_equals(balancer):
    own = balancer(LEAST)
    assert Counter(own.order()[0] for _ in range(300)) == {A: 100, B: 100, C: 100}


@pytest.mark.parametrize("balance", BALANCES)
def test_one_that_has_failed_comes_last_for_a_while(balancer, time, balance):
    own = balancer(balance)
    own.failed(A)
    for _ in range(6):
        assert own.order()[-1] == A
    time.advance(OUT_SECONDS - 0.1)
    assert own.order()[-1] == A
    time.advance(0.2)
    assert A in [own.order()[0] for _ in range(3)]


@pytest.mark.parametrize("balance", BALANCES)
def test_one_that_has_taken_a_client_is_as_good_as_any_again(balancer, balance):
    own = balancer(balance)
    own.failed(A)
    own.joined(A)
    own.left(A)
    assert A in [own.order()[0] for _ in range(3)]


@pytest.mark.parametrize("balance", BALANCES)
def test_all_are_tried_even_when_all_have_failed(balancer, balance):
    own = balancer(balance)
    for place in (A, B, C):
        own.failed(place)
    assert sorted(own.order()) == [A, B, C]


def test_those_that_are_left_share_the_clients_of_one_that_is_out(balancer):
    own = balancer(ROUND_ROBIN)
    own.failed(A)
    assert Counter(own.order()[0] for _ in range(100)) == {B: 50, C: 50}


def test_a_failure_is_news_once_in_a_while(balancer, time):
    own = balancer(FIRST)
    assert [own.failed(A), own.failed(A), own.failed(B)] == [True, False, True]
    time.advance(OUT_SECONDS)
    assert own.failed(A)


def test_a_failure_of_the_only_target_changes_nothing(time):
    own = Balancer([A], FIRST, time)
    assert not own.failed(A)
    assert own.order() == [A]
