"""Pure decisions: no await, no clock, no I/O, no logging; the standard library and msgspec only."""
