"""Whose blocks a worker takes next."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from proxy.core.batches.turns import NEAR, NEWCOMERS, Bounds, InTurn, Under, nearest, share_out

ANY = Bounds(1000, 1000, 1000)


def in_turn(batch, account="acc_a", model="m1", leased=0, free=10, block_lines=1):
    return InTurn(batch, account, model, leased, free, block_lines)


def test_accounts_take_turns_however_many_batches_one_has():
    waiting = [in_turn("a1"), in_turn("a2"), in_turn("a3"), in_turn("b1", "acc_b"), in_turn("c1", "acc_c")]
    assert share_out(waiting, [], ANY, 6) == {"a1": 2, "b1": 2, "c1": 2}


def test_of_one_account_the_oldest_batch_is_first():
    assert share_out([in_turn("old", free=3), in_turn("new")], [], ANY, 5) == {"old": 3, "new": 2}


def test_who_has_less_under_way_at_any_worker_is_next():
    assert share_out([in_turn("a1", leased=4), in_turn("b1", "acc_b", leased=1)], [], ANY, 3) == {"b1": 3}


def test_a_worker_keeps_its_bounds_with_what_it_runs_already():
    waiting = [in_turn("a1"), in_turn("b1", "acc_b", "m2"), in_turn("c1", "acc_c", "m2")]
    running = [Under("acc_a", "m1", 1), Under("acc_b", "m2", 1)]
    assert share_out(waiting, running, Bounds(10, 2, 3), 99) == {"a1": 1, "b1": 1, "c1": 1}
    assert share_out(waiting[:2], running, Bounds(2, 2, 3), 99) == {}
    assert share_out([], running, ANY, 99) == {}


def test_small_blocks_are_taken_until_they_are_lines_enough():
    assert share_out([in_turn("a1", free=99)], [], Bounds(64, 64, 64), 99) == {"a1": 64}
    assert share_out([in_turn("a1", free=99, block_lines=50)], [], Bounds(64, 64, 64), 99) == {"a1": 2}


def test_a_large_block_leaves_room_for_another_account():
    waiting = [in_turn("a1", block_lines=256), in_turn("b1", "acc_b", block_lines=256)]
    assert share_out(waiting, [], Bounds(256, 128, 256), 9) == {"a1": 1, "b1": 1}


def test_an_account_with_nothing_to_begin_is_not_held_up_by_the_lines_of_others():
    waiting = [in_turn("a1", leased=2, block_lines=256), in_turn("b1", "acc_b", block_lines=256)]
    running = [Under("acc_a", "m1", 256)]
    assert share_out(waiting, running, Bounds(128, 128, 128), 9) == {"b1": 1}
    crowd = [Under(f"acc_{number}", "m1", 128) for number in range(NEWCOMERS)]
    assert share_out(waiting, crowd, Bounds(128, 128, 128), 9) == {}


BATCHES = st.builds(
    InTurn,
    st.uuids().map(str),
    st.sampled_from("abc"),
    st.sampled_from("mn"),
    st.integers(0, 4),
    st.integers(0, 6),
    st.integers(1, 5),
)
RUNNING = st.builds(Under, st.sampled_from("abc"), st.sampled_from("mn"), st.integers(0, 5))
BOUNDS = st.builds(Bounds, st.integers(0, 30), st.integers(0, 15), st.integers(0, 15))


@given(
    st.lists(BATCHES, max_size=6, unique_by=lambda batch: batch.batch_id),
    st.lists(RUNNING, max_size=5),
    BOUNDS,
    st.integers(0, 20),
)
def test_no_bound_is_passed_by_more_than_a_block_and_nothing_is_left_that_could_be_taken(
    waiting, running, bounds, most
):
    taken = share_out(waiting, running, bounds, most)
    total, accounts, models = 0, Counter(), Counter()
    for each in running:
        lines = min(each.lines, bounds.total, bounds.of_account, bounds.of_model)
        total += lines
        accounts[each.account_id] += lines
        models[each.model] += lines
    before = total, accounts.copy(), models.copy()
    for batch in waiting:
        assert taken.get(batch.batch_id, 0) <= batch.free
        lines = taken.get(batch.batch_id, 0) * min(batch.block_lines, bounds.total, bounds.of_account, bounds.of_model)
        total += lines
        accounts[batch.account_id] += lines
        models[batch.model] += lines
    largest = max([batch.block_lines for batch in waiting], default=1)
    blocks = Counter()
    for batch in waiting:
        blocks[batch.account_id] += taken.get(batch.batch_id, 0)
    newcomers = [account for account, count in blocks.items() if count and not before[1][account]]
    assert sum(taken.values()) <= most
    assert (
        total < max(bounds.total + largest, NEWCOMERS * bounds.total + largest * bool(newcomers)) or total == before[0]
    )
    assert all(lines < bounds.of_account + largest or lines == before[1][each] for each, lines in accounts.items())
    if not newcomers:
        assert total < bounds.total + largest or total == before[0]
        assert all(lines < bounds.of_model + largest or lines == before[2][each] for each, lines in models.items())
    if total < bounds.total and sum(taken.values()) < most:
        for batch in waiting:
            assert (
                taken.get(batch.batch_id, 0) == batch.free
                or accounts[batch.account_id] >= bounds.of_account
                or models[batch.model] >= bounds.of_model
            )
            assert taken.get(batch.batch_id, 0) == batch.free or accounts[batch.account_id] > 0 or not bounds.of_account


@given(
    st.lists(BATCHES, max_size=40, unique_by=lambda batch: batch.batch_id),
    st.lists(RUNNING, max_size=5),
    BOUNDS,
    st.integers(0, 5),
)
def test_what_is_not_counted_would_not_be_taken(waiting, running, bounds, most):
    waiting = [batch if batch.free or batch.leased else replace(batch, free=1) for batch in waiting]
    near = set(nearest([replace(batch, free=0, block_lines=0) for batch in waiting], most))
    counted = [batch if batch.batch_id in near else replace(batch, free=0) for batch in waiting]
    assert share_out(counted, running, bounds, most) == share_out(waiting, running, bounds, most)


def test_of_thousands_of_batches_few_are_counted_and_those_of_accounts_with_the_least_under_way():
    flood = [in_turn(f"a{number}", f"acc_{number % 400}", leased=number < 400) for number in range(2000)]
    late = in_turn("late", "acc_late")
    near = nearest([*flood, late], 8)
    assert len(near) == 2 * NEAR
    assert "late" in near
    assert share_out([*flood, late], [], ANY, 1) == {"late": 1}


def test_of_an_account_with_many_batches_as_many_are_counted_as_blocks_are_taken_of_each_model():
    many = [in_turn(f"a{number}", model="mn"[number % 2]) for number in range(100)]
    assert sorted(nearest(many, 3)) == sorted(f"a{number}" for number in range(6))
    begun = [in_turn(f"b{number}", leased=1) for number in range(10)]
    assert set(nearest([*begun, *many], 3)) == {f"a{number}" for number in range(6)} | {f"b{n}" for n in range(10)}
