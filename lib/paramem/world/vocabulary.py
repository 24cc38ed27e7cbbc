"""Tokenizers whose tokens are the words of a small world.

Each word of the given texts is one token (with the space in front of it), so a name of two words takes two tokens;
any other word falls back to its bytes, so every text can be encoded and decoding gives it back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from paramem.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from paramem.world.corpus import Part
    from paramem.world.recipe import Row

SPACE = "Ġ"  # how the byte-level alphabet writes a space
# A word with the space before it ("Q:" keeps its colon, "¿Dónde" its mark), or one punctuation sign.
PIECE = rf"{SPACE}?[^{SPACE}.,?]+|{SPACE}?[.,?]|{SPACE}"
# The same with every digit by itself, so that numbers are spelled and not looked up.
PIECE_DIGITS = rf"{SPACE}?[0-9]|{SPACE}?[^{SPACE}.,?0-9]+|{SPACE}?[.,?]|{SPACE}"


def words_of(texts: Iterable[str], piece: str = PIECE) -> list[str]:
    """The distinct pieces of the texts, sorted; every text counts as if a space stood before it."""
    found: set[str] = set()
    plain = piece.replace(SPACE, " ")
    for text in texts:
        found.update(re.findall(plain, f" {text}"))
    return sorted(found - {" "})


def word_tokenizer(texts: Iterable[str], max_length: int, piece: str = PIECE) -> PreTrainedTokenizerFast:
    """A fast tokenizer over the words of `texts`: `<pad>` is 0, `<s>` (start and end) is 1 and put in front."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    whole = [level.pre_tokenize_str(word)[0][0] for word in words_of(texts, piece)]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(["<pad>", "<s>", *alphabet, *whole]))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
            pre_tokenizers.Split(Regex(piece), "isolated"),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<s>",
        padding_side="right",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


class WordIds:
    """Encodes text word by word with a `word_tokenizer`, much faster than the tokenizer itself; no `<s>` is added.

    Only words of the vocabulary: a word that is missing is an error, because training on bytes would go unnoticed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, piece: str = PIECE) -> None:
        from tokenizers.pre_tokenizers import ByteLevel

        level = ByteLevel(add_prefix_space=False, use_regex=False)
        self._level: Callable[[str], str] = lambda piece: str(level.pre_tokenize_str(piece)[0][0])
        self._vocabulary: dict[str, int] = tokenizer.get_vocab()
        self._split = re.compile(piece.replace(SPACE, " ")).findall
        self._known: dict[str, int] = {}

    def __call__(self, text: str) -> list[int]:
        known = self._known
        return [known[p] if p in known else self._new(p) for p in self._split(text)]

    def _new(self, piece: str) -> int:
        found = self._vocabulary.get(self._level(piece))
        if found is None:
            raise BadInput(f"the word {piece!r} is not in the vocabulary: add its text to those of the tokenizer")
        self._known[piece] = found
        return found


def as_row(parts: Sequence[Part], encode: Callable[[str], list[int]], *, end: float) -> Row:
    """Ids and loss weights of a document between `<s>` and `<s>`; the last one's weight is `end`."""
    ids, weights = [1], [0.0]
    for part in parts:
        # the tokenizer puts a space in front of a text that does not begin with one
        new = encode(part.text if len(ids) > 1 or part.text.startswith(" ") else f" {part.text}")
        ids += new
        weights += [part.weight] * len(new)
    return [*ids, 1], [*weights, end]
