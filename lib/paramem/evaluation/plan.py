"""From requests to the pairs and prompts that a model must answer, each only once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from paramem.errors import BadInput
from paramem.evaluation.answers import Pair
from paramem.facts import EditRequest, Probe

# The subgroups in which old and new object compete on other subjects' prompts: ROME's neighbourhood score.
_RIVALRY = ("relation", "distracting")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One probe of one request.

    rival   the object that competes with the target: the old one on the edit's own prompts, the new one on those of its
            neighbours
    forced  what is fed as the target; where the probe has no right answer, only the place before its first token counts
    """

    request: EditRequest
    number: int
    group: str
    subgroup: str
    probe: Probe
    rival: str | None

    @property
    def forced(self) -> str:
        return self.probe.target or self.request.target_new

    @property
    def pair(self) -> Pair:
        return self.probe.prompt, self.forced

    @property
    def rival_pair(self) -> Pair | None:
        return None if self.rival is None else (self.probe.prompt, self.rival)

    @property
    def conditions(self) -> tuple[Pair, ...]:
        return tuple((probe.prompt, probe.target) for probe in self.probe.requires if probe.target)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that the requests ask; `pairs` and `prompts` are without repetitions, in order of first use."""

    items: tuple[Item, ...]

    @classmethod
    def of(cls, requests: Sequence[EditRequest]) -> Plan:
        """Raises BadInput when there is no request or two of them share an id."""
        if not requests:
            raise BadInput("there is no edit request to evaluate")
        ids = [request.id for request in requests]
        if len(set(ids)) < len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise BadInput(f"two edit requests have the id {twice!r}; give each its own")
        return cls(items=tuple(item for request in requests for item in _items(request)))

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        wanted = [pair for item in self.items for pair in (item.pair, item.rival_pair) if pair is not None]
        return tuple(dict.fromkeys(wanted))

    @cached_property
    def place(self) -> dict[Pair, int]:
        """Where each pair stands among `pairs`."""
        return {pair: index for index, pair in enumerate(self.pairs)}

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(item.probe.prompt for item in self.items))

    @cached_property
    def conditions(self) -> tuple[Pair, ...]:
        """What must hold before the edit, where probes ask for it."""
        return tuple(dict.fromkeys(pair for item in self.items for pair in item.conditions))


def _items(request: EditRequest) -> Iterable[Item]:
    for number, (group, subgroup, probe) in enumerate(request.groups()):
        rival = _rival(request, group, subgroup, probe)
        yield Item(request=request, number=number, group=group, subgroup=subgroup, probe=probe, rival=rival)


def _rival(request: EditRequest, group: str, subgroup: str, probe: Probe) -> str | None:
    if not probe.target or not (group in ("reliability", "generalisation") or subgroup in _RIVALRY):
        return None
    other = request.target_true if probe.target == request.target_new else request.target_new
    return other if other != probe.target else None


def fluency_prompts(request: EditRequest) -> tuple[str, ...]:
    """The prompts from which texts are generated; the edit's own prompt where the data set names none."""
    return request.generation_prompts or (request.prompt,)


def request_hash(request: EditRequest) -> str:
    """sha256 over everything that the request says."""
    return hashlib.sha256(request.model_dump_json().encode()).hexdigest()


def data_hash(request_hashes: Iterable[str]) -> str:
    """sha256 over a set of requests, whatever their order."""
    return hashlib.sha256("\n".join(sorted(set(request_hashes))).encode()).hexdigest()
