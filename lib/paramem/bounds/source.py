r"""A distribution over documents that we own: short lives of invented people, drawn independently.

    Source().draw(50_000, seed=0)       # m documents
    Source().text(Source().draw(1, seed=0))
    ['Ada Bellini was born in Lyon , France . She speaks French . She has a dog .']

A bound is about documents drawn independently from one distribution, and here it is known: more can be drawn whenever
the true risk is wanted. Words of a kind follow Zipf's law. What can be learned: which word follows which; that a city
decides country and language, and the first name the pronoun; that the pronoun and the names stay. What cannot: who is
meant next.

Two regions share wordings and function words, and no name, city, country, language, occupation, instrument or animal:
a model of one has seen no document of the other. The vocabulary is that of both and is fixed beforehand, by these
lists and not by documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paramem.errors import BadParameter
from paramem.tokens import Batch
from paramem.world.map import load_map
from paramem.world.people import name_pools
from paramem.world.relations import lexicon

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Integers: TypeAlias = NDArray[np.int64]
Region: TypeAlias = Literal["west", "east"]

PAD, BOS = 0, 1
N_NAMES, N_CITIES, N_THINGS = 30, 3, 10  # first names, family names; cities of a country; instruments and animals
STAY = 0.6  # probability that somebody lives where they were born
COUNTRIES: Mapping[Region, tuple[str, ...]] = {
    "west": ("France", "Spain", "Italy", "Germany", "Portugal", "Denmark", "Norway", "Sweden"),
    "east": ("Greece", "Hungary", "Poland", "Russia", "Turkey", "Ukraine", "Finland", "Japan"),
}
OCCUPATIONS: Mapping[Region, tuple[str, ...]] = {
    "west": ("teacher", "farmer", "baker", "nurse", "judge", "tailor", "miner", "painter", "sailor", "printer"),
    "east": ("doctor", "pilot", "cook", "mason", "lawyer", "weaver", "potter", "barber", "guard", "porter"),
}
# The first sentence, and the kinds of those that follow; capitals are slots.
OPENINGS = ("F L was born in C , N .", "F L is from C in N .", "Born in C , N , F L is a O .")
LATER: tuple[tuple[str, ...], ...] = (
    ("P speaks G .", "At home P0 speaks G ."),
    ("P works as a O .", "P is a O by trade ."),
    ("P plays the I .", "P loves the I and plays it every day ."),
    ("P lives in D , M .", "Today P0 lives in D ."),
    ("P has a A .", "P has a A and another A ."),
    ("The family of F L is called L .",),
)
SLOTS = ("F", "L", "P", "P0", "C", "N", "D", "M", "G", "O", "I", "A")
FEWEST, MOST = 2, 4  # how many sentences follow the first


@dataclass(frozen=True, eq=False)
class Documents:
    """Rows of token ids, padded on the right: ids (m, T), int16; lengths (m,), with the `<s>` at both ends."""

    ids: NDArray[np.int16]
    lengths: Integers

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: Sequence[int] | Integers | slice) -> Batch:
        """Some documents for a model, cut to the longest."""
        lengths = torch.from_numpy(self.lengths[rows])
        ids = torch.from_numpy(self.ids[rows, : int(lengths.max())].astype(np.int64))
        return Batch(input_ids=ids, prompt_lengths=lengths, lengths=lengths)

    def batches(self, rows: Integers, size: int = 96) -> Iterator[tuple[Integers, Batch]]:
        """These rows in batches of documents of like length: (their places in ``rows``, the batch)."""
        order = np.argsort(self.lengths[rows], kind="stable")
        for start in range(0, len(order), size):
            places = order[start : start + size]
            yield places, self.batch(rows[places])


@dataclass(frozen=True, kw_only=True)
class Source:
    """A distribution over documents.

    region  whose names and places
    order   "shuffled": the tokens of each document, between its two `<s>`, in an order of their own
    zipf    exponent of the frequencies of words of a kind; 0 makes all equally frequent
    """

    region: Region = "west"
    order: Literal["kept", "shuffled"] = "kept"
    zipf: float = 1.0

    def __post_init__(self) -> None:
        if self.region not in COUNTRIES or self.order not in ("kept", "shuffled") or not 0 <= self.zipf < 10:
            raise BadParameter(f"{self}: a region among {', '.join(COUNTRIES)}, order kept or shuffled, zipf from 0.")

    @property
    def vocabulary(self) -> int:
        """V, the same for all sources: the words of both regions; documents of one hold little more than half."""
        return len(words())

    def draw(self, m: int, seed: int, *, sample: int = 0) -> Documents:
        """m documents, independent of each other and of every other (seed, sample)."""
        if m < 1 or seed < 0 or sample < 0:
            raise BadParameter(f"m={m}, seed={seed}, sample={sample}: at least one document, and numbers from 0.")
        generator = np.random.default_rng([seed, sample, list(COUNTRIES).index(self.region)])
        found = _drawn(self, m, generator)
        return _shuffled(found, generator) if self.order == "shuffled" else found

    def text(self, documents: Documents) -> list[str]:
        """The documents as they read, without `<s>`."""
        vocabulary = words()
        return [
            " ".join(vocabulary[i] for i in row[1 : length - 1])
            for row, length in zip(documents.ids, documents.lengths, strict=True)
        ]


@dataclass(frozen=True)
class _Pools:
    """Words of the slots; cities country by country, so that city i lies in country i // N_CITIES."""

    first: tuple[str, ...]
    last: tuple[str, ...]
    city: tuple[str, ...]
    country: tuple[str, ...]
    language: tuple[str, ...]
    occupation: tuple[str, ...]
    instrument: tuple[str, ...]
    animal: tuple[str, ...]


