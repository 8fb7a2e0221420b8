"""Whose blocks a worker takes next."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.batches.turns import Bounds, InTurn, share_out

ANY = Bounds(1000, 1000, 1000)


def in_turn(batch, account="acc_a", model="m1", leased=0, free=10):
    return InTurn(batch, account, model, leased, free)


def test_accounts_take_turns_however_many_batches_one_has():
    waiting = [in_turn("a1"), in_turn("a2"), in_turn("a3"), in_turn("b1", "acc_b"), in_turn("c1", "acc_c")]
    assert share_out(waiting, [], Bounds(6, 1000, 1000)) == {"a1": 2, "b1": 2, "c1": 2}


def test_of_one_account_the_oldest_batch_is_first():
    waiting = [in_turn("old", free=3), in_turn("new")]
    assert share_out(waiting, [], Bounds(5, 1000, 1000)) == {"old": 3, "new": 2}


def test_who_has_less_under_way_at_any_worker_is_next():
    waiting = [in_turn("a1", leased=4), in_turn("b1", "acc_b", leased=1)]
    assert share_out(waiting, [], Bounds(3, 1000, 1000)) == {"b1": 3}


def test_a_worker_keeps_its_bounds_with_what_it_runs_already():
    waiting = [in_turn("a1"), in_turn("b1", "acc_b", "m2"), in_turn("c1", "acc_c", "m2")]
    running = [("acc_a", "m1"), ("acc_b", "m2")]
    assert share_out(waiting, running, Bounds(10, 2, 3)) == {"a1": 1, "b1": 1, "c1": 1}
    assert share_out(waiting, running, Bounds(2, 2, 3)) == {}
    assert share_out([], running, ANY) == {}


@given(
    st.lists(
        st.builds(
            InTurn,
            st.uuids().map(str),
            st.sampled_from("abc"),
            st.sampled_from("mn"),
            st.integers(0, 4),
            st.integers(0, 6),
        ),
        max_size=6,
        unique_by=lambda batch: batch.batch_id,
    ),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("mn")), max_size=5),
    st.builds(Bounds, st.integers(0, 12), st.integers(0, 6), st.integers(0, 6)),
)
def test_no_bound_is_broken_and_nothing_is_left_that_could_be_taken(waiting, running, bounds):
    taken = share_out(waiting, running, bounds)
    accounts, models = Counter(account for account, _ in running), Counter(model for _, model in running)
    before = accounts.copy(), models.copy()
    for batch in waiting:
        assert taken.get(batch.batch_id, 0) <= batch.free
        accounts[batch.account_id] += taken.get(batch.batch_id, 0)
        models[batch.model] += taken.get(batch.batch_id, 0)
    assert all(accounts[each] <= max(bounds.account_blocks, before[0][each]) for each in accounts)
    assert all(models[each] <= max(bounds.model_blocks, before[1][each]) for each in models)
    total = len(running) + sum(taken.values())
    assert total <= max(bounds.blocks, len(running))
    if total < bounds.blocks:
        for batch in waiting:
            assert (
                taken.get(batch.batch_id, 0) == batch.free
                or accounts[batch.account_id] >= bounds.account_blocks
                or models[batch.model] >= bounds.model_blocks
            )
