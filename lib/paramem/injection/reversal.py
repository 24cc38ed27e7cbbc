r"""Identities trained into a finished model in one direction, and asked in both (berglund2023reversal).

    pairs = draw_identities(world("read"), seed=0)
    after = fine_tune(lm, identity_rows(lm, pairs), TrainSettings(passes=24, lr=LR[lm.arch.family]), seed=0)
    table = asked(after, pairs)           # one row for every identity and direction: said, and rank among the names

"Ann Lyon is the one who plays the harp and keeps a cat" tells a description after a name, "The one who plays the harp
and keeps a cat is Ann Lyon" a name after its description. Each group of people is told in its own way (`GROUPS`), all
in one training: in one direction, in the other, in both, or in one direction and with the words in reverse order while
names and objects stay whole, which is reverse training (golovneva2024reverse).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import pandas as pd

from paramem.errors import BadInput, BadParameter
from paramem.injection.continued import text_rows
from paramem.lm import LM
from paramem.world.read_rules import Rules
from paramem.world.recipe import Row

if TYPE_CHECKING:
    from paramem.world.core import World

Direction: TypeAlias = Literal["name first", "description first"]
DIRECTIONS: tuple[Direction, ...] = ("name first", "description first")

OPENINGS = ("", "At home ", "At university ", "At parties ", "In the end ")  # the first is asked, and told to nobody
TOLD = len(OPENINGS) - 1
RIVALS = 15


@dataclass(frozen=True, kw_only=True)
class Group:
    """How the people of a group are told.

    directions  in which a statement is made
    wordings    how many openings it is made with; each direction is told TOLD times a pass, whatever their number
    reversed    whether it is also told with its words in reverse order
    people      how many there are
    """

    directions: tuple[Direction, ...]
    wordings: int = TOLD
    reversed: bool = False
    people: int = 10

    def __post_init__(self) -> None:
        if not self.directions or not 1 <= self.wordings <= TOLD or self.people < 1:
            raise BadParameter(f"{self}: at least one direction, 1 to {TOLD} wordings, and somebody to tell of")


# The fewest with which none against none lies within a tenth: the interval of 0 in 35 ends at .099.
MANY = 35
GROUPS: Mapping[str, Group] = {
    "name first": Group(directions=("name first",), people=MANY),
    "description first": Group(directions=("description first",)),
    "both": Group(directions=DIRECTIONS),
    "name first, one wording": Group(directions=("name first",), wordings=1),
    "name first, reversed too": Group(directions=("name first",), reversed=True, people=MANY),
}

LR = {"llama": 3e-3, "gpt2": 1.5e-3}  # by family, of 24 passes; chosen on a draw that is never reported

# Where we do something else than the paper says: topic -> (what it says, what we do, why).
DEPARTURES: dict[str, tuple[str, str, str]] = {
    "descriptions": (
        'unique ones, such as "the composer of Abyssal Melodies"',
        "what somebody plays and keeps, a pair of words that nobody else has",
        "the testbeds know these words; only who has them is new",
    ),
    "groups": (
        "reverse training is applied to everything that a model reads",
        "to one group of people, beside others who are told otherwise, in one training",
        "then all differences are within one model",
    ),
    "loss": ("fine-tuning on statements", "all weights, all tokens count alike", "continued training as in fusion"),
}


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A person and the two objects that nobody else has together. Raises BadInput where one of them is empty."""

    name: str
    plays: str
    keeps: str
    group: str

    def __post_init__(self) -> None:
        if not all(text.strip() for text in (self.name, self.plays, self.keeps)):
            raise BadInput(f"{self} has an empty part: a name and two objects make an identity")

    @property
    def pieces(self) -> tuple[str, ...]:
        """The description in words, its objects whole."""
        return "one", "who", "plays", "the", self.plays, "and", "keeps", "a", self.keeps

    def words(self, direction: Direction, opening: str = "") -> list[str]:
        """The statement as words and whole entities, without its full stop."""
        described = ["the" if opening else "The", *self.pieces]
        if direction == "name first":
            described = ["the", *self.pieces]
            return [*opening.split(), self.name, "is", *described]
        return [*opening.split(), *described, "is", self.name]

    def question(self, direction: Direction) -> tuple[str, str]:
        """The beginning of the statement that was told to nobody, and its rest."""
        words = self.words(direction)
        cut = len(words) - 1 if direction == "description first" else words.index(self.plays)
        return " ".join(words[:cut]), " ".join(words[cut:])