@cache
def pools(region: Region) -> _Pools:
    """The words that fill the slots in a region; none is in both."""
    part = list(COUNTRIES).index(region)
    names, half = name_pools(), slice(part * N_NAMES, (part + 1) * N_NAMES)
    lands = [load_map().country(name) for name in COUNTRIES[region]]
    things = slice(part * N_THINGS, (part + 1) * N_THINGS)
    return _Pools(
        first=names["first"][half],
        last=names["last"][half],
        city=tuple(name for land in lands for name in [c.name for c in land.cities if c.name.isalpha()][:N_CITIES]),
        country=COUNTRIES[region],
        language=tuple(land.language["en"] for land in lands),
        occupation=OCCUPATIONS[region],
        instrument=tuple(lexicon("instrument"))[things],
        animal=tuple(lexicon("animal"))[things],
    )


@cache
def words() -> tuple[str, ...]:
    """The vocabulary: padding, `<s>`, function words, and the fillers of both regions."""
    wordings = " ".join([*OPENINGS, *(each for kind in LATER for each in kind)]).split()
    plain = [word for word in wordings if word not in SLOTS]
    fillers = [word for region in COUNTRIES for pool in vars(pools(region)).values() for word in pool]
    return tuple(dict.fromkeys(["<pad>", "<s>", *plain, "He", "She", "he", "she", *fillers]))


@cache
def _ids() -> Mapping[str, int]:
    return {word: i for i, word in enumerate(words())}


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token; fixed by the lists of words, before any document is drawn."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(vocab=dict(_ids())))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="<s>")  # type: ignore[no-untyped-call]


def _drawn(source: Source, m: int, generator: np.random.Generator) -> Documents:
    values = _values(source, m, generator)
    ids = np.zeros((m, 2 + max(len(each.split()) for each in OPENINGS) + MOST * _longest()), dtype=np.int16)
    ids[:, 0], ends = BOS, np.ones(m, dtype=np.int64)
    _write(ids, ends, np.arange(m), OPENINGS, values, generator)
    kinds = np.argsort(generator.random((m, len(LATER))), axis=1)  # each kind at most once, in random order
    more = generator.integers(FEWEST, MOST + 1, m)
    for place in range(MOST):
        for kind, wordings in enumerate(LATER):
            _write(ids, ends, np.flatnonzero((kinds[:, place] == kind) & (place < more)), wordings, values, generator)
    ids[np.arange(m), ends] = BOS
    return Documents(ids[:, : int(ends.max()) + 1], ends + 1)


def _longest() -> int:
    return max(len(each.split()) for kind in LATER for each in kind)


def _values(source: Source, m: int, generator: np.random.Generator) -> dict[str, NDArray[np.int16]]:
    """Slot -> the token that fills it in each document, (m,)."""
    here, ids = pools(source.region), _ids()

    def zipfian(n: int) -> Integers:
        shares = np.arange(1, n + 1, dtype=np.float64) ** -source.zipf
        return generator.choice(n, size=m, p=shares / shares.sum())

    def tokens(pool: Sequence[str], which: Integers) -> NDArray[np.int16]:
        return np.array([ids[word] for word in pool], dtype=np.int16)[which]

    first, born = zipfian(len(here.first)), zipfian(len(here.city))
    lives = np.where(generator.random(m) < STAY, born, zipfian(len(here.city)))
    return {
        "F": tokens(here.first, first),
        "L": tokens(here.last, zipfian(len(here.last))),
        "P": tokens(("He", "She"), first % 2),
        "P0": tokens(("he", "she"), first % 2),
        "C": tokens(here.city, born),
        "N": tokens(here.country, born // N_CITIES),
        "D": tokens(here.city, lives),
        "M": tokens(here.country, lives // N_CITIES),
        "G": tokens(here.language, born // N_CITIES),
        "O": tokens(here.occupation, zipfian(len(here.occupation))),
        "I": tokens(here.instrument, zipfian(len(here.instrument))),
        "A": tokens(here.animal, zipfian(len(here.animal))),
    }


def _write(
    ids: NDArray[np.int16],
    ends: Integers,
    rows: Integers,
    wordings: Sequence[str],
    values: Mapping[str, NDArray[np.int16]],
    generator: np.random.Generator,
) -> None:
    """Append a sentence to these rows, each in one of the wordings."""
    chosen = generator.integers(len(wordings), size=len(rows))
    for number, wording in enumerate(wordings):
        some = rows[chosen == number]
        for word in wording.split():
            ids[some, ends[some]] = values[word][some] if word in values else _ids()[word]
            ends[some] += 1


def _shuffled(documents: Documents, generator: np.random.Generator) -> Documents:
    """The same tokens of each document, in random order; both `<s>` stay."""
    columns = np.arange(documents.ids.shape[1])
    inside = (columns >= 1) & (columns < documents.lengths[:, None] - 1)
    keys = np.where(inside, generator.random(documents.ids.shape), np.where(columns == 0, -1.0, 2.0 + columns))
    return Documents(np.take_along_axis(documents.ids, np.argsort(keys, axis=1), axis=1), documents.lengths)


def unigram_counts(documents: Documents, vocabulary: int) -> Integers:
    """How often each token is predicted in these documents, (V,): all places but the first `<s>` and the padding."""
    columns = np.arange(documents.ids.shape[1])
    real = (columns >= 1) & (columns < documents.lengths[:, None])
    return np.bincount(documents.ids[real].astype(np.int64), minlength=vocabulary)


def unigram_bits(documents: Documents, vocabulary: int) -> Tensor:
    """Bits per token of the best model that ignores context: the entropy of these documents' token frequencies."""
    counts = torch.from_numpy(unigram_counts(documents, vocabulary)).double()
    shares = counts[counts > 0] / counts.sum()
    return -(shares * shares.log2()).sum()
