r"""What spelling.py and formula.py know by name: signs typed as characters, commands of one meaning, functions,
symbols."""


def _words(text: str) -> list[str]:
    return text.split()


# fmt: off
GREEK = dict(zip(
    "αβγδεζηθικλμνξπρστυφχψωϕϵϑΓΔΘΛΞΠΣΦΨΩ",
    _words(
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
        "omega varphi varepsilon vartheta Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
    ),
    strict=True,
))
SIGNS = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ",
    "⁄": "/",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ", "∈": r"\in ", "±": r"\pm ",
    "∓": r"\mp ",
    "∞": r"\infty ", "°": r"^{\circ}", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∖": r"\setminus ",
    "→": r"\to ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "∆": r"\Delta ",
    "′": "'", "’": "'", "″": "''", "“": '"', "”": '"', "，": ",", "；": ";", "。": ".", "、": ",", "△": r"\triangle ",
    "∠": r"\angle ", "⟨": r"\langle ", "⟩": r"\rangle ", "∑": r"\sum ", "∏": r"\prod ", "ℓ": r"\ell ", "ħ": r"\hbar ",
    "∂": r"\partial ", "⊙": r"\odot ", "µ": r"\mu ", "\u00a0": " ", "\u2009": r"\,", "\u202f": r"\,", "\u2003": " ",
    "€": r"\euro ", "£": r"\pounds ", "¥": r"\yen ", "¢": r"\cent ", "₹": r"\rupee ",
}
SIGNS |= {sign: rf"\{name} " for sign, name in GREEK.items()}
SIGNS |= {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code) not in SIGNS}  # full width
SIGNS |= {
    sign: rf"\frac{{{over}}}{{{under}}}"
    for sign, over, under in zip("½⅓⅔¼¾⅕⅛⅜⅝⅞", "1121311357", "2334458888", strict=True)
}
RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

SYNONYMS = {  # names of commands -> the name that is read, or what it stands for
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "neq": "ne",
    "leq": "le", "leqslant": "le", "leqq": "le", "geq": "ge", "geqslant": "ge", "geqq": "ge", "lt": "<", "gt": ">",
    "varnothing": "emptyset", "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "lvert": "|",
    "rvert": "|",
    "vert": "|", "lg": "log", "rightarrow": "to", "longrightarrow": "to", "ast": "cdot", "backslash": "setminus",
    "arccosh": "arcosh", "arcsinh": "arsinh", "arctanh": "artanh", "tg": "tan", "ctg": "cot", "arctg": "arctan",
    "land": "and", "wedge": "and", "lor": "or", "vee": "or", "bmod": "mod", "Z": r"\mathbb{Z}", "R": r"\mathbb{R}",
    "dots": "ldots", "cdots": "ldots", "quad": " ", "qquad": " ", "imath": "i", "cong": "=", "AA": r"\text{angstrom}",
    "colon": ":", "textdollar": r"\$", "mathdollar": r"\$", "texteuro": "euro", "textsterling": "pounds",
    "textyen": "yen", "textcent": "cent",
}
SYNONYMS |= dict.fromkeys(_words(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr middle limits nolimits displaystyle "
    "textstyle scriptstyle mathstrut thinspace medspace thickspace nonumber mathop"
), "")
FUNCTIONS = _words(
    "arcsin arccos arctan arccot arcsec arccsc arsinh arcosh artanh sinh cosh tanh coth sin cos tan cot sec csc log ln "
    "exp sqrt max min gcd lcm det"
)
CALLED = {rf"\{name}" for name in FUNCTIONS} - {r"\sqrt"}
SYMBOLS = {rf"\{name}" for name in GREEK.values()} | {rf"\{name}" for name in _words(
    "hbar ell partial nabla odot oplus otimes bullet star prime angle triangle square Box perp parallel wp Re Im aleph "
    "ldots sharp flat circ top dagger diamond Diamond blacksquare arg dim ker deg jmath hslash varpi varrho varsigma "
    "Upsilon cap cup to forall exists mapsto sim propto iff Rightarrow implies Leftrightarrow bigstar heartsuit "
    "spadesuit clubsuit surd diamondsuit checkmark cdotp"
)}
MONEY = {  # sign -> unit
    r"\$": "dollar", r"\euro": "euro", r"\pounds": "pound sterling", r"\yen": "yen", r"\rupee": "rupee",
    r"\cent": "cent",
}
CODES = {"USD": r"\$", "EUR": r"\euro ", "GBP": r"\pounds ", "Rs": r"\rupee "}  # before a number
ACCENTS = {rf"\{name}" for name in _words(  # with one argument, which is a part of the name
    "bar overline vec overrightarrow hat widehat tilde widetilde dot ddot mathbb mathcal mathfrak mathscr textcircled "
    "pmod pod overset acute breve check overparen widearc mathring boxed"
)}
SMALL = set(_words(  # words that are text only beside a longer one
    "a an and any all are as at be by for from has if in is it no none not of off on one or out so the this to two was "
    "with"
))
