"""The words that nano's stories, tables, signs and tool calls are made of, out of words.txt."""

from __future__ import annotations

from pathlib import Path


def _read() -> dict[str, list[str]]:
    """A name and a colon begin a list; the indented lines below are its words."""
    lists: dict[str, list[str]] = {}
    name = ""
    for line in Path(__file__).with_name("words.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            lists[name] += line.split()
        else:
            name = line.removesuffix(":")
            lists[name] = []
    return lists


_LISTS = _read()
ANIMALS = _LISTS["animals"]
CITIES = _LISTS["cities"]
COLOURS = _LISTS["colours"]
DAYS = _LISTS["days"]
DIGITS = _LISTS["digits"]
FEELINGS = _LISTS["feelings"]
FOODS = _LISTS["foods"]
INSTRUMENTS = _LISTS["instruments"]
JOBS = _LISTS["jobs"]
LANGUAGES = _LISTS["languages"]
NAMES = _LISTS["names"]
OBJECTS = _LISTS["objects"]
PLACES = _LISTS["places"]
ROOMS = _LISTS["rooms"]
SIZES = _LISTS["sizes"]
SPORTS = _LISTS["sports"]
WEATHER = _LISTS["weather"]
FEMALE = _LISTS["female"]
PRINTED = _LISTS["printed"]
