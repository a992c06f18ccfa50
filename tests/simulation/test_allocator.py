"""Freed memory of large arrays is used again, unless the environment says otherwise."""

from __future__ import annotations

import ctypes
import platform
import resource

import pytest

from fedalign.simulation.allocator import keep_freed_memory

SIZE = 48 << 20


def faults():
    """Return how many pages the system has given to this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_a_large_array_gets_the_memory_of_the_last_one(monkeypatch):
    for name in ("MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    keep_freed_memory()
    memory = bytearray(SIZE)
    del memory
    before = faults()
    memory = bytearray(SIZE)
    assert len(memory) == SIZE
    assert faults() - before < SIZE / 4096 / 10


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_what_the_environment_says_holds(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("the allocator has been changed"))
    keep_freed_memory()


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    keep_freed_memory()
