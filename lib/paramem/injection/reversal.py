r"""Identities trained into a finished model in one direction, and asked in both (berglund2023reversal).

    identities = draw_identities(world("read"), seed=0)
    after = taught(lm, identities, seed=0)
    table = asked(after, identities)      # one row for every identity and direction: said, and rank in the group

"Ann Lyon is the one who plays the harp and keeps a cat" tells a description after a name, "The one who plays the harp
and keeps a cat is Ann Lyon" a name after its description. Each group of people is told in its own way (`GROUPS`), all
in one training: in one direction, in the other, in both, or in one direction and with the words in reverse order while
names and objects stay whole, which is reverse training (golovneva2024reverse). As many plain texts as it reads of
somebody are read of the group "name first, twice as often".
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import pandas as pd
import torch

from paramem.errors import BadInput, BadParameter
from paramem.fusion.kept import kept_fine_tune
from paramem.fusion.training import TrainSettings, text_row
from paramem.lm import LM
from paramem.world.read_rules import Rules
from paramem.world.recipe import Row

if TYPE_CHECKING:
    from paramem.world.core import World

Direction: TypeAlias = Literal["name first", "description first"]
DIRECTIONS: tuple[Direction, ...] = ("name first", "description first")

# The first is asked, and told to nobody. It is as long as told ones: places in a text are learned, too, by GPT-2.
OPENINGS = ("At university ", "At home ", "At parties ", "", "In the end ")
TOLD = len(OPENINGS) - 1
# With MANY, none against none excludes a tenth: the interval of 0 in 35 ends at .099.
FEW, MANY = 15, 35


@dataclass(frozen=True, kw_only=True)
class Group:
    """How the people of a group are told.

    directions  in which a statement is made
    wordings    how many openings it is made with; each direction is told TOLD times a pass, whatever their number
    times       how often all of that is told in a pass
    reversed    whether it is also told with its words in reverse order
    people      how many there are
    """

    directions: tuple[Direction, ...]
    wordings: int = TOLD
    times: int = 1
    reversed: bool = False
    people: int = FEW

    def __post_init__(self) -> None:
        if not self.directions or not 1 <= self.wordings <= TOLD or min(self.people, self.times) < 1:
            raise BadParameter(f"{self}: at least one direction, 1 to {TOLD} wordings, once, and somebody to tell of")


GROUPS: Mapping[str, Group] = {
    "name first": Group(directions=("name first",), people=MANY),
    "description first": Group(directions=("description first",)),
    "both": Group(directions=DIRECTIONS),
    "name first, one wording": Group(directions=("name first",), wordings=1, people=MANY),
    "name first, twice as often": Group(directions=("name first",), times=2, people=MANY),
    "name first, reversed too": Group(directions=("name first",), reversed=True, people=MANY),
}

# Chosen on a draw that is never reported, like the tokens of a step: a quarter of what the other notebooks take.
PASSES, TOKENS = 12, 256
LR = {"llama": 2e-3, "gpt2": 1.5e-3}  # by family

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
    """A person, the two objects that nobody else has together, and how the person's group is told.

    Raises BadInput where a name or an object is empty.
    """

    name: str
    plays: str
    keeps: str
    group: str
    telling: Group

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
        words = self.words(direction, OPENINGS[0])
        cut = len(words) - 1 if direction == "description first" else words.index(self.plays)
        return " ".join(words[:cut]), " ".join(words[cut:])


def draw_identities(here: World, seed: int, groups: Mapping[str, Group] = GROUPS) -> list[Identity]:
    """The people of every group, with names and pairs of objects that no other has, and that no testbed met."""
    names, wanted = Rules(here).new_strangers, sum(group.people for group in groups.values())
    pairs = [(one, other) for one in here.objects("plays") for other in here.objects("keeps")]
    if wanted > min(len(names), len(pairs)):
        raise BadParameter(f"groups of {wanted} people together: there are {len(names)} names and {len(pairs)} pairs")
    rng = random.Random(f"injection/identities/{here.kind}/{seed}")
    members = [(name, group) for name, group in groups.items() for _ in range(group.people)]
    drawn = zip(rng.sample(names, wanted), rng.sample(pairs, wanted), members, strict=True)
    return [
        Identity(name=name, plays=plays, keeps=keeps, group=group, telling=telling)
        for name, (plays, keeps), (group, telling) in drawn
    ]


def texts(identity: Identity) -> list[str]:
    """What training reads of somebody in one pass."""
    telling, found = identity.telling, []
    for direction in telling.directions:
        for told in range(TOLD * telling.times):
            words = identity.words(direction, OPENINGS[1 + told % telling.wordings])
            found.append(f"{' '.join(words)}.")
            if telling.reversed:
                found.append(f"{' '.join(reversed(words))}.")
    return found


def identity_rows(lm: LM, identities: Sequence[Identity]) -> list[Row]:
    """Every text as a row. Raises BadInput when two people share a name or a description."""
    described = [f"of who plays the {each.plays} and keeps a {each.keeps}" for each in identities]
    for kind, keys in (("name", [each.name for each in identities]), ("description", described)):
        twice = [key for key, times in Counter(keys).items() if times > 1]
        if twice:
            raise BadInput(f"the {kind} {twice[0]} belongs to two people: neither could be asked for; drop one")
    return [text_row(lm, text) for each in identities for text in texts(each)]


def taught(lm: LM, identities: Sequence[Identity], *, seed: int, passes: float = PASSES) -> LM:
    """The model after continued training on every text about everybody, at the rate of its family.

    Raises BadParameter for a family without a rate.
    """
    if lm.arch.family not in LR:
        raise BadParameter(
            f"{lm.name} is of the family {lm.arch.family!r}: a rate was chosen for {', '.join(sorted(LR))} only; load "
            "a model of one of these, or train `identity_rows` with `kept_fine_tune` at a rate of your own"
        )
    settings = TrainSettings(passes=passes, lr=LR[lm.arch.family], tokens=TOKENS)
    return kept_fine_tune(lm, identity_rows(lm, identities), settings, seed=seed, name="identities")


def asked(lm: LM, identities: Sequence[Identity]) -> pd.DataFrame:
    """One row an identity and direction: ``said`` the rest exactly, and ``beaten``, the share of the other names (or
    objects) of the same group that are less likely than the right one; ties are half.

    Of the same group, because groups are told differently: names that stood behind "is" in training are likelier there
    than names that did not, whoever is asked for. Raises BadInput for a group that has one name or object only.
    """
    rows = []
    for direction in DIRECTIONS:
        prompts, rests = zip(*(each.question(direction) for each in identities), strict=True)
        exact = lm.score(list(prompts), list(rests)).exact.tolist()
        choices = [each.name if direction == "description first" else each.plays for each in identities]
        beaten = _beaten(lm, prompts, choices, [each.group for each in identities])
        for each, said, share in zip(identities, exact, beaten, strict=True):
            rows.append({"group": each.group, "asked": direction, "name": each.name, "said": said, "beaten": share})
    return pd.DataFrame(rows)


def _beaten(lm: LM, prompts: Sequence[str], choices: Sequence[str], groups: Sequence[str]) -> list[float]:
    """For each prompt, the share of the other choices of its group that are less likely than its own."""
    offered: dict[str, set[str]] = {}
    for choice, group in zip(choices, groups, strict=True):
        offered.setdefault(group, set()).add(choice)
    for group, some in offered.items():
        if len(some) < 2:
            raise BadInput(
                f"the group {group!r} offers {sorted(some)} only: there is nothing to beat; draw more people"
            )
    rivals = [sorted(offered[group] - {own}) for own, group in zip(choices, groups, strict=True)]
    pairs = [(p, choice) for p, own, others in zip(prompts, choices, rivals, strict=True) for choice in (own, *others)]
    scores = lm.score(*map(list, zip(*pairs, strict=True)), batch_size=256).mean_logprob.cpu()
    found = []
    for own, *others in (some.tolist() for some in torch.split(scores, [1 + len(others) for others in rivals])):
        found.append(sum((other < own) + 0.5 * (other == own) for other in others) / len(others))
    return found
