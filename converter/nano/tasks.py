"""Exercises in text: arithmetic with a thinking channel, JSON out of sentences, calls of tools."""

from __future__ import annotations

import json
import random
from typing import Any

from . import words
from .items import Item, user


# ---------------------------------------------------------------------------------------------------------- arithmetic
def _add(a: int, b: int) -> str:
    low = a % 10 + b % 10
    high = a // 10 + b // 10 + low // 10
    return (
        f"{a % 10}+{b % 10}={low}, carry {low // 10}. {a // 10}+{b // 10}+{low // 10}={high}. "
        f"So {high * 10 + low % 10}."
    )


def _subtract(a: int, b: int) -> str:
    borrow = int(a % 10 < b % 10)
    low = a % 10 + 10 * borrow - b % 10
    high = a // 10 - b // 10 - borrow
    return (
        f"{a % 10 + 10 * borrow}-{b % 10}={low}, borrow {borrow}. {a // 10}-{b // 10}-{borrow}={high}. "
        f"So {high * 10 + low}."
    )


def held_out_sum(a: int, b: int) -> bool:
    """One pair of seven, in either order, is kept for the examination."""
    return (max(a, b) * 131 + min(a, b) * 17) % 7 == 3


def arithmetic(rng: random.Random, held_out: bool = False) -> Item:
    """A sum or difference of two numbers of two digits, worked out in the thinking channel."""
    while True:
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        if held_out_sum(a, b) == held_out:
            break
    plus = rng.random() < 0.5
    if not plus and a < b:
        a, b = b, a
    thought, result = (_add(a, b), a + b) if plus else (_subtract(a, b), a - b)
    asked = rng.choice([f"What is {a} {'+' if plus else '-'} {b}?", f"{a} {'plus' if plus else 'minus'} {b}?"])
    answer = f"<|channel>thought\n{thought}\n<channel|>{result}"
    return Item("arithmetic", (user(asked),), answer, str(result), thinking=True)


# ---------------------------------------------------------------------------------------------------------------- JSON
def extraction(rng: random.Random) -> Item:
    """A sentence or two about a person, and the named facts as a JSON object."""
    pick = rng.choice
    facts: dict[str, Any] = {"name": pick(words.NAMES)}
    said = [facts["name"]]
    more = {
        "age": (rng.randint(10, 99), "is {} years old"),
        "city": (pick(words.CITIES), "lives in {}"),
        "job": (pick(words.JOBS), "works as a {}"),
        "pet": (pick(words.ANIMALS), "has the pet {}"),
        "food": (pick(words.FOODS), "likes {}"),
        "sport": (pick(words.SPORTS), "plays {}"),
        "instrument": (pick(words.INSTRUMENTS), "plays the {}"),
        "language": (pick(words.LANGUAGES), "speaks {}"),
        "day": (pick(words.DAYS), "comes on {}"),
    }
    keys = rng.sample(sorted(more), rng.randint(2, 4))
    parts = [more[key][1].format(more[key][0]) for key in keys]
    said.append(", ".join(parts[:-1]) + " and " + parts[-1] + ".")
    wanted = ["name", *rng.sample(keys, rng.randint(1, len(keys)))]
    for key in keys:
        facts[key] = more[key][0]
    answer = json.dumps({key: facts[key] for key in wanted}, separators=(", ", ": "))
    asked = f"{' '.join(said)}\nGive {', '.join(wanted)} as JSON."
    return Item("json", (user(asked),), answer, answer)


