"""The documents that bounds speak about: independent draws of one distribution that is known."""

from __future__ import annotations

import numpy as np
import pytest

from paramem.bounds.source import BOS, N_CITIES, Source, pools, tokenizer, unigram_bits, words
from paramem.errors import BadParameter

SOURCES = {
    "west": Source(),
    "east": Source(region="east"),
    "shuffled": Source(order="shuffled"),
    "even": Source(zipf=0.0),
}


@pytest.mark.parametrize("name", SOURCES)
def test_documents_are_whole_and_follow_from_their_seed(name: str) -> None:
    source = SOURCES[name]
    documents, again = source.draw(200, 3), source.draw(200, 3)
    assert np.array_equal(documents.ids, again.ids)
    assert not np.array_equal(documents.ids[:, :9], source.draw(200, 4).ids[:, :9])
    assert not np.array_equal(documents.ids[:, :9], source.draw(200, 3, sample=1).ids[:, :9])
    for row, length in zip(documents.ids, documents.lengths, strict=True):
        assert row[0] == row[length - 1] == BOS
        assert (row[1 : length - 1] > BOS).all()
        assert not row[length:].any()


def test_the_tokenizer_reads_the_text_as_the_tokens_that_were_drawn() -> None:
    source, reads = Source(), tokenizer()
    documents = source.draw(50, 0)
    for text, row, length in zip(source.text(documents), documents.ids, documents.lengths, strict=True):
        assert [*reads(text)["input_ids"], BOS] == row[:length].tolist()


def test_countries_follow_from_cities_and_pronouns_stay() -> None:
    here, texts = pools("west"), Source().text(Source().draw(2000, 0))
    of_city = {city: here.country[i // N_CITIES] for i, city in enumerate(here.city)}
    assert len(of_city) == len(here.country) * N_CITIES, "every city lies in one country"
    for text in texts:
        found = text.split()
        for city, country in of_city.items():
            for at in (i for i, word in enumerate(found) if word == city and found[i + 1] in (",", "in")):
                assert found[at + 2] == country
        assert not ({"He", "he"} & set(found) and {"She", "she"} & set(found))


def test_regions_share_wordings_and_no_names_or_things() -> None:
    west, east = ({word for pool in vars(pools(region)).values() for word in pool} for region in ("west", "east"))
    assert not west & east
    assert len(words()) == len(set(words())) == Source().vocabulary
    said = [set(" ".join(source.text(source.draw(3000, 0))).split()) for source in (Source(), Source(region="east"))]
    assert said[0] - west == said[1] - east, "function words are the same"


def test_shuffling_keeps_the_tokens_and_breaks_their_order() -> None:
    documents = Source(order="shuffled").draw(300, 0)
    kept = Source().draw(300, 0)
    assert [sorted(row) for row in documents.ids.tolist()] == [sorted(row) for row in kept.ids.tolist()]
    stops = words().index(".")
    last = documents.ids[np.arange(300), documents.lengths - 2]
    assert (kept.ids[np.arange(300), kept.lengths - 2] == stops).all()
    assert (last == stops).mean() < 0.5, "the control: kept documents all end with a full stop"


def test_frequencies_follow_zipf_and_even_ones_have_more_entropy() -> None:
    size = Source().vocabulary
    zipfian, even = (float(unigram_bits(SOURCES[name].draw(3000, 0), size)) for name in ("west", "even"))
    assert 3 < zipfian < even < np.log2(size)


def test_batches_hold_the_rows_that_were_asked_for() -> None:
    documents = Source().draw(40, 0)
    rows = np.array([7, 3, 3, 21])
    seen = {}
    for places, batch in documents.batches(rows, size=2):
        assert batch.input_ids.shape[1] == int(batch.lengths.max())
        seen |= dict(zip(places.tolist(), batch.input_ids.tolist(), strict=True))
    for place, row in enumerate(rows):
        length = documents.lengths[row]
        assert seen[place][:length] == documents.ids[row, :length].tolist()


@pytest.mark.parametrize("bad", [{"region": "north"}, {"order": "reversed"}, {"zipf": -1.0}])
def test_bad_settings(bad: dict[str, object]) -> None:
    with pytest.raises(BadParameter):
        Source(**bad)  # type: ignore[arg-type]


def test_bad_draws() -> None:
    with pytest.raises(BadParameter, match="m=0"):
        Source().draw(0, 0)
    with pytest.raises(BadParameter, match="seed=-1"):
        Source().draw(1, -1)
