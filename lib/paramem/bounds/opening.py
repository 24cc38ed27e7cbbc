"""What a study of bounds begins with: documents of a draw, which of them are looked at, what guessing costs on them.

opening = Opening.of("fresh-gpt2-s0", m=50_000, n=10_000)
print(opening)                        # the levels that every bound is compared with
opening.new(1_000)                    # documents that nobody was trained on
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from paramem.bounds.ground import FRESH_SAMPLE
from paramem.bounds.source import Documents, Integers, Source, unigram_bits, unigram_counts
from paramem.errors import BadParameter
from paramem.fresh import fresh


@dataclass(frozen=True, eq=False)
class Opening:
    """A draw.

    documents  the m that a bound speaks about
    rows       the n draws from them, with replacement, that empirical risks are means over
    """

    architecture: str
    seed: int
    source: Source
    documents: Documents
    rows: Integers

    @classmethod
    def of(cls, model: str, *, m: int, n: int) -> Opening:
        """The draw of that name. Raises BadParameter for a name without an architecture."""
        here, source = fresh(model), Source()
        if here.architecture is None:
            raise BadParameter(f"{model!r} names no architecture, and models are trained here: write fresh-gpt2-s0.")
        rows = np.random.default_rng([here.seed, 9]).integers(m, size=n)
        return cls(here.architecture, here.seed, source, source.draw(m, here.seed), rows)

    def new(self, many: int) -> Documents:
        """Documents of the same source that are independent of these."""
        return self.source.draw(many, self.seed, sample=FRESH_SAMPLE)

    @cached_property
    def types(self) -> int:
        """How many words of the vocabulary the documents hold."""
        return int((unigram_counts(self.documents, self.source.vocabulary) > 0).sum())

    @cached_property
    def unigrams(self) -> float:
        """Bits a token of the best model without context."""
        return float(unigram_bits(self.documents, self.source.vocabulary))

    @property
    def tokens(self) -> float:
        """How many tokens of the documents are predicted."""
        return float((self.documents.lengths - 1).sum())

    def met(self, draws: int, among: int | None = None) -> float:
        """The share of the documents that so many uniform draws are expected to meet (``among``: of so many)."""
        return float(1 - (1 - 1 / (among or len(self.documents))) ** draws)

    def __str__(self) -> str:
        v, m = self.source.vocabulary, len(self.documents)
        return (
            f"{self.architecture}: {m:,} documents of {self.tokens / m:.1f} tokens, vocabulary {v}, of which they hold "
            f"{self.types} words\nbits a token: guessing {math.log2(v):.2f}, guessing among the words that occur "
            f"{math.log2(self.types):.2f}, the best model without context {self.unigrams:.2f}\n"
            f"{self.source.text(self.documents)[0]}"
        )
