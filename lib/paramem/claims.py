"""A claim is data: measured in a notebook, stored in its output, collected by the runner, counted over testbeds.

A notebook calls `claim("meng2022rome.edit-success", holds, measured={...})`. The output is a card to a reader and
carries the same facts under `MIME` to a program. A notebook run measures one model; over all testbeds of a notebook,
`verdict` turns "k of n hold" into one word by a fixed rule, so that nobody words a result by hand.

Which testbeds are asked is settled in the taxonomy before anything is measured, and they are the n. What each of them
answers is one of three: it holds, it does not hold, or what was measured there cannot tell (`paramem.decisions`).
"""

from __future__ import annotations

import html
import math
import numbers
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from paramem.decisions import Decision
from paramem.errors import BadInput, BadParameter

if TYPE_CHECKING:
    from paramem.taxonomy import Claim

MIME = "application/vnd.paramem.claim+json"
Value: TypeAlias = float | int | bool | str
Origin: TypeAlias = Literal["paper", "ours"]

REPRODUCED_FROM = Fraction(5, 6)
WEAKER_FROM = Fraction(1, 2)

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_Z95 = 1.959964


class Verdict(StrEnum):
    """What became of a claim here. The last two are set in the taxonomy, the others follow from k of n.

    A statement of ours, which the paper does not make, cannot be reproduced: for it the first three read as the next
    three do (`Verdict.of`).
    """

    REPRODUCED = "reproduced"
    WEAKER = "weaker"
    NOT_REPRODUCED = "not reproduced"
    HOLDS = "holds here"
    HOLDS_ON_SOME = "holds on some"
    DOES_NOT_HOLD = "does not hold here"
    UNDECIDED = "undecided"
    NOT_AT_THIS_SCALE = "not at this scale"
    NOT_ATTEMPTED = "not attempted"

    def of(self, origin: Origin) -> Verdict:
        """The word for a claim of the paper, or for a statement of ours."""
        return _OURS.get(self, self) if origin == "ours" else self


UNMEASURED = "not measured yet"
VERDICTS = (*(verdict.value for verdict in Verdict), UNMEASURED)  # the order in which they are counted and listed

_OURS = {
    Verdict.REPRODUCED: Verdict.HOLDS,
    Verdict.WEAKER: Verdict.HOLDS_ON_SOME,
    Verdict.NOT_REPRODUCED: Verdict.DOES_NOT_HOLD,
}


def verdict(k: int, n: int, undecided: int = 0) -> Verdict:
    """The verdict on a claim that holds on ``k`` of ``n`` testbeds: reproduced from 5/6, weaker from 1/2.

    Testbeds that could not tell are part of n: they help no claim to be reproduced. Without enough that hold, the claim
    is not reproduced if it would still fall short had all of the undecided held, and undecided otherwise.

    Raises:
        BadParameter: not 0 <= k <= k + undecided <= n, or n is 0: nothing was measured, which is no verdict.
    """
    if not 0 <= k <= k + undecided <= n or undecided < 0 or n == 0:
        raise BadParameter(f"a claim cannot hold on {k} of {n} testbeds and be undecided on {undecided}")
    share, possible = Fraction(k, n), Fraction(k + undecided, n)
    if share >= WEAKER_FROM:
        return Verdict.REPRODUCED if share >= REPRODUCED_FROM else Verdict.WEAKER
    return Verdict.NOT_REPRODUCED if possible < WEAKER_FROM else Verdict.UNDECIDED


def held_on(k: int, n: int, undecided: int = 0) -> str:
    """``3 of 4``, or ``1 of 4, 2 undecided``."""
    return f"{k} of {n}" + (f", {undecided} undecided" if undecided else "")


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean by Student's t; None below two values, where there is no spread to judge by."""
    n = len(values)
    if n < 2:
        return None
    quantile = _T95[n - 2] if n - 1 <= len(_T95) else _Z95 + 2.5 / (n - 1)
    half = quantile * statistics.stdev(values) / math.sqrt(n)
    mean = statistics.fmean(values)
    return mean - half, mean + half


