"""The real half of the world: countries, capitals, cities, languages, currencies and calling codes in two languages.

The table is frozen in `data/map.json` (attribution inside; GeoNames, CC BY 4.0, and Unicode CLDR) and made by
`scripts/freeze_map.py`. Keys are the English names, so that a fact reads naturally wherever it is printed.

    >>> load_map().country_of("Lyon").name
    'France'
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from paramem.errors import BadParameter

# Spanish currencies stand with their article; all others are masculine.
FEMININE = ("corona", "libra", "lira", "grivna")


@dataclass(frozen=True, kw_only=True)
class City:
    """A city: `names` by language, population as GeoNames has it."""

    name: str
    names: dict[str, str]
    population: int


@dataclass(frozen=True, kw_only=True)
class Country:
    """A country with what is said about it; `cities` begins with the capital, `neighbours` are codes in the table."""

    code: str
    name: str
    names: dict[str, str]
    continent: dict[str, str]
    language: dict[str, str]
    currency: dict[str, str]
    calling_code: str
    neighbours: tuple[str, ...]
    cities: tuple[City, ...]

    @property
    def capital(self) -> City:
        """The seat of government, as GeoNames has it."""
        return self.cities[0]

    def value(self, attribute: str) -> str:
        """The English name of the capital, continent, language, currency or calling code."""
        found = getattr(self, attribute)
        if isinstance(found, City):
            return found.name
        return found["en"] if isinstance(found, dict) else str(found)


@dataclass(frozen=True, kw_only=True)
class WorldMap:
    """Countries in a fixed order, and who they were taken from."""

    countries: tuple[Country, ...]
    attribution: str

    @property
    def cities(self) -> tuple[City, ...]:
        """Every city, country by country."""
        return tuple(city for country in self.countries for city in country.cities)

    def country(self, name: str) -> Country:
        """The country of that English name."""
        for country in self.countries:
            if country.name == name:
                return country
        raise BadParameter(f"the map has no country {name!r}; it has {', '.join(c.name for c in self.countries)}")

    def country_of(self, city: str) -> Country:
        """The country in which the city of that English name lies."""
        for country in self.countries:
            if any(c.name == city for c in country.cities):
                return country
        raise BadParameter(f"the map has no city {city!r}")

    def restricted(self, codes: Iterable[str], cities: int) -> WorldMap:
        """The countries of these codes, each with its first `cities` cities (the capital among them)."""
        by_code = {country.code: country for country in self.countries}
        kept = [by_code[code] for code in codes]
        cut = tuple(_with_cities(country, country.cities[:cities]) for country in kept)
        return WorldMap(countries=cut, attribution=self.attribution)


def _with_cities(country: Country, cities: tuple[City, ...]) -> Country:
    fields = {name: getattr(country, name) for name in Country.__dataclass_fields__}
    return Country(**(fields | {"cities": cities}))


def _with_article(currency: dict[str, str]) -> dict[str, str]:
    article = "la" if currency["es"].split()[0] in FEMININE else "el"
    return currency | {"es": f"{article} {currency['es']}"}


@cache
def load_map() -> WorldMap:
    """The whole frozen map."""
    table = json.loads((files("paramem.world") / "data" / "map.json").read_text(encoding="utf-8"))
    countries = tuple(
        Country(
            code=row["code"],
            name=row["name"]["en"],
            names=row["name"],
            continent=row["continent"],
            language=row["language"],
            currency=_with_article(row["currency"]),
            calling_code=row["calling_code"],
            neighbours=tuple(row["neighbours"]),
            cities=tuple(
                City(name=c["en"], names={"en": c["en"], "es": c["es"]}, population=c["population"])
                for c in row["cities"]
            ),
        )
        for row in table["countries"]
    )
    return WorldMap(countries=countries, attribution=table["attribution"])
