"""LaTeX to MathML that Chromium, Firefox and Safari draw well, with no script.

latex2mathml reads LaTeX. What it writes leans on parts of MathML that browsers have left out
(letters by ``mathvariant``) and leaves spaces and accents to them; both are settled here.
"""

import unicodedata
from xml.etree import ElementTree

from latex2mathml.converter import convert

ACCENTS = {"^": "ˆ", "~": "˜", "―": "‾", "¯": "‾", "˙": "˙", "¨": "¨"}
VALUES = "∞∂∇∅"  # symbols of mathematics that are no operators
VARIANTS = {
    "script": "SCRIPT", "double-struck": "DOUBLE-STRUCK", "fraktur": "FRAKTUR", "bold": "BOLD",
    "bold-italic": "BOLD ITALIC",
}  # fmt: skip
THIN = "0.167em"


def letter(character: str, variant: str) -> str:
    """Return a letter of another alphabet, which Unicode has where MathML had ``mathvariant``."""
    name = unicodedata.name(character, "")
    for word in ("LATIN ", "GREEK ", "LETTER "):
        name = name.replace(word, "")
    for known in (f"MATHEMATICAL {VARIANTS[variant]} {name}", f"{VARIANTS[variant]} {name}"):
        try:
            return unicodedata.lookup(known)
        except KeyError:
            continue
    return character


def is_operator(element) -> bool:
    """An operator or an opening bracket, or nothing: a minus after it is a sign."""
    return element is None or (element.tag == "mo" and element.text not in (")", "]", "|", "!"))


def mend(element, before, after) -> None:
    """Settle one element, given its neighbours in a row."""
    text, variant = element.text or "", element.get("mathvariant")
    if variant in VARIANTS:
        element.text = "".join(letter(character, variant) for character in text)
        del element.attrib["mathvariant"]
    if variant == "monospace":
        element.attrib = {"style": "font-family: monospace; font-size: 85%"}
    if element.tag == "mspace" and element.get("width") == "negativethinmathspace":
        element.set("width", f"-{THIN}")
    if element.tag == "mi" and unicodedata.category(text[:1] or "x") in ("Sm", "Ps", "Pe"):
        element.tag = "mo" if text not in VALUES else "mi"
        element.text = {"~": "∼"}.get(text, text)
    if element.tag in ("mi", "mo") and len(text) > 1 and text[0].isalpha():  # sin, max
        bracket = after is not None and after.text == "("
        element.tag, spaces = "mo", {"rspace": "0" if bracket else THIN, "form": "prefix"}
        element.attrib |= spaces | {"lspace": "0" if is_operator(before) else THIN}
    if element.tag == "mo" and text in ("|", "‖", "∥", "/"):
        element.attrib |= {"lspace": "0", "rspace": "0"}
        if not {"stretchy", "minsize"} & set(element.attrib):
            element.set("stretchy", "false")
    if element.tag == "mo" and text in VALUES:
        element.tag = "mi"
    if element.tag == "mi" and "Α" <= text <= "Ω":  # capitals stand upright
        element.set("mathvariant", "normal")
    if element.tag == "mo" and text in "−±∓+" and is_operator(before):
        element.set("form", "prefix")
    if element.tag == "mover" and element[-1].text in ACCENTS:
        element.set("accent", "true")
        wide = element[-1].text in "―¯"
        element[-1].text = ACCENTS[element[-1].text]
        element[-1].attrib = {"stretchy": str(wide).lower()}


def mathml(formula: str, *, block: bool) -> str:
    """Return a formula as MathML; one that is not understood raises ``ValueError``."""
    try:
        drawn = convert(formula, xmlns="", display="block" if block else "inline")
    except Exception as error:  # each way to fail has a class of its own
        raise ValueError(repr(error)) from error
    root = ElementTree.fromstring(drawn)
    for row in [*root.iter()]:
        if row.tag in ("msub", "msup", "mover", "munder", "mfrac", "munderover", "msubsup"):
            if len(row) < 2:
                raise ValueError(f"<{row.tag}> lacks a part")
            neighbours = [(child, root, None) for child in row]  # a sign there is no sign
        else:
            neighbours = zip(row, [None, *row], [*row[1:], None], strict=False)
        for child, before, after in [*neighbours]:
            if (child.text or "").startswith("\\") and len(child.text) > 1:
                raise ValueError(f"unknown: {child.text}")
            mend(child, before, after)
    root.attrib = {"display": root.get("display"), "alttext": formula}
    return ElementTree.tostring(root, encoding="unicode")