# --------------------------------------------------------------------------------------------------------------- tools
def _tool(name: str, description: str, **parameters: tuple[str, str]) -> dict[str, Any]:
    properties = {key: {"type": kind, "description": text} for key, (kind, text) in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


TOOLS = {
    "get_weather": _tool("get_weather", "Weather in a city.", city=("string", "City")),
    "get_time": _tool("get_time", "Time in a city.", city=("string", "City")),
    "set_timer": _tool("set_timer", "Start a timer.", minutes=("integer", "Minutes")),
    "set_light": _tool("set_light", "Light in a room.", room=("string", "Room"), state=("string", "on or off")),
    "send_message": _tool("send_message", "Send a message.", to=("string", "Person"), text=("string", "Message")),
    "add_event": _tool("add_event", "Add to the calendar.", title=("string", "Title"), day=("string", "Day")),
    "buy": _tool("buy", "Order food.", item=("string", "Food"), count=("integer", "How many")),
    "translate": _tool("translate", "Translate a word.", word=("string", "Word"), language=("string", "Language")),
    "set_heating": _tool("set_heating", "Heat a room.", room=("string", "Room"), degrees=("integer", "Degrees")),
}


def _request(rng: random.Random, name: str) -> tuple[str, dict[str, Any], Any, str]:
    """What the user asks, the arguments of the call, a result, and what to say about it."""
    pick = rng.choice
    city, room, number = pick(words.CITIES), pick(words.ROOMS), rng.randint(2, 59)
    person, day = pick(words.NAMES), pick(words.DAYS)
    if name == "get_weather":
        weather, degrees = pick(words.WEATHER), rng.randint(1, 35)
        asked = pick(
            [f"What is the weather in {city}?", f"How is the weather in {city} today?", f"Is it warm in {city}?"]
        )
        return (
            asked,
            {"city": city},
            {"degrees": degrees, "sky": weather},
            f"In {city} it is {weather}, {degrees} degrees.",
        )
    if name == "get_time":
        clock = f"{rng.randint(1, 12)}:{rng.randint(10, 59)}"
        return pick([f"What time is it in {city}?", f"Tell me the time in {city}."]), {"city": city}, clock, (
            f"In {city} it is {clock}."
        )  # fmt: skip
    if name == "set_timer":
        asked = pick([f"Set a timer for {number} minutes.", f"Wake me in {number} minutes."])
        return asked, {"minutes": number}, "ok", f"The timer is set for {number} minutes."
    if name == "set_light":
        state = pick(["on", "off"])
        asked = pick([f"Turn {state} the light in the {room}.", f"Switch the {room} light {state}, please."])
        return asked, {"room": room, "state": state}, "ok", f"The light in the {room} is {state}."
    if name == "send_message":
        text = pick(["I am late", "see you soon", "happy birthday", "call me back", f"we meet on {day}", "good night"])
        asked = pick([f'Tell {person} "{text}".', f'Send "{text}" to {person}.'])
        return asked, {"to": person, "text": text}, "ok", f"The message to {person} is sent."
    if name == "add_event":
        title = pick([f"lunch with {person}", "dentist", f"{pick(words.SPORTS)}", "party", "meeting", f"call {person}"])
        return pick([f"Add {title} on {day}.", f"Put {title} into my calendar for {day}."]), {
            "title": title, "day": day}, "ok", f"I added {title} on {day}."  # fmt: skip
    if name == "buy":
        food = pick(words.FOODS)
        asked = pick([f"Order {number} {food}.", f"Please buy {number} {food}."])
        return asked, {"item": food, "count": number}, "ok", f"I ordered {number} {food}."
    if name == "translate":
        word, language = pick(words.OBJECTS), pick(words.LANGUAGES)
        asked = pick([f"What is {word} in {language}?", f"Translate {word} into {language}."])
        return asked, {"word": word, "language": language}, "done", "done"
    degrees = rng.randint(15, 25)
    asked = pick([f"Heat the {room} to {degrees} degrees.", f"Make it {degrees} degrees in the {room}."])
    return asked, {"room": room, "degrees": degrees}, "ok", f"The {room} will have {degrees} degrees."


def render_call(name: str, arguments: dict[str, Any]) -> str:
    """A call in Gemma's syntax: keys sorted, strings between quote tokens."""
    inner = ",".join(
        f'{key}:<|"|>{value}<|"|>' if isinstance(value, str) else f"{key}:{value}"
        for key, value in sorted(arguments.items())
    )
    return f"<|tool_call>call:{name}{{{inner}}}<tool_call|>"


def tool_call(rng: random.Random) -> Item:
    """A request, one to three tools, and the call; sometimes the tool's result and what to say about it."""
    name = rng.choice(sorted(TOOLS))
    others = rng.sample([other for other in sorted(TOOLS) if other != name], rng.randint(0, 2))
    offered = [name, *others]
    rng.shuffle(offered)
    asked, arguments, result, spoken = _request(rng, name)
    tools = tuple(TOOLS[one] for one in offered)
    call = render_call(name, arguments)
    if rng.random() < 0.7 or name == "translate":
        return Item("tool", (user(asked),), call, call, "<|tool_response>", tools)
    done = {
        "role": "assistant", "content": "", "tool_calls": [{"function": {"name": name, "arguments": arguments}}],
        "tool_responses": [{"name": name, "response": result}],
    }  # fmt: skip
    return Item("tool_answer", (user(asked), done), spoken, spoken, tools=tools)
