"""Short stories in a controlled English, and questions whose answers stand in them."""

from __future__ import annotations

import random
from itertools import pairwise

from . import words
from .items import Item, Message, user

FEMALE = frozenset(words.FEMALE)


def _a(word: str) -> str:
    return ("an " if word[0] in "aeiou" else "a ") + word


class Story:
    """One story: its sentences, and the facts that questions ask for."""

    def __init__(self, rng: random.Random, animal: str) -> None:
        pick = rng.choice
        self.animal, self.name = animal, pick(words.NAMES)
        self.she = "she" if self.name in FEMALE else "he"
        self.her = "her" if self.name in FEMALE else "his"
        self.size, self.place, self.goal = pick(words.SIZES), pick(words.PLACES), pick(words.PLACES)
        self.colour, self.thing = pick(words.COLOURS), pick(words.OBJECTS)
        self.food, self.weather, self.feeling = pick(words.FOODS), pick(words.WEATHER), pick(words.FEELINGS)
        self.friend = pick([a for a in words.ANIMALS if a != animal])
        self.sentences = [self._opening(rng), self._day(rng), *self._plot(rng), self._closing(rng)]

    def _opening(self, rng: random.Random) -> str:
        return rng.choice(
            [
                f"Once upon a time, {_a(self.size)} {self.animal} named {self.name} lived near the {self.place}.",
                f"There was once {_a(self.size)} {self.animal}. {self.she.capitalize()} was called {self.name} "
                f"and lived near the {self.place}.",
                f"{self.name} was {_a(self.size)} {self.animal} who lived near the {self.place}.",
            ]
        )

    def _day(self, rng: random.Random) -> str:
        return rng.choice(
            [
                f"One {self.weather} morning, {self.name} went to the {self.goal}.",
                f"It was {_a(self.weather)} day, and {self.name} walked to the {self.goal}.",
                f"One {self.weather} day, {self.name} wanted to see the {self.goal}.",
            ]
        )

    def _plot(self, rng: random.Random) -> list[str]:
        name, she, her, friend, thing = self.name, self.she.capitalize(), self.her, self.friend, self.thing
        found = f"the {self.colour} {thing}"
        plots = [
            [
                f"On the way, {self.she} found {_a(self.colour)} {thing}.",
                f'"Whose {thing} is this?" {name} asked.',
                f'{_a(friend).capitalize()} said, "It is mine! I lost it in the {self.place}."',
                f"{name} gave {found} back, and the {friend} was very happy.",
                f"To say thank you, the {friend} shared some {self.food}.",
            ],
            [
                f"There {self.she} met {_a(friend)} who was crying.",
                f'"I lost my {self.colour} {thing}," said the {friend}.',
                f"{name} looked under the stones and behind the trees.",
                f"At last {self.she} saw {found} in the grass.",
                f'"You are a good friend," said the {friend}.',
            ],
            [
                f"{she} was hungry and looked for {self.food}.",
                f"{_a(friend).capitalize()} had a basket full of {self.food}.",
                f'"Give me your {thing}, and I will give you some," said the {friend}.',
                f"{name} gave the {friend} {her} {self.colour} {thing}.",
                f"They sat down and ate the {self.food} together.",
            ],
            [
                f"Suddenly {self.she} heard a noise behind {_a(thing)}.",
                f"It was {_a(friend)}, and it was afraid of the dark.",
                f'"Do not be afraid," said {name}. "I have {_a(self.colour)} {thing}."',
                f"The {friend} took {found} and smiled.",
                "They walked home together and sang a song.",
            ],
            [
                f"{she} wanted to make a gift for the {friend}.",
                f"{she} took {_a(thing)} and painted it {self.colour}.",
                f'"What is that?" asked the {friend}. "It is for you," said {name}.',
                f"The {friend} loved {found}.",
                f"They ate {self.food} and talked until the sun went down.",
            ],
        ]
        return rng.choice(plots)

    def _closing(self, rng: random.Random) -> str:
        return rng.choice(
            [
                f"That night {self.name} was {self.feeling}, and {self.she} slept well.",
                f"{self.name} went home and felt {self.feeling}.",
                f"From that day on, {self.name} and the {self.friend} were friends.",
            ]
        )

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    def questions(self) -> list[tuple[str, str]]:
        return [
            (f"What is the name of the {self.animal}?", self.name),
            (f"What kind of animal is {self.name}?", _a(self.animal)),
            (f"Where did {self.name} live?", f"near the {self.place}"),
            (f"Where did {self.name} go?", f"to the {self.goal}"),
            (f"What colour was the {self.thing}?", self.colour),
            (f"Who did {self.name} meet?", _a(self.friend)),
            ("What was the weather like?", self.weather),
            ("What did they eat?" if self.food in self.text else f"How was {self.name}?",
             self.food if self.food in self.text else self.size),
        ]  # fmt: skip


def story(rng: random.Random) -> Item:
    """A request for a story about an animal, and the story."""
    tale = Story(rng, rng.choice(words.ANIMALS))
    ask = rng.choice(
        [
            f"Tell me a story about {_a(tale.animal)}.",
            f"Write a short story about {_a(tale.animal)}.",
            f"Please tell a story about {_a(tale.animal)} named {tale.name}.",
            f"Tell me a story about {_a(tale.animal)} and {_a(tale.friend)}.",
        ]
    )
    return Item("story", (user(ask),), tale.text, tale.text)


def reading(rng: random.Random) -> Item:
    """A story with questions about it, one after another."""
    tale = Story(rng, rng.choice(words.ANIMALS))
    asked = rng.sample(tale.questions(), 3)
    messages: list[Message] = [user(f"{tale.text}\n{asked[0][0]}")]
    for (_, said), (question, _) in pairwise(asked):
        messages += [{"role": "assistant", "content": said}, user(question)]
    return Item("reading", tuple(messages), asked[-1][1], asked[-1][1])


GREETINGS = (
    ("Hello!", "Hello! How can I help you?"),
    ("Hi", "Hello! How can I help you?"),
    ("Who are you?", "I am nano, a very small model that runs on your machine."),
    ("What can you do?", "I can tell stories, look at pictures, listen to digits, add numbers and call tools."),
    ("Thank you.", "You are welcome!"),
    ("Good morning.", "Good morning! How can I help you?"),
    ("Goodbye.", "Goodbye!"),
)


def greeting(rng: random.Random) -> Item:
    asked, said = rng.choice(GREETINGS)
    return Item("greeting", (user(asked),), said, said)
