"""Order broken by degrees: tokens permuted within windows of a document.

    Windowed(window=4).draw(50_000, seed=0)

The documents are those of the source with order kept, of the same seed, with their tokens moved: same lengths, same
frequencies, and the wider the window, the less of the order is left. A window of one token changes nothing; one as long
as the document is what lotfi2023nonvacuous does in section 7.2. The permutation of a document is drawn with it, so
documents stay independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from paramem.bounds.source import Documents, Source
from paramem.errors import BadParameter


@dataclass(frozen=True, kw_only=True)
class Windowed(Source):
    """A source whose documents are cut into windows of that many tokens, each permuted; both `<s>` stay."""

    window: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1 or self.order != "kept":
            raise BadParameter(f"window={self.window}, order={self.order!r}: one token or more, of documents in order.")

    def draw(self, m: int, seed: int, *, sample: int = 0) -> Documents:
        """m documents, independent of each other and of every other (seed, sample)."""
        found = super().draw(m, seed, sample=sample)
        return permuted(found, self.window, np.random.default_rng([seed, sample, self.window, 11]))


def permuted(documents: Documents, window: int, generator: np.random.Generator) -> Documents:
    """The documents with the tokens of each window in random order; the first window begins after the first `<s>`."""
    columns = np.arange(documents.ids.shape[1])
    inside = (columns >= 1) & (columns < documents.lengths[:, None] - 1)
    within = (columns - 1) // window + generator.random(documents.ids.shape)  # sorted window by window
    keys = np.where(inside, within, np.where(columns == 0, -1.0, 2.0 * len(columns) + columns))
    return Documents(np.take_along_axis(documents.ids, np.argsort(keys, axis=1), axis=1), documents.lengths)
