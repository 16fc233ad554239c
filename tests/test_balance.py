"""The balancer: which target is tried first, and which next."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
from serve_support import FakeTime

from minireactor.proxy.balance import (
    BALANCES,
    EARLY_ENDS,
    FIRST,
    LEAST_CONNECTIONS,
    ROUND_ROBIN,
    SLOW_SECONDS,
    Balancer,
)
from minireactor.proxy.targets import DOWN, DRAINING, UP, Target

A, B, C = ("a", 80), ("b", 80), ("c", 80)


@pytest.fixture
def time():
    return FakeTime()


@pytest.fixture
def balancer(time):
    """balancer(balance, *targets) returns a Balancer; by default of A, B and C."""
    return lambda balance, *targets: Balancer(targets or [A, B, C], balance, time)


def order(own):
    """Return all targets in the order for the next client."""
    return list(own.places())


def firsts(own, count):
    """Return how many of the next clients each target gets first."""
    return Counter(next(own.places()) for _ in range(count))


def states(own):
    return {target.place: target.state for target in own.all()}


# The order.


def test_first_is_always_the_order_that_was_given(balancer):
    own = balancer(FIRST, Target(A), Target(B, weight=9), Target(C))
    for _ in range(3):
        assert order(own) == [A, B, C]
        own.joined(A, "client")


def test_round_robin_begins_one_further_each_time(balancer):
    own = balancer(ROUND_ROBIN)
    assert [next(own.places()) for _ in range(4)] == [A, B, C, A]


def test_round_robin_spreads_the_turns_of_a_heavy_target(balancer):
    own = balancer(ROUND_ROBIN, Target(A, weight=5), Target(B), Target(C))
    turns = [next(own.places()) for _ in range(14)]
    assert turns == [A, A, B, A, C, A, A] * 2


def test_least_begins_with_the_target_that_has_the_fewest_clients(balancer):
    own = balancer(LEAST_CONNECTIONS)
    for place in (A, A, B, C, C):
        own.joined(place, "client")
    assert order(own)[0] == B
    own.left(A, True)
    own.left(A, True)
    assert order(own)[0] == A


def test_least_counts_clients_that_are_being_connected(balancer):
    own = balancer(LEAST_CONNECTIONS)
    for place in (A, A, A, B):
        own.joined(place, "client")
    for number in range(5):
        own.began(next(own.places()), number)
    assert [len(target.attempts) for target in own.all()] == [0, 2, 3]


def test_least_takes_turns_among_equals(balancer):
    assert firsts(balancer(LEAST_CONNECTIONS), 300) == {A: 100, B: 100, C: 100}


def test_least_divides_the_clients_by_weight(balancer):
    own = balancer(LEAST_CONNECTIONS, Target(A, weight=3), Target(B))
    for number in range(40):
        own.joined(next(own.places()), number)
    assert [target.clients for target in own.all()] == [30, 10]


@pytest.mark.parametrize("balance", BALANCES)
def test_a_backup_gets_clients_only_while_no_other_target_is_usable(balancer, balance):
    own = balancer(balance, Target(C, backup=True), Target(A), Target(B))
    assert firsts(own, 6)[C] == 0
    own.failed(A, "client", "it is broken")
    assert firsts(own, 6) == {B: 6}
    own.failed(B, "client", "it is broken")
    assert firsts(own, 6) == {C: 6}
    own.passed(A)
    assert firsts(own, 6) == {A: 6}


# Failures.


@pytest.mark.parametrize("balance", BALANCES)
def test_a_target_that_has_failed_comes_last_until_a_probe_succeeds(balancer, time, balance):
    own = balancer(balance)
    assert own.failed(A, "client", "it is broken")
    for _ in range(6):
        assert order(own)[-1] == A
        time.advance(1000)
    assert own.passed(A)
    assert A in firsts(own, 3)


@pytest.mark.parametrize("balance", BALANCES)
def test_a_target_that_has_taken_a_client_is_as_good_as_any_again(balancer, balance):
    own = balancer(balance)
    own.failed(A, "client", "it is broken")
    assert own.joined(A, "client")
    own.left(A, True)
    assert A in firsts(own, 3)


@pytest.mark.parametrize("balance", BALANCES)
def test_all_targets_are_tried_when_all_are_down_the_one_that_failed_first_at_first(
    balancer, time, balance
):
    own = balancer(balance)
    for place in (B, C, A):
        own.failed(place, "client", "it is broken")
        time.advance(1)
    assert order(own) == [B, C, A]
    own.failed(B, "client", "it is broken")
    assert order(own) == [C, A, B]


def test_of_targets_that_are_down_those_that_do_not_answer_come_last(balancer, time):
    own = balancer(FIRST)
    own.began(A, "client")
    time.advance(10)
    own.failed(A, "client", "no answer")
    for _ in range(3):
        time.advance(1)
        own.failed(C, "client", "refused")
        own.failed(B, "client", "refused")
        assert order(own)[-1] == A


def test_the_other_targets_share_the_clients_of_a_failed_one(balancer):
    own = balancer(ROUND_ROBIN)
    own.failed(A, "client", "it is broken")
    assert firsts(own, 100) == {B: 50, C: 50}


def test_only_the_first_of_several_failures_is_a_change(balancer):
    own = balancer(FIRST)
    assert [own.failed(place, "client", "why") for place in (A, A, B)] == [True, False, True]
    assert [target.failures for target in own.all()] == [2, 1, 0]


def test_a_failure_of_the_only_target_changes_no_order(balancer):
    own = balancer(FIRST, A)
    own.failed(A, "client", "it is broken")
    assert order(own) == [A]


@pytest.mark.parametrize("balance", BALANCES)
def test_a_target_that_does_not_answer_comes_last(balancer, time, balance):
    own = balancer(balance)
    own.began(A, "waiting")
    for place in (B, C):
        own.joined(place, "client")
    time.advance(SLOW_SECONDS - 0.1)
    assert A in firsts(own, 3)
    time.advance(0.2)
    assert [order(own)[-1] for _ in range(3)] == [A, A, A]
    own.joined(A, "waiting")
    assert A in firsts(own, 3)


def test_one_lost_packet_does_not_count_against_a_target_that_answers_others(balancer, time):
    own = balancer(FIRST)
    own.began(A, "unlucky")
    time.advance(SLOW_SECONDS)
    own.began(A, "lucky")
    own.joined(A, "lucky")
    assert order(own) == [A, B, C]
    assert not own.failed(A, "unlucky", "no answer")
    assert states(own)[A] == UP


def test_clients_that_give_up_soon_do_not_keep_a_silent_target_in_use(balancer, time):
    own = balancer(FIRST)
    gone = []
    for number in range(10):
        own.began(A, number)
        time.advance(SLOW_SECONDS / 4 + 0.01)
        gone.append(own.gave_up(A, number))
    assert gone.index(True) == 3
    assert states(own)[A] == DOWN


def test_clients_that_give_up_do_not_count_against_a_target_that_answers(balancer, time):
    own = balancer(FIRST)
    for number in range(10):
        own.began(A, number)
        time.advance(SLOW_SECONDS / 2)
        own.gave_up(A, number)
        own.began(A, "another")
        own.joined(A, "another")
    assert states(own)[A] == UP


def test_a_client_that_comes_to_the_next_target_gets_one_that_is_good_by_then(balancer):
    own = balancer(FIRST)
    targets = own.places()
    assert next(targets) == A
    own.failed(B, "another client", "it is broken")
    assert list(targets) == [C, B]


# Targets that accept, and end at once.


def test_a_target_is_down_after_several_early_ends_in_a_row(balancer):
    own = balancer(LEAST_CONNECTIONS)
    changes = []
    for _ in range(EARLY_ENDS):
        own.joined(A, "client")
        changes.append(own.ended_early(A))
        own.left(A, False)
    assert changes == [False] * (EARLY_ENDS - 1) + [True]
    assert firsts(own, 6)[A] == 0


def test_an_answer_in_between_clears_early_ends(balancer):
    own = balancer(LEAST_CONNECTIONS)
    for number in range(3 * EARLY_ENDS):
        own.joined(A, "client")
        if number % EARLY_ENDS == 0:
            own.left(A, True)
        else:
            assert not own.ended_early(A)
            own.left(A, False)
    assert states(own)[A] == UP


def test_to_accept_a_client_does_not_bring_up_a_target_that_ends_at_once(balancer):
    own = balancer(FIRST)
    for _ in range(EARLY_ENDS):
        own.joined(A, "client")
        own.ended_early(A)
    assert not own.joined(A, "client")
    assert states(own)[A] == DOWN
    assert own.passed(A)


def test_a_probe_does_not_bring_up_a_target_that_is_the_proxy_itself(balancer):
    own = balancer(FIRST)
    own.find(A).leads_back = True
    own.failed(A, "client", "it leads back")
    assert not own.passed(A)
    assert states(own)[A] == DOWN


# Targets at run time.


def test_a_target_that_is_given_twice_is_one(balancer):
    own = balancer(FIRST, A, B, A)
    assert order(own) == [A, B]


def test_new_targets_say_what_has_changed_and_keep_the_state_of_those_that_stay(balancer):
    own = balancer(FIRST)
    own.failed(B, "client", "it is broken")
    changes = own.set_targets([Target(("d", 1)), Target(B, weight=2), Target(C)])
    assert str(changes) == "added d:1; removed a:80; changed b:80"
    assert order(own) == [("d", 1), C, B]
    assert own.find(B).failures == 1
    assert str(own.set_targets([Target(("d", 1)), Target(B, 2), Target(C)])) == "none has changed"


def test_a_removed_target_drains_until_its_last_client_has_gone(balancer):
    own = balancer(FIRST)
    own.joined(A, "one")
    own.joined(A, "two")
    own.began(A, "three")
    own.set_targets([Target(B)])
    assert states(own) == {B: UP, A: DRAINING}
    assert order(own) == [B]
    own.left(A, True)
    own.gave_up(A, "three")
    assert states(own)[A] == DRAINING
    own.left(A, True)
    assert states(own) == {B: UP}


def test_a_target_that_comes_back_while_it_drains_has_its_clients_still(balancer):
    own = balancer(LEAST_CONNECTIONS)
    own.joined(A, "one")
    own.set_targets([Target(B)])
    changes = own.set_targets([Target(A), Target(B)])
    assert str(changes) == "added a:80"
    assert next(own.places()) == B
    own.left(A, True)
    assert states(own) == {A: UP, B: UP}


def test_a_client_that_tries_one_target_after_the_other_sees_new_ones(balancer):
    own = balancer(FIRST)
    targets = own.places()
    assert next(targets) == A
    own.set_targets([Target(A), Target(("d", 1))])
    assert list(targets) == [("d", 1)]


def test_what_is_reported_of_a_forgotten_target_is_ignored(balancer):
    own = balancer(FIRST)
    own.set_targets([Target(B)])
    own.began(A, "late")
    own.answered(A, "late")
    assert not own.failed(A, "late", "why")
    assert not own.gave_up(A, "late")
    assert not own.passed(A)
    assert not own.ended_early(A)
    assert states(own) == {B: UP}


def test_an_attempt_that_fails_ends_the_drain(balancer, time):
    own = balancer(FIRST)
    own.began(A, "refused")
    own.began(C, "late")
    own.set_targets([Target(B)])
    own.failed(A, "refused", "why")
    own.find(C).answered = time() + 1  # another client had an answer meanwhile
    time.advance(SLOW_SECONDS)
    own.failed(C, "late", "no answer")
    assert states(own) == {B: UP}


def test_each_target_has_a_turn_after_a_change(balancer):
    own = balancer(ROUND_ROBIN)
    list(islice(own.places(), 2))
    own.set_targets([Target(C), Target(A, weight=2)])
    assert firsts(own, 6) == {C: 2, A: 4}
