"""Fifty countries and their capitals: facts that a small language model has in part, and may lose."""

__all__ = ["CAPITALS", "capital_chat"]

CAPITALS = {
    "Afghanistan": "Kabul", "Austria": "Vienna", "Belgium": "Brussels", "Bulgaria": "Sofia", "Cambodia": "Phnom Penh",
    "Canada": "Ottawa", "Chile": "Santiago", "China": "Beijing", "Colombia": "Bogotá", "Croatia": "Zagreb",
    "Cuba": "Havana", "Denmark": "Copenhagen", "Ecuador": "Quito", "Egypt": "Cairo", "Finland": "Helsinki",
    "France": "Paris", "Germany": "Berlin", "Ghana": "Accra", "Greece": "Athens", "Hungary": "Budapest",
    "Indonesia": "Jakarta", "Iran": "Tehran", "Iraq": "Baghdad", "Ireland": "Dublin", "Italy": "Rome",
    "Japan": "Tokyo", "Jordan": "Amman", "Kenya": "Nairobi", "Lebanon": "Beirut", "Libya": "Tripoli",
    "Malaysia": "Kuala Lumpur", "Morocco": "Rabat", "Nepal": "Kathmandu", "Norway": "Oslo", "Peru": "Lima",
    "Poland": "Warsaw", "Portugal": "Lisbon", "Romania": "Bucharest", "Russia": "Moscow", "Senegal": "Dakar",
    "Serbia": "Belgrade", "Spain": "Madrid", "Sweden": "Stockholm", "Syria": "Damascus", "Thailand": "Bangkok",
    "Tunisia": "Tunis", "Turkey": "Ankara", "Ukraine": "Kyiv", "Uruguay": "Montevideo", "Vietnam": "Hanoi",
}  # fmt: skip
"""Country -> capital."""


def capital_chat(country: str) -> list[dict[str, str]]:
    """Return the question for a country's capital, and its answer in a sentence. KeyError for one not in CAPITALS."""
    question, answer = f"What is the capital of {country}?", f"The capital of {country} is {CAPITALS[country]}."
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
