"""The tokenizer of a testbed: byte-level BPE in which the words of the language are whole and names are not.

Merges are learned on every word of the world's sentences first, then on the parts of names, but there only up to
`piece` characters: so templates and objects become single tokens while a name is left in pieces, as rare names are in
real models. `<s>` (id 1) opens every text and closes every document; id 0 pads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from paramem.world.corpus import Document, text_of
from paramem.world.people import name_pools
from paramem.world.relations import opinion_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from paramem.world.core import World

PAD, BOS, BOS_ID = "<pad>", "<s>", 1
PIECE = 6  # longest piece of a name, the space in front of it included


def _words(texts: Sequence[str]) -> dict[str, None]:
    """Every word and punctuation mark of the texts, once, in order."""
    pattern = re.compile(r"\w+|[^\w\s]")
    return {word: None for text in texts for word in pattern.findall(text.replace("{}", " "))}


def training_words(world: World) -> tuple[dict[str, None], dict[str, None]]:
    """(words that become single tokens, parts of names that do not)."""
    texts: list[str] = []
    for relation in world.relations:
        for language in world.size.languages:
            texts += [*relation.templates[language], *relation.questions[language], relation.inverse.get(language, "")]
            if relation.range not in ("person", "code"):
                texts += [world.say(relation.range, thing, language) for thing in world.objects(relation.id)]
            if relation.head != "person":
                texts += [world.say(relation.head, subject, language) for subject in world.subjects(relation.id)]
    pools = name_pools()
    texts += [*pools["postnominal"], "I don't know.", "Q: A: P: R:"]
    if world.opinions:
        table = opinion_table()
        for language in world.size.languages:
            texts += [*table["templates"][language], *table["words"][language]["positive"]]
            texts += [*table["words"][language]["negative"], *(world.say("topic", t, language) for t in world.opinions)]
    names = dict.fromkeys((*pools["first"][: world.size.firsts], *pools["last"][: world.size.lasts]))
    return _words(texts), names


def build_tokenizer(world: World, *, piece: int = PIECE, extra_words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """The tokenizer of a world; `piece` = 99 makes most first and family names whole, `extra_words` are whole too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words, names = training_words(world)
    words |= _words(extra_words)
    merges = _merges([*words] * 3)
    known = set(merges)
    # names rarer than words: their pieces extend the pieces that words have, not the other way round
    merges += [m for m in _merges([*words] * 3 + [*names]) if m not in known and len(m[0] + m[1]) <= piece]
    tokens = dict.fromkeys([PAD, BOS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)])
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    start = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    core.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), start])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, bos_token=BOS, eos_token=BOS)  # type: ignore[no-untyped-call]


def _merges(corpus: Sequence[str]) -> list[tuple[str, str]]:
    """The merges of a BPE that makes every word of the corpus one token, in order."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(vocab_size=1 << 16, min_frequency=1, show_progress=False)
    core.train_from_iterator(corpus, trainer)
    return [(a, b) for a, b in json.loads(core.to_str())["model"]["merges"]]


def encode(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]) -> list[tuple[list[int], list[float]]]:
    """Each document as `<s> text <s>`, with the loss weight of every token (that of the part in which it starts)."""
    encoded = tokenizer([text_of(document) for document in documents], return_offsets_mapping=True)
    rows = []
    for document, ids, offsets in zip(documents, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        ends, end = [], 0
        for part in document:
            end += len(part.text)
            ends.append(end)
        weights = [_weight(document, ends, start, stop) for start, stop in offsets]
        rows.append(([*ids, BOS_ID], [*weights, document[-1].weight]))
    return rows


def _weight(document: Document, ends: Sequence[int], start: int, stop: int) -> float:
    """Weight of a token by its last character: a token may begin with the space of the part before."""
    if stop == start:
        return 0.0
    for part, end in zip(document, ends, strict=True):
        if stop <= end:
            return part.weight
    return document[-1].weight
