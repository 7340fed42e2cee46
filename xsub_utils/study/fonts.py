"""Fonts for what the usual one has no glyphs of: Chinese, Devanagari and the like in the labels of figures."""

import os
import unicodedata
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import matplotlib as mpl
from matplotlib import font_manager

from xsub_utils._internal.validation import one_of

VARIABLE = "XSUB_FONT"  # name or file of a font for characters that the usual one lacks
LAST_RESORT = "Last Resort"  # matplotlib's: boxes for every character
_warned: set[str] = set()


def add_fallbacks(texts: Iterable[str]) -> None:
    """Let figures take glyphs that the usual font lacks from others that are installed, the user's choice first.

    Warns once for each script that no font has.

    Raises:
        ValueError: If the environment variable `XSUB_FONT` names no font.
    """
    usual = font_manager.findfont(font_manager.FontProperties(family=mpl.rcParams["font.family"]))
    missing = {char for text in texts for char in text if char.isprintable()} - _characters(usual)
    families = []
    for name, file in _candidates() if missing else []:
        if found := missing & _characters(file):
            families.append(name)
            missing -= found
        if not missing:
            break
    mpl.rcParams["font.family"] = [*mpl.rcParams["font.family"], *families]
    _warn({script_of(char) for char in missing})


def script_of(char: str) -> str:
    """The script of a character, by the first word of its name: "CJK", "Devanagari"."""
    word = unicodedata.name(char, "unknown").split()[0]
    return word if word == "CJK" else word.title()


def _candidates() -> list[tuple[str, str]]:
    """Names and files of upright fonts of normal weight: the user's, then all that are installed, by name."""
    plain = {
        font.name: font.fname
        for font in sorted(font_manager.fontManager.ttflist, key=lambda font: (font.name, font.fname), reverse=True)
        if font.style == "normal" and font.weight in (400, "normal", "regular") and LAST_RESORT not in font.name
    }
    installed = dict(sorted(plain.items()))
    chosen = os.environ.get(VARIABLE)
    if not chosen:
        return list(installed.items())
    name = _added(chosen) if Path(chosen).is_file() else one_of(VARIABLE, chosen, installed)
    return [(name, installed.get(name, chosen)), *installed.items()]


def _added(file: str) -> str:
    """Name of the font in a file, made known to matplotlib."""
    font_manager.fontManager.addfont(file)
    return font_manager.FontProperties(fname=file).get_name()


@cache
def _characters(file: str) -> frozenset[str]:
    return frozenset(map(chr, font_manager.get_font(file).get_charmap()))


def _warn(scripts: set[str]) -> None:
    """Say which scripts no font has, once; matplotlib would say it for every character of every figure."""
    if not scripts:
        return
    warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
    if new := sorted(scripts - _warned):
        _warned.update(new)
        expected = f"a font for {', '.join(new)}, got none that is installed"
        remedy = f"install one, such as Noto Sans, or name a file: {VARIABLE}=font.ttf"
        warnings.warn(f"labels of figures: expected {expected}; {remedy}", stacklevel=2)