def share_interval(k: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share of ``k`` in ``n``: stays inside [0, 1] and works for few testbeds."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = k / n, _Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one run found about one claim. Numbers are rounded already: what is stored is what is shown and compared."""

    claim: str
    holds: bool
    decided: bool = True
    measured: Mapping[str, Value] = field(default_factory=dict)
    note: str = ""

    @property
    def decision(self) -> Decision:
        """Its outcome: one of three."""
        return Decision(self.holds, self.decided)

    def to_json(self) -> dict[str, Any]:
        """The machine-readable half of the card. ``decided`` stands there only where it is false."""
        doubt = {} if self.decided else {"decided": False}
        return {"claim": self.claim, "holds": self.holds, **doubt, "measured": dict(self.measured), "note": self.note}

    @classmethod
    def from_json(cls, payload: Any, where: str) -> Outcome:
        """Read what `to_json` wrote.

        Raises:
            BadInput: the payload is not a claim; ``where`` says which file held it.
        """
        if not isinstance(payload, dict) or not isinstance(payload.get("claim"), str):
            raise BadInput(f"{where}: an output of type {MIME} is not a claim: {payload!r:.80}")
        if not isinstance(payload.get("holds"), bool) or not isinstance(payload.get("measured"), dict):
            raise BadInput(
                f"{where}: claim {payload['claim']} needs 'holds' (true or false) and 'measured' (a mapping)"
            )
        decided = payload.get("decided", True)
        if not isinstance(decided, bool) or (payload["holds"] and not decided):
            raise BadInput(f"{where}: claim {payload['claim']}: 'decided' is true, or false where 'holds' is false too")
        return cls(
            claim=payload["claim"],
            holds=payload["holds"],
            decided=decided,
            measured=payload["measured"],
            note=str(payload.get("note", "")),
        )


def outcome(
    claim_id: str,
    holds: Any,
    measured: Mapping[str, Any] | None = None,
    *,
    decided: Any = True,
    note: str = "",
    digits: int = 3,
) -> Outcome:
    """An `Outcome` from whatever a notebook measured: numpy scalars and tensors of one element become plain numbers.

    Args:
        holds: a truth value, or a `Decision`, which brings ``decided`` with it.
        digits: decimals kept; results differ between machines only beyond them.

    Raises:
        BadParameter: ``holds`` is neither, or true and not decided, or a measured value is not finite or not a scalar.
    """
    if isinstance(holds, Decision):
        found = holds
    else:
        found = Decision(_truth(claim_id, "holds", holds), _truth(claim_id, "decided", decided))
    return Outcome(
        claim=claim_id,
        holds=found.holds,
        decided=found.decided,
        measured={str(key): _plain(claim_id, str(key), value, digits) for key, value in (measured or {}).items()},
        note=note,
    )


def _truth(claim_id: str, name: str, value: Any) -> bool:
    one = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if not isinstance(one, bool):
        raise BadParameter(f"claim {claim_id}: {name} is {value!r}; give the comparison itself, which is True or False")
    return one


def _plain(claim_id: str, key: str, value: Any, digits: int) -> Value:
    if hasattr(value, "item") and getattr(value, "size", 1) != 0:
        try:
            value = value.item()
        except (ValueError, RuntimeError):
            raise BadParameter(f"claim {claim_id}: measured {key!r} has several elements; give one number") from None
    if isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return round(float(value), digits) + 0.0  # + 0.0 turns -0.0 into 0.0
    raise BadParameter(
        f"claim {claim_id}: measured {key!r} is {value!r}; give a finite number, a truth value or a word"
    )


_CARD = {
    "holds": ("#1a7f37", "holds here"),
    "does not hold": ("#b35900", "does not hold here"),
    "undecided": ("#6639ba", "undecided here: what was measured cannot tell"),
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """An outcome beside what the paper reports, as a notebook displays it."""

    outcome: Outcome
    statement: str = ""
    reported: str = ""
    place: str = ""

    def __str__(self) -> str:
        """One line, numbers rounded: what strict nbval compares."""
        found = ", ".join(f"{key} = {show(value)}" for key, value in self.outcome.measured.items())
        line = f"{self.outcome.claim}: {self.outcome.decision}"
        line += f" ({found})" if found else ""
        return line + (f" - {self.outcome.note}" if self.outcome.note else "")

    __repr__ = __str__

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """What Jupyter asks a displayed object for."""
        return {"text/plain": str(self), "text/html": self.html(), MIME: self.outcome.to_json()}

    def html(self) -> str:
        """The card. Every text is escaped: it comes from files that others write."""
        colour, word = _CARD[str(self.outcome.decision)]
        rows = [("paper", self.reported), ("place", self.place)] if self.reported or self.place else []
        rows += [(key.replace("_", " "), show(value)) for key, value in self.outcome.measured.items()]
        rows += [("note", self.outcome.note)] if self.outcome.note else []
        cells = "".join(
            f'<tr><td style="text-align:left;opacity:.7;padding:0 1em 0 0">{html.escape(left)}</td>'
            f'<td style="text-align:left">{html.escape(right)}</td></tr>'
            for left, right in rows
            if right
        )
        return (
            f'<div style="border-left:4px solid {colour};padding:.3em .8em;margin:.4em 0">'
            f'<div><b style="color:{colour}">{word}</b> <code>{html.escape(self.outcome.claim)}</code></div>'
            f'<div style="margin:.2em 0">{html.escape(self.statement)}</div><table>{cells}</table></div>'
        )


def show(value: Value) -> str:
    """A measured value as text: truth values as words, numbers without a trail of zeros."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)


def claim(
    claim_id: str,
    holds: Any,
    measured: Mapping[str, Any] | None = None,
    *,
    decided: Any = True,
    note: str = "",
    digits: int = 3,
) -> None:
    """Record in a notebook whether a claim of the taxonomy holds, and display it as a card.

    Args:
        claim_id: bib key and claim, as in ``meng2022rome.edit-success``.
        holds: the comparison that decides: True or False, or a `Decision`.
        decided: False where what was measured cannot tell: an interval straddles the limit. A `Decision` brings it.
        measured: the numbers behind it, name to value; rounded to ``digits`` decimals.
        note: one sentence a reader needs to judge the number.

    Raises:
        BadParameter: the taxonomy has no such claim, a value is not a finite number, or it holds undecided.

    Usage::

        claim("meng2022rome.edit-success", success >= 0.95, measured={"edit_success": success, "edits": 40})
        claim("zheng2023ike.beats", gap.above(0, negligible=0.1), measured={"gap": gap.mean, "low": gap.low})
    """
    from paramem.taxonomy import load_taxonomy

    known = load_taxonomy().claims
    if claim_id not in known:
        raise BadParameter(f"no claim {claim_id!r} in taxonomy/. {_nearest(claim_id, known)}")
    found = outcome(claim_id, holds, measured, decided=decided, note=note, digits=digits)
    display_card(card_of(found, known[claim_id]))


def card_of(found: Outcome, entry: Claim) -> Card:
    """The card of an outcome, with the statement and the reported values of its taxonomy entry."""
    return Card(
        outcome=found,
        statement=entry.says,
        reported="; ".join(str(number) for number in entry.reported),
        place="a statement of ours, not of the paper" if entry.origin == "ours" else entry.where or "",
    )


def display_card(card: Card) -> None:
    """Show a card: rich in a notebook, one line elsewhere."""
    try:
        from IPython.core.getipython import get_ipython
        from IPython.display import display
    except ImportError:
        print(card)
        return
    if get_ipython() is None:
        print(card)
    else:
        display(card)


def _nearest(claim_id: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(claim_id, list(known), n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(close)}?" if close else "Add it to its paper's entry, or correct the name."


def claims_in(notebook: Mapping[str, Any], where: str) -> dict[str, Outcome]:
    """The claims stored in a notebook's outputs, in order.

    Args:
        notebook: nbformat's mapping, or the parsed JSON.
        where: the file's name, for messages.

    Raises:
        BadInput: a claim is malformed, or stated twice.
    """
    found: dict[str, Outcome] = {}
    for cell in notebook.get("cells", ()):
        for output in cell.get("outputs", ()):
            payload = output.get("data", {}).get(MIME)
            if payload is None:
                continue
            each = Outcome.from_json(payload, where)
            if each.claim in found:
                raise BadInput(f"{where}: claim {each.claim} is stated twice; a notebook states each claim once")
            found[each.claim] = each
    return found
