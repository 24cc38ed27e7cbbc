"""A criterion has three outcomes: it holds, it does not, or the data cannot tell.

    gap.above(0, negligible=0.1)          # of a `Span`: a mean with its interval
    gap.above(0) & other.above(0)         # holds where both hold, does not where one does not, else undecided
    every(gap.above(0) for gap in gaps)   # the same over many; of none at all: undecided

Kleene's three-valued logic: a compound is decided exactly where what is undecided in it could not change it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import NoReturn

from paramem.errors import BadParameter


@dataclass(frozen=True)
class Decision:
    """Whether a criterion holds, and whether the data suffice to say so; what holds is decided."""

    holds: bool
    decided: bool = True

    def __post_init__(self) -> None:
        if self.holds and not self.decided:
            raise BadParameter(
                "holds=True with decided=False: what holds is decided; give holds=False, or leave decided"
            )

    @classmethod
    def of(cls, value: Decision | bool) -> Decision:
        """A truth value as a decision."""
        return value if isinstance(value, Decision) else cls(bool(value))

    @property
    def against(self) -> bool:
        """Whether the data say that it does not hold."""
        return self.decided and not self.holds

    def __and__(self, other: Decision | bool) -> Decision:
        """Both hold."""
        other = Decision.of(other)
        holds = self.holds and other.holds
        return Decision(holds, holds or self.against or other.against)

    def __or__(self, other: Decision | bool) -> Decision:
        """One of them holds."""
        return ~(~self & ~Decision.of(other))

    __rand__, __ror__ = __and__, __or__

    def __invert__(self) -> Decision:
        """The opposite; of what is undecided, undecided."""
        return Decision(self.against, self.decided)

    def __bool__(self) -> NoReturn:
        """Refused: `and`, `or`, `not` and `all` know two outcomes.

        Raises:
            BadParameter: always.
        """
        raise BadParameter("a decision has three outcomes: join several with & and | or every(), or take .holds")

    def __str__(self) -> str:
        """``holds``, ``does not hold`` or ``undecided``."""
        return ("holds" if self.holds else "does not hold") if self.decided else "undecided"


UNDECIDED = Decision(holds=False, decided=False)


def every(decisions: Iterable[Decision | bool]) -> Decision:
    """All hold. Of none at all nothing is known, so that a criterion about nobody does not hold by itself."""
    found = [Decision.of(each) for each in decisions]
    return reduce(Decision.__and__, found) if found else UNDECIDED
