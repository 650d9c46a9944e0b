"""Compound names as suppliers write them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perturbridge_dagster.identity.names import names_around_brackets, spelled_name


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("Topotecan HCl", "topotecan hydrochloride"),
        ("Mitoxantrone 2HCl", "mitoxantrone dihydrochloride"),
        ("Mitoxantrone 2 HCl", "mitoxantrone dihydrochloride"),
        ("Mitoxantrone (dihydrochloride)", "mitoxantrone dihydrochloride"),
        ("GSK-2 HCl", "gsk-2 hydrochloride"),
        ("Imatinib methanesulfonate", "imatinib mesylate"),
        ("Pravastatin  (Sodium salt)", "pravastatin sodium"),
        ("Balsalazide (sodium hydrate)", "balsalazide sodium hydrate"),
        ("Belinostat (PXD101)", "belinostat (pxd101)"),
        ("(+)-JQ1", "(+)-jq1"),
        ("", ""),
    ],
)
def test_salts_are_written_in_one_way(name: str, spelled: str) -> None:
    assert spelled_name(name) == spelled
    assert spelled_name(spelled) == spelled


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("Belinostat (PXD101)", ("belinostat", "pxd101")),
        ("Luminespib (AUY-922, NVP-AUY922)", ("luminespib", "auy-922", "nvp-auy922")),
        ("Tofacitinib (CP-690550,Tasocitinib)", ("tofacitinib", "cp-690550", "tasocitinib")),
        ("A (B) (C)", ("a (b)", "c")),
        ("Doxorubicin (Adriamycin) HCl", ("doxorubicin hydrochloride", "adriamycin hydrochloride")),
        ("Abiraterone acetate (CB7630)", ("abiraterone acetate", "cb7630 acetate")),
        ("X (Y sodium)", ("x sodium", "y sodium")),
        ("X (Y, hydrate)", ("x hydrate", "y hydrate")),
        # different salts, or no base
        ("X sodium (Y potassium)", ()),
        ("Sodium (Y)", ()),
        # another compound, or brackets inside the name
        ("Verapamil (R)", ()),
        ("Imatinib (D8)", ()),
        ("Thing (mixture of isomers)", ()),
        ("X (Y) conjugate", ()),
        ("(+)-JQ1", ()),
        ("poly(ethylene glycol)", ()),
        ("no brackets", ()),
        ("", ()),
        ("()", ()),
        ("X (", ()),
        ("X ()", ()),
    ],
)
def test_parts_around_brackets(name: str, names: tuple[str, ...]) -> None:
    assert names_around_brackets(name) == names


WORD = st.text("bcfgjkqvwxy123", min_size=3, max_size=8)
SALT = st.sampled_from(["hydrochloride", "HCl", "2HCl", "mesylate", "sodium", "hydrate", "dimesylate"])


@given(WORD, WORD, SALT, st.sampled_from(["{0} ({1}) {2}", "{0} {2} ({1})", "{0} ({1} {2})", "{0} ({1}, {2})"]))
def test_a_salt_goes_with_every_part(outside: str, inside: str, salt: str, form: str) -> None:
    names = names_around_brackets(form.format(outside, inside, salt))
    assert set(names) == {spelled_name(f"{part} {salt}") for part in (outside, inside)}


@given(st.text("ab1 ()+-,HCl", max_size=24))
@example("1 ( )")
def test_any_text_is_read(name: str) -> None:
    assert spelled_name(spelled_name(spelled_name(name))) == spelled_name(spelled_name(name))
    assert all(part.strip() == part and part for part in names_around_brackets(name))
