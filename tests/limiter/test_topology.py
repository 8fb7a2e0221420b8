"""Which primary has an account, as URLs and nodes say it."""

import pytest

from proxy.limiter.targets import parse_targets
from proxy.limiter.topology import SLOTS, Address, Redirection, read_redirection, read_slots, slot_of
from tests.support.services import RedisCluster

ASKED = Address("10.0.0.1", 6379)


def test_a_slot_is_that_of_the_specification() -> None:
    assert slot_of("123456789") == 0x31C3


def test_a_slot_is_that_of_every_key_of_the_account(three_primaries: RedisCluster) -> None:
    for account in ("acme", "019ab3c4-7d11-7e5e-a001-9f1c7a52d3e0", "~", "tollgate.ping.7"):
        for key in (f"tollgate:{{{account}}}:state", f"tollgate:12:{{{account}}}:gone:1"):
            assert slot_of(account) == int(three_primaries.ask(0, "CLUSTER", "KEYSLOT", key))


def test_a_map_gives_each_slot_its_primary_and_leaves_out_replicas() -> None:
    answer = [
        [0, 99, [b"10.0.0.1", 7000, b"id", [b"hostname", b"one"]], [b"10.0.0.9", 7009, b"replica"]],
        [100, 100, [b"two.example", 7001, b"id"]],
        [16_383, 16_383, [None, 7002, b"id"]],
    ]
    owners = read_slots(answer, ASKED)
    assert len(owners) == SLOTS
    assert owners[0] == owners[99] == ("10.0.0.1", 7000)
    assert owners[100] == ("two.example", 7001)
    assert owners[101] is None
    assert owners[-1] == ("10.0.0.1", 7002)  # it does not know its own host: it is whom we asked


@pytest.mark.parametrize("answer", [[1], [[0, 1]], [[0, 1, b"host"]], [[0, SLOTS, [b"h", 1]]], [[b"0", 1, [b"h", 1]]]])
def test_what_is_no_map_is_not_taken_for_one(answer: list[object]) -> None:
    with pytest.raises(ValueError, match="CLUSTER SLOTS"):
        read_slots(answer, ASKED)


@pytest.mark.parametrize(
    ("error", "read"),
    [
        ("MOVED 3999 10.0.0.2:6381", Redirection(True, 3999, Address("10.0.0.2", 6381))),
        ("MOVED 3999 :6381", Redirection(True, 3999, Address("10.0.0.1", 6381))),
        ("ASK 12 2001:db8::1:6381", Redirection(False, 12, Address("2001:db8::1", 6381))),
        ("MOVED 3999", None),
        ("MOVED 16384 h:1", None),
        ("MOVED x h:1", None),
        ("CLUSTERDOWN The cluster is down", None),
    ],
)
def test_a_redirection_says_where_to(error: str, read: Redirection | None) -> None:
    assert read_redirection(error, ASKED) == read


def test_a_url_may_name_several_nodes_which_take_the_same_password() -> None:
    targets = parse_targets("redis://user:p%40ss@one:7000,[::1]:7001,three/0")
    assert [(target.host, target.port) for target in targets] == [("one", 7000), ("::1", 7001), ("three", 6379)]
    assert {(target.username, target.password, target.db) for target in targets} == {("user", "p@ss", 0)}
    assert "p@ss" not in repr(targets)


def test_every_node_speaks_tls_if_the_url_says_so() -> None:
    one, two = parse_targets("rediss://one:1,two:2?ssl_cert_reqs=none")
    assert one.tls is not None
    assert one.tls is two.tls


@pytest.mark.parametrize("url", ["redis://one:1,", "redis://,", "http://one:1,two:2", "redis://one:x,two:2"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_targets(url)
