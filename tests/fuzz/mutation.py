"""Inputs that are nearly right: bytes, text and trees, changed in a few places."""

import copy
import datetime
import math

CHANGES = 3
LARGE = [10**400, 2**63, 1e308, 10**9]
ODD = [
    *(None, True, False, 0, -1, 1, 0.5, 1e-320, math.nan, math.inf, -math.inf, *LARGE),
    *("", " ", "x", "null", "010", "1e3", "nan", "0x10", "1_000", "\x00", "é\u2028\U0001f600"),
    *("a" * 5000, "../../etc/passwd", "os:sep", ":", "builtins:int", "fedavg", "fedprox", "auto"),
    *([], [1, 2], [[]], {}, {1: 2}, {"name": "fedavg"}, {"name": None}, {"name": ["x"]}),
    *({None: 1}, {"": 1}, {"a.b": 1}, b"\xff", datetime.date(2024, 2, 29)),
]


def pick(draw, items):
    """Return one of the items, whatever they are."""
    return items[int(draw.integers(len(items)))]


def bytes_of(draw, whole, tokens=(b"\x00", b"\xff", b"\n")):
    """Return bytes with a few places flipped, cut, doubled, or replaced by a token."""
    data = bytearray(whole)
    for _ in range(1 + int(draw.integers(CHANGES))):
        at, long = int(draw.integers(len(data) + 1)), int(draw.integers(1, 9))
        way = int(draw.integers(6))
        if way == 0 and at < len(data):
            data[at] ^= 1 << int(draw.integers(8))
        elif way == 1:
            del data[at : at + long]
        elif way == 2:
            del data[at:]
        elif way == 3:
            data[at:at] = data[at : at + 8 * long]
        else:
            data[at : at + long * (way - 4)] = pick(draw, tokens)
    return bytes(data)


def text_of(draw, whole, tokens):
    """Return a text that is changed as bytes are."""
    return bytes_of(draw, whole.encode(), tokens).decode("utf-8", "replace")


def tree_of(draw, whole, odd=ODD):
    """Return a tree with a few of its values replaced, left out, renamed or added."""
    tree = copy.deepcopy(whole)
    for _ in range(1 + int(draw.integers(CHANGES))):
        tables = [table for table in _tables(tree) if table]
        if not tables:
            break
        table, value = pick(draw, tables), copy.deepcopy(pick(draw, odd))
        keys = list(table) if isinstance(table, dict) else list(range(len(table)))
        key, way = pick(draw, keys), int(draw.integers(6))
        if way == 0:
            del table[key]
        elif way == 1 and isinstance(table, dict):
            table[pick(draw, [f"{key}x", "x", str(key).upper(), f"{key}.name", 3])] = table.pop(key)
        elif way == 2:
            table[key] = [table[key]] if draw.integers(2) else {"name": table[key]}
        else:
            table[key] = value
    return tree


def _tables(tree):
    """Yield all tables and lists of a tree, itself first."""
    if isinstance(tree, dict | list):
        yield tree
        for inner in tree.values() if isinstance(tree, dict) else tree:
            yield from _tables(inner)
