"""The reference: docs/configuration.md, generated from the declared types, so that it cannot lag behind them.

What belongs here: writing down what types.py, files.py and environment.py say of themselves, and the few
paragraphs around it. ``python -m proxy.settings.reference`` prints it.
"""

import sys
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import inspect

from proxy.core.endpoints import ROUTE_USAGE_TYPES
from proxy.settings import files
from proxy.settings.environment import VARIABLES, Variable
from proxy.settings.forms import FORM_NAMES
from proxy.settings.holder import needs_restart
from proxy.settings.loader import FILES, ONE_UPSTREAM

_INTRODUCTION: Final = f"""\
# Configuration

<!-- Generated: change the descriptions in proxy/settings/, then run `python -m proxy.settings.reference`. -->

Tollgate reads one folder, `config` unless `--config DIR` says otherwise. It holds five YAML files:

| file | what it says | may be left out |
|---|---|---|
| [proxy.yaml](#proxyyaml) | where the proxy listens, which stores it uses, how long it waits | yes |
| [tiers.yaml](#tiersyaml) | what an account may use, and what it pays up front | no |
| [prices.yaml](#pricesyaml) | what usage costs, and from when on | no |
| [models.yaml](#modelsyaml) | which models customers can name, and which servers answer | no |
| [seller.yaml](#selleryaml) | who issues invoices, and on what terms | yes |

The files that come with Tollgate are sound as they are: they hold the published tiers and prices, and models
behind the simulated cluster. To put a real server behind them, write its address into `models.yaml`, or set
`TOLLGATE_UPSTREAM`. The company in `seller.yaml` is an invented one: put yours in its place.

## Checking it

`tollgate check` reads everything and prints either a summary or every mistake at once, each with its file and
line, and then ends with status 1. `tollgate serve` makes the same checks and does not start on a mistake.

```
$ tollgate check
config/tiers.yaml:8: tiers.tier1.output_tokens_hour: expected a whole number, or 'unlimited', got 'x'
config/models.yaml:15: models.gpt-oss:120b.upstreams[0]: no upstream is called 'cloud'
```

Nothing is guessed: an unknown key, a key that is written twice, a model without a server and a usage type
without a price are mistakes. Values of secrets are never quoted.

## Changing it while the proxy runs

On SIGHUP the proxy reads the folder again. If there is a mistake, it keeps what it has, and counts and logs
it. Otherwise the new settings hold from the next call on, except those marked *restart* below: they keep
their old value until the proxy is started again, and the log names them. The environment of a running process
does not change.

## How values are written

- *euros*: a decimal number with a point, such as `200` or `12.50`. It is read digit by digit and kept
  exactly.
- *euros per million*: the same, with at most 6 decimals.
- *whole number*: digits, with `_` between them where that helps: `3_600_000`.
- *date and time*: with the offset from UTC written out: `2026-01-01T00:00:00+01:00`.
- *host:port*: `127.0.0.1:8080`, `[::1]:8080`; port 0 lets the system choose.
- *URL* of an upstream: `http://` or `https://`; a closing `/` or `/v1` is dropped.
- *origin*: scheme, host and a port that is not the scheme's own: `https://app.example`. `"*"` needs its quotes.
- Files named in a YAML file are looked for from the folder of that file; `state_dir`, and files named in the
  environment, from the working directory.

## Secrets

A password or key is never written into these files. A store's URL with a password comes from
`TOLLGATE_REDIS_URL` or `TOLLGATE_DATABASE_URL`, or from a file that `redis_url_file`, `database_url_file` or
`TOLLGATE_…_FILE` names. The key of an upstream comes from the variable that its `api_key_env` names, or the
file that its `api_key_file` names.

## Environment

A variable wins over the file. An empty value counts as absent. Every variable is read when the proxy starts.

| variable | wins over | meaning |
|---|---|---|
{{environment}}

With `TOLLGATE_UPSTREAM`, all models are served by one upstream called `{ONE_UPSTREAM}`, and the upstreams of
models.yaml (and their keys) are not used.
"""

_NOTES: Final = {
    "tiers.yaml": """\
An account holds one tier, and its id is what `tollgate accounts create --tier` takes. What has no limit says
so (`unlimited`): a limit cannot be lost by leaving a line out. Output tokens and requests are counted in
sliding windows, the monthly limit in the months of the account's time zone.
""",
    "prices.yaml": """\
To change a price, append a version that begins in the future and reload every replica before that; it takes
over at that instant by itself. A version that has been in force stays as it is, because ledger entries name it:
a reload refuses the change, and a new version that begins in the past. Versions are in order of time, and one
of them must be in force at the start. A call costs what the version in force at its admission says
([accounts.md](accounts.md#prices)).
""",
    "models.yaml": """\
To add a model, add its entry, and a server if it has another one; `tollgate check` says whether everything it
can use has a price. Routes that a model may name: {routes}.
""",
    "seller.yaml": """\
Check digits are checked (SIREN, SIRET, VAT number, IBAN), and that the numbers are one company's; blanks in them do
not matter. What has been issued keeps what stood here at that time.
""",
}


