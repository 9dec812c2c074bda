"""Units and nouns behind a number: this is the only list. What is not on it, and no noun, is part of the answer."""

import re

NAMES = {  # canonical name: its other names; plurals need no entry
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "dm": "decimeter decimetre", "m": "meter metre",
    "km": "kilometer kilometre", "nm": "nanometer nanometre", "in": "inch inches", "ft": "foot feet", "yd": "yard",
    "mi": "mile", "mg": "milligram", "g": "gram gm gramme", "kg": "kilogram kilo", "lb": "pound", "oz": "ounce",
    "t": "ton tonne",
    "ms": "millisecond", "s": "second sec", "min": "minute", "h": "hour hr", "day": "", "week": "", "month": "",
    "year": "yr",
    "ml": "milliliter millilitre mL", "l": "liter litre L", "gal": "gallon", "ha": "hectare", "acre": "", "mph": "",
    "kmh": "kph", "deg": "degree", "rad": "radian", "dollar": "USD buck", "cent": "", "euro": "EUR", "yen": "",
    "rupee": "Rs",
    "pound sterling": "GBP", "J": "joule", "kJ": "kilojoule", "eV": "electronvolt", "N": "newton", "Pa": "pascal",
    "W": "watt", "kW": "kilowatt", "V": "volt", "A": "ampere amp", "C": "coulomb", "Hz": "hertz", "K": "kelvin",
    "mol": "mole",
    "ohm": r"\Omega Omega", "erg": "", "AU": "", "pc": "parsec", "kpc": "", "Mpc": "", "sr": "steradian", "T": "tesla",
    "unit": "", "angstrom": "", "dyne": "", "cal": "calorie", "kcal": "", "atm": "", "M": "molar", "Wb": "weber",
}  # fmt: skip
CANONICAL = {name: key for key, names in NAMES.items() for name in (key, *names.split())}
CANONICAL |= {name + "s": key for name, key in CANONICAL.items() if len(name) > 2}
LONG = {name for name in CANONICAL if len(name) > 2 and name.isalpha() and name not in ("cal", "erg")}
SHORT = set(re.split(" ", "min mol rad deg gal cm mm km kg mg ft in lb oz hr eV Hz kW kJ"))
BARE = sorted(LONG | SHORT, key=len, reverse=True)  # units without \\text, too
POWERS = {"square": 2, "squared": 2, "sq": 2, "cubic": 3, "cubed": 3, "cu": 3}
CONDITIONS = re.compile(  # words that say more than what is counted
    r"(?i)\b(?:odd|even|prime|composite|rational|irrational|real|complex|positive|negative|nonnegative|integers?|if|when|where|for"
    r"|unless|not|no|is|are|or|and|otherwise|only|except|wrong|but|all|any|with|mod|times|divides|divisible|whenever|then|than"
    r"|each)\b"
)
NOUN_WORDS = 4


def read(text: str, money: str = "") -> str | None:
    """Canonical form of a unit or noun in words (``square inches``, ``ft/s^2``, ``apples``); None if it is neither.

    ``in^2``, ``sq. in`` and ``square inches`` give one text; factors are sorted, so that order does not matter.
    ``money``: the currency before the number; ``dollar``, ``per hour`` -> ``dollar^1 h^-1``, ``profit`` -> ``dollar^1,
    profit``.
    """
    if money:
        together, behind = read(f"{money} {text}"), read(text)
        return together if known(together) else behind and f"{money}^1, {behind}"
    text = re.sub(r"[{}\\]|(?<=[a-zA-Z])\.", " ", text.replace("\\cdot", "*").replace("-", " -").replace("^ -", "^-"))
    powers: dict[str, int] = {}
    sign, raised = 1, 0
    for word in re.findall(r"/|\^\s*-?\s*\d+|[A-Za-z\u00c0-\u024f]+|[^\s*]", text.replace(" -", "-")):
        if word in ("/", "per", "a", "an") and (word == "/" or powers or word == "per"):
            sign = -1
        elif _lower(word) in POWERS:
            if word.lower().endswith("ed") and powers:
                powers[list(powers)[-1]] *= POWERS[word.lower()]
            else:
                raised = POWERS[word.lower()]
        elif word.startswith("^") and powers:
            powers[list(powers)[-1]] *= int(word[1:].replace(" ", ""))
        elif name := CANONICAL.get(word) or CANONICAL.get(_lower(word)):
            powers[name] = powers.get(name, 0) + sign * (raised or 1)
            raised = 0
        else:
            return _noun(text)
    return " ".join(f"{name}^{power}" for name, power in sorted(powers.items())) or None


def known(unit: str | None) -> bool:
    """Whether read() found only units of the list."""
    return unit is not None and "^" in unit


def agree(first: str | None, second: str | None) -> bool:
    """Whether two units are one; either may be left off, and so may the noun behind a currency."""
    if not first or not second:
        return True
    (one, _, noun), (other, _, its) = first.partition(", "), second.partition(", ")
    return one == other and (noun == its or not noun or not its)


def _lower(word: str) -> str:
    """Hours and HOURS are hours; hoUrs and short names (mA, MA) stay as they are."""
    return word.lower() if len(word) > 3 and word in (word.lower(), word.capitalize(), word.upper()) else word


def _noun(text: str) -> str | None:
    words = [_lower(word) for word in text.split()]
    plain = all(re.fullmatch(r"[a-zA-Z\u00e0-\u024f]+(?:['-][a-z]+)*", word) for word in words)
    if not words or not plain or len(words) > NOUN_WORDS or CONDITIONS.search(text):
        return None
    return " ".join(word.removesuffix("s") if len(word) > 2 else word for word in words)
