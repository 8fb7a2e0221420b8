"""Bodies are patched in place: what is asked for changes, every other byte stays."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import ApiError
from proxy.core.patching import MEMBERS_MAX, elements, members, patch_object


@pytest.mark.parametrize(
    ("body", "changes", "expected"),
    [
        (b"{}", {"a": b"1"}, b'{"a":1}'),
        (b' { "b" : 2 } ', {"a": b"1"}, b' {"a":1, "b" : 2 } '),
        (
            b'{"x": {"a": 2}, "a" : [1,{"b":"]"}], "c":1}',
            {"a": b"null"},
            b'{"x": {"a": 2}, "a" : null, "c":1}',
        ),
        (b'{"a":"}\\"{", "b":1}', {"a": b"0"}, b'{"a":0, "b":1}'),
        (b'{"a":1,"b":2,"a":3}', {"a": b"9"}, b'{"a":9,"b":2,"a":9}'),
        (b'{"\\u0061":1}', {"a": b"9"}, b'{"\\u0061":9}'),
        (b'{"m":"\\"a\\":3"}', {"a": b"9"}, b'{"a":9,"m":"\\"a\\":3"}'),
        (b'{"a":-1.5e3\n}', {"a": b"true"}, b'{"a":true\n}'),
        (b'{"k":"a","a":2}', {"a": b"3"}, b'{"k":"a","a":3}'),
        (b'{"k":[[]],"a":{"b":"}"} }', {"a": b"3"}, b'{"k":[[]],"a":3 }'),
        (b'{"k":{"a":1}  ,"a":[1]}', {"a": b"3"}, b'{"k":{"a":1}  ,"a":3}'),
        (b" \n{ } \n", {"a": b"3"}, b' \n{"a":3 } \n'),
    ],
)
def test_a_patch_changes_only_what_it_names(body, changes, expected):
    assert patch_object(body, changes) == expected


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)
_keys = st.sampled_from(["a", "b", "max_tokens", "stream_options", "é", ""])


@given(
    st.dictionaries(_keys | st.text(max_size=4), _json, max_size=6),
    st.dictionaries(_keys, _json, min_size=1, max_size=3),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_a_patched_object_parses_as_the_object_with_its_members_set(value, changes, indent, ascii_only):
    body = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    patched = patch_object(body, {key: json.dumps(new).encode() for key, new in changes.items()})
    assert json.loads(patched.decode("utf-8", "surrogatepass")) == {**value, **changes}


@given(_json, st.sampled_from([None, 1]), st.booleans())
def test_every_member_and_every_element_is_found(value, indent, ascii_only):
    body = json.dumps({"a": [value, {"b": value}, value], "c": value}, indent=indent, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass"
    )

    def text(start, end):
        return json.loads(body[start:end].decode("utf-8", "surrogatepass"))

    (first, first_end, array, array_end), (second, second_end, last, last_end) = members(body)
    assert (text(first, first_end), text(second, second_end), text(last, last_end)) == ("a", "c", value)
    spans = list(elements(body, array, array_end))
    assert [text(*span) for span in spans] == [value, {"b": value}, value]
    ((key, key_end, inner, inner_end),) = members(body, spans[1][0])
    assert (text(key, key_end), text(inner, inner_end)) == ("b", value)


def test_an_object_of_more_members_than_anybody_means_is_refused():
    def body(count):
        return b"{%b}" % b",".join([b'"a":[]'] * count)

    assert patch_object(body(MEMBERS_MAX), {"a": b"1"}) == body(MEMBERS_MAX).replace(b"[]", b"1")
    with pytest.raises(ApiError) as caught:
        patch_object(body(MEMBERS_MAX + 1), {"a": b"1"})
    assert caught.value.status == 400


@pytest.mark.parametrize("piece", [b'""', b"[]", b'{"a":""}', b'"' + b"x" * 1_000_000 + b'"', b'"\\""', b"1"])
def test_a_large_value_is_passed_over_whatever_it_holds(piece):
    """A bound far above what it takes, and far below a look at every token (seconds)."""
    value = b"[%b]" % b",".join([piece] * (3_000_000 // len(piece)))
    body = b'{"model":"a","z":%b,"model":"b"}' % value
    began = time.perf_counter()
    patched = patch_object(body, {"model": b"1"})
    took = time.perf_counter() - began
    assert patched == b'{"model":1,"z":%b,"model":1}' % value
    assert took < 0.5