def render() -> str:
    """Return the whole of docs/configuration.md."""
    parts = [_INTRODUCTION.format(environment="\n".join(map(_variable_row, VARIABLES.values())))]
    routes = ", ".join(f"`{route}`" for route in ROUTE_USAGE_TYPES)
    for name, shape in FILES.items():
        summary = (shape.__doc__ or "").split("\n\n")[0]
        parts.append(f"## {name}\n\n{summary} [As it comes](../config/{name}).\n")
        if name in _NOTES:
            parts.append(_NOTES[name].format(routes=routes))
        parts += _sections(shape, "")
    return "\n".join(parts)


def setting_paths() -> Iterator[str]:
    """Yield every setting as the reference names it, for example ``models.yaml: models.<name>.aliases``."""
    for name, shape in FILES.items():
        for path, _ in _settings(shape, ""):
            yield f"{name}: {path}"


def _settings(shape: type[msgspec.Struct], prefix: str) -> Iterator[tuple[str, inspect.Field]]:
    """Yield every setting of a shape and of those in it, with its path."""
    for field in _fields(shape):
        yield f"{prefix}{field.name}", field
        inner, suffix = _inner(field)
        if inner is not None:
            yield from _settings(inner, f"{prefix}{field.name}{suffix}.")


def _sections(shape: type[msgspec.Struct], prefix: str) -> Iterator[str]:
    """Yield a table of a shape's settings, then the sections of the shapes in it."""
    rows = "\n".join(_row(prefix, field) for field in _fields(shape))
    yield f"| setting | value | default | meaning |\n|---|---|---|---|\n{rows}\n"
    for field in _fields(shape):
        inner, suffix = _inner(field)
        if inner is not None:
            path = f"{prefix}{field.name}{suffix}"
            yield f"### `{path}`\n\n{inner.__doc__}\n"
            yield from _sections(inner, f"{path}.")


def _fields(shape: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    kind = inspect.type_info(shape)
    assert isinstance(kind, inspect.StructType)
    return kind.fields


def _inner(field: inspect.Field) -> tuple[type[msgspec.Struct] | None, str]:
    """Return the shape inside a setting, and what its path has between: a name, a position or nothing."""
    kind, _ = _bare(field.type)
    suffix = ""
    if isinstance(kind, inspect.DictType):
        kind, suffix = _bare(kind.value_type)[0], ".<name>"
    elif isinstance(kind, inspect.VarTupleType):
        kind, suffix = _bare(kind.item_type)[0], "[]"
    return (kind.cls, suffix) if isinstance(kind, inspect.StructType) else (None, "")


def _bare(kind: inspect.Type) -> tuple[inspect.Type, dict[str, Any]]:
    """Return a type without its metadata and its none, and what the metadata says."""
    facts: dict[str, Any] = {}
    while isinstance(kind, inspect.Metadata | inspect.UnionType):
        if isinstance(kind, inspect.Metadata):
            facts = (kind.extra_json_schema or {}) | (kind.extra or {}) | facts
            kind = kind.type
        else:
            kind = next(member for member in kind.types if not isinstance(member, inspect.NoneType))
    return kind, facts


def _row(prefix: str, field: inspect.Field) -> str:
    _, facts = _bare(field.type)
    meaning = str(facts.get("description", ""))
    if needs_restart(field):
        meaning += " *Restart.*"
    return f"| `{prefix}{field.name}` | {_value_text(field.type)} | {_default_text(field)} | {meaning} |"


def _value_text(kind: inspect.Type) -> str:
    bare, facts = _bare(kind)
    if "form" in facts:
        text = FORM_NAMES[facts["form"]]
    elif isinstance(bare, inspect.StructType):
        text = "settings"
    elif isinstance(bare, inspect.DictType):
        text = f"{_value_text(bare.key_type)} → {_value_text(bare.value_type)}"
    elif isinstance(bare, inspect.VarTupleType):
        text = f"list of {_value_text(bare.item_type)}"
    elif isinstance(bare, inspect.EnumType):
        text = "one of " + ", ".join(f"`{member.value}`" for member in bare.cls)
    else:
        text = _PLAIN[type(bare)] + _bounds_text(bare)
    return f"{text}, or `{facts['none']}`" if "none" in facts else text


_PLAIN: Final[dict[type[inspect.Type], str]] = {
    inspect.IntType: "whole number",
    inspect.FloatType: "number",
    inspect.BoolType: "`true` or `false`",
    inspect.StrType: "text",
}


def _bounds_text(kind: inspect.Type) -> str:
    if not isinstance(kind, inspect.IntType | inspect.FloatType):
        return ""
    bounds = ((">=", kind.ge), (">", kind.gt), ("<=", None if kind.le == files.EXACT_MAX else kind.le))
    return "".join(f" {sign} {bound}" for sign, bound in bounds if bound is not None)


def _default_text(field: inspect.Field) -> str:
    if field.required:
        return "required"
    if field.default == "":
        return "none"
    if isinstance(field.default, str | int | float) and not isinstance(field.default, bool):
        return f"`{_engine_text(field.default)}`"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    if isinstance(field.default, tuple) and field.default:
        return ", ".join(f"`{item}`" for item in field.default)
    return "none" if field.default is None else "see below" if _inner(field)[0] is not None else "none"


def _engine_text(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _variable_row(variable: Variable) -> str:
    replaces = f"`{variable.replaces}`" if variable.replaces else ""
    return f"| `{variable.name}` | {replaces} | {variable.description} |"


if __name__ == "__main__":
    sys.stdout.write(render())
