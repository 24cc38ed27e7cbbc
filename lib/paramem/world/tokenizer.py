"""The tokenizer of a testbed: byte-level BPE in which the words of the language are whole and names are not.

It is trained on every sentence without the people, plus each part of a name `NAME_COUNT` times, and stops merging at
pairs rarer than `MIN_FREQUENCY`: so templates and objects become single tokens while a name is left in pieces, as
rare names are in real models. `<s>` (id 1) opens every text and closes every document; id 0 pads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from paramem.world.corpus import Document, text_of
from paramem.world.people import name_pools
from paramem.world.relations import opinion_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from paramem.world.core import World

PAD, BOS = "<pad>", "<s>"
NAME_COUNT, MIN_FREQUENCY, WORD_COUNT = 3, 12, 20


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


def build_tokenizer(
    world: World, *, name_count: int = NAME_COUNT, extra_words: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """The tokenizer of a world; `name_count` >= MIN_FREQUENCY makes parts of names whole, 0 leaves them out."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    words, names = training_words(world)
    words |= _words(extra_words)
    corpus = [*words] * WORD_COUNT + [*names] * name_count
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        min_frequency=MIN_FREQUENCY,
        special_tokens=[PAD, BOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    core.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, bos_token=BOS, eos_token=BOS)


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
        rows.append(([*ids, 1], [*weights, document[-1].weight]))
    return rows


def _weight(document: Document, ends: Sequence[int], start: int, stop: int) -> float:
    """Weight of a token by its last character: a token may begin with the space of the part before."""
    if stop == start:
        return 0.0
    for part, end in zip(document, ends, strict=True):
        if stop <= end:
            return part.weight
    return document[-1].weight


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a kind of world (seed 0)."""
    from paramem.world.core import world

    return build_tokenizer(world(kind))