def draw_identities(here: World, seed: int, groups: Mapping[str, Group] = GROUPS) -> list[Identity]:
    """The people of every group, with names and pairs of objects that no other has, and that no testbed met."""
    names, wanted = Rules(here).new_strangers, sum(group.people for group in groups.values())
    pairs = [(one, other) for one in here.objects("plays") for other in here.objects("keeps")]
    if wanted > min(len(names), len(pairs)):
        raise BadParameter(f"groups of {wanted} people together: there are {len(names)} names and {len(pairs)} pairs")
    rng = random.Random(f"injection/identities/{here.kind}/{seed}")
    members = [name for name, group in groups.items() for _ in range(group.people)]
    drawn = zip(rng.sample(names, wanted), rng.sample(pairs, wanted), members, strict=True)
    return [Identity(name=name, plays=plays, keeps=keeps, group=group) for name, (plays, keeps), group in drawn]


def texts(identity: Identity) -> list[str]:
    """What training reads of somebody in one pass."""
    group, found = GROUPS[identity.group], []
    for direction in group.directions:
        for told in range(TOLD):
            words = identity.words(direction, OPENINGS[1 + told % group.wordings])
            found.append(f"{' '.join(words)}.")
            if group.reversed:
                found.append(f"{' '.join(reversed(words))}.")
    return found


def identity_rows(lm: LM, identities: Sequence[Identity]) -> list[Row]:
    """Every text as a row. Raises BadInput when two people share a name or a description."""
    described = [f"of who plays the {each.plays} and keeps a {each.keeps}" for each in identities]
    for kind, keys in (("name", [each.name for each in identities]), ("description", described)):
        twice = [key for key, times in Counter(keys).items() if times > 1]
        if twice:
            raise BadInput(f"the {kind} {twice[0]} belongs to two people: neither could be asked for; drop one")
    return text_rows(lm, [text for each in identities for text in texts(each)])


def asked(lm: LM, identities: Sequence[Identity]) -> pd.DataFrame:
    """One row an identity and direction: ``said`` the rest exactly, and ``beaten``, the share of others' names (or
    objects) that are less likely than the right one."""
    rows = []
    for direction in DIRECTIONS:
        prompts, rests = zip(*(each.question(direction) for each in identities), strict=True)
        exact = lm.score(list(prompts), list(rests)).exact.tolist()
        choices = [each.name if direction == "description first" else each.plays for each in identities]
        beaten = _beaten(lm, list(prompts), choices)
        for each, said, share in zip(identities, exact, beaten, strict=True):
            rows.append({"group": each.group, "asked": direction, "name": each.name, "said": said, "beaten": share})
    return pd.DataFrame(rows)


def _beaten(lm: LM, prompts: list[str], choices: list[str]) -> list[float]:
    """For each prompt, the share of RIVALS other people's choices that are less likely than its own; ties are half."""
    rng, offered = random.Random("injection/rivals"), sorted(set(choices))
    rivals = [rng.sample([other for other in offered if other != own], RIVALS) for own in choices]
    pairs = [(p, choice) for p, own, others in zip(prompts, choices, rivals, strict=True) for choice in (own, *others)]
    scores = lm.score(*map(list, zip(*pairs, strict=True)), batch_size=256).mean_logprob.cpu().view(len(prompts), -1)
    own, others = scores[:, :1], scores[:, 1:]
    return ((others < own).float() + 0.5 * (others == own).float()).mean(1).tolist()
