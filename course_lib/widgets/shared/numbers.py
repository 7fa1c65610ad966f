"""How numbers are written for a reader, as in `numbers.js`: few digits, thousands separated."""

__all__ = ["short"]


def short(number: float, digits: int = 3) -> str:
    """Return a number to three significant digits, or as many as `digits`: 12,300 and 0.0123; 999.6 is 1,000."""
    return f"{float(f'{number:.{digits}g}'):,.10g}"
