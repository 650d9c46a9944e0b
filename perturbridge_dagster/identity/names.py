"""Compound names as suppliers write them: synonyms in brackets, and words that say which salt or solvate is meant.

Belongs here: reading a name. Does not belong here: which compound a name leads to (``compounds.py``).

The salt belongs to the name and is never dropped: ``Doxorubicin (Adriamycin) HCl`` is asked for as ``doxorubicin hydrochloride`` and
``adriamycin hydrochloride``, not as ``adriamycin``, and where no table knows the salt, there is no answer rather than that of the base.
"""

from __future__ import annotations

import re

_SALTS = (
    "hydrochloride|hydrobromide|hydroiodide|chloride|bromide|iodide|acetate|benzoate|besylate|camsylate|citrate|edisylate|esylate|formate|"
    "fumarate|gluconate|hippurate|isethionate|lactate|malate|s-malate|maleate|mesylate|napsylate|nitrate|oxalate|pamoate|phosphate|"
    "succinate|sulfate|tartrate|tfa|tosylate|trifluoroacetate|xinafoate|ammonium|calcium|choline|erbumine|lithium|magnesium|meglumine|"
    "olamine|potassium|sodium|tromethamine|zinc|hydrate|solvate"
)
_FORM = re.compile(rf"(?:(?:mono|hemi|sesqui|bi|di|tri|tetra|penta|hexa|hepta|octa)?(?:{_SALTS})|salt)")

_SPELLINGS = (
    (re.compile(r"(?<![\w-])2\s*x?\s*(?=hcl\b|hbr\b)"), "di"),
    (re.compile(r"(?<![\w-])3\s*x?\s*(?=hcl\b|hbr\b)"), "tri"),
    (re.compile(r"\b((?:di|tri)?)hcl\b"), r"\1hydrochloride"),
    (re.compile(r"\b((?:di|tri)?)hbr\b"), r"\1hydrobromide"),
    (re.compile(r"\b((?:di)?)(?:methanesulfonate|methanesulphonate)\b"), r"\1mesylate"),
    (re.compile(r"sulphate\b"), "sulfate"),
    (re.compile(rf"\b({_SALTS})\s+salt\b"), r"\1"),
)

# "name (synonym)" or "name (synonym) salt"; brackets without a blank before them, as in (+)-JQ1, belong to the name
_BRACKETS = re.compile(r"(?P<before>\S.*?)\s+\((?P<inside>(?:[^()]|\([^()]*\))+)\)(?:\s+(?P<after>[^()]+))?")
_COMMA = re.compile(r"\s*[,;]\s+|,(?!\d)|(?<!\d),")
# a stereoisomer, a mixture or a labelled compound is another compound, not a synonym
_OTHER_COMPOUND = re.compile(r"[+\-−±]|(?:\d*[rsez][,/]?)+|[dl]{1,2}|rac\w*|cis|trans|d\d+|.*(?:isomer|mixture|labelled|labeled).*")


def _form(text: str) -> str:
    """The words of a name that say which salt or solvate is meant, empty for none."""
    return " ".join(word for word in text.split() if _FORM.fullmatch(word))


def spelled_name(name: str) -> str:
    """A name in small letters with salts written in one way.

    ``Mitoxantrone 2HCl`` and ``mitoxantrone (dihydrochloride)`` both become ``mitoxantrone dihydrochloride``.
    """
    text = " ".join(name.casefold().split())
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    match = _BRACKETS.fullmatch(text)
    if match and not match["after"] and _form(match["inside"]) == match["inside"]:
        text = f"{match['before']} {match['inside']}"
    return text


def names_around_brackets(name: str) -> tuple[str, ...]:
    """The name outside the last brackets and the names in them, each with the salt that the whole name says.

    Parameters
    ----------
    name
        A compound name.

    Returns
    -------
    Names as :func:`spelled_name` writes them. None where there are no brackets at the end or before a salt, where the brackets say
    that another compound is meant (a stereoisomer, a mixture), or where the parts name different salts.
    """
    match = _BRACKETS.fullmatch(spelled_name(name))
    if match is None or _OTHER_COMPOUND.fullmatch(match["inside"]):
        return ()
    after = match["after"] or ""
    parts = [part.strip() for part in (match["before"], *_COMMA.split(match["inside"]))]
    forms = {_form(part) for part in [*parts, after]} - {""}
    if len(forms) > 1 or _form(after) != after or _form(parts[0]) == parts[0]:
        return ()
    form = forms.pop() if forms else ""
    named = [part for part in parts if part and _form(part) != part]
    return tuple(part if _form(part) == form else f"{part} {form}" for part in named)


def name_stages(name: str) -> tuple[tuple[str, ...], ...]:
    """The names by which a compound is looked up, stage by stage: a stage counts where none before it leads to a compound.

    Parameters
    ----------
    name
        A name in small letters.

    Returns
    -------
    The whole name; the name with its salts written in one way; its parts around the last brackets, which answer together, where they
    lead to one compound. Stages that add nothing are left out.
    """
    stages = ((name,), (spelled_name(name),), names_around_brackets(name))
    return tuple(stage for number, stage in enumerate(stages) if stage and stage not in stages[:number])
