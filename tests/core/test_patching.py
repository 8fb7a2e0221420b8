"""Bodies are patched in place: what is asked for changes, every other byte stays."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.patching import patch_object


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
