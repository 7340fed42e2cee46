"""Codes of languages in the names of files: the same code, or one that means the same."""

import re
from collections.abc import Iterable, Mapping, Sequence

from xsub_utils._internal.validation import invalid

# ISO 639-1 and what else goes by it: the codes of ISO 639-2 and 639-3, and of a macrolanguage its standard variety, as
# in FLORES (swh, arb). From the aliases of languages in CLDR.
_ALIASES = """
aa:aar ab:abk ae:ave af:afr ak:aka ak:twi am:amh an:arg ar:ara ar:arb as:asm av:ava ay:aym ay:ayr az:aze az:azj
ba:bak be:bel bg:bul bi:bis bm:bam bn:ben bo:bod bo:tib br:bre bs:bos ca:cat ce:che ch:cha co:cos cr:cre cs:ces
cs:cze cu:chu cv:chv cy:cym cy:wel da:dan de:deu de:ger dv:div dz:dzo ee:ewe el:ell el:gre en:eng eo:epo es:spa
et:ekk et:est eu:baq eu:eus fa:fas fa:per fa:pes ff:ful fi:fin fj:fij fo:fao fr:fra fr:fre fy:fry ga:gle gd:gla
gl:glg gn:grn gu:guj gv:glv ha:hau he:heb hi:hin ho:hmo hr:hrv ht:hat hu:hun hy:arm hy:hye hz:her ia:ina id:ind
ie:ile ig:ibo ii:iii ik:ipk io:ido is:ice is:isl it:ita iu:iku ja:jpn jv:jav ka:geo ka:kat kg:kon ki:kik kj:kua
kk:kaz kl:kal km:khm kn:kan ko:kor kr:kau ks:kas ku:kmr ku:kur kv:kom kw:cor ky:kir la:lat lb:ltz lg:lug li:lim
ln:lin lo:lao lt:lit lu:lub lv:lav lv:lvs mg:mlg mg:plt mh:mah mi:mao mi:mri mk:mac mk:mkd ml:mal mn:khk mn:mon
mr:mar ms:may ms:msa ms:zsm mt:mlt my:bur my:mya na:nau nb:nob nd:nde ne:nep ne:npi ng:ndo nl:dut nl:nld nn:nno
no:nor nr:nbl nv:nav ny:nya oc:oci oj:oji om:gaz om:orm or:ori or:ory os:oss pa:pan pi:pli pl:pol ps:pbu ps:pus
pt:por qu:que qu:quz rm:roh rn:run ro:ron ro:rum ru:rus rw:kin sa:san sc:srd sd:snd se:sme sg:sag si:sin sk:slk
sk:slo sl:slv sm:smo sn:sna so:som sq:alb sq:als sq:sqi sr:srp ss:ssw st:sot su:sun sv:swe sw:swa sw:swh ta:tam
te:tel tg:tgk th:tha ti:tir tk:tuk tn:tsn to:ton tr:tur ts:tso tt:tat ty:tah ug:uig uk:ukr ur:urd uz:uzb uz:uzn
ve:ven vi:vie vo:vol wa:wln wo:wol xh:xho yi:ydd yi:yid yo:yor za:zha zh:chi zh:cmn zh:zho zu:zul
"""
ISO_639_1 = {long: short for short, long in (pair.split(":") for pair in _ALIASES.split())}

Tag = tuple[str, frozenset[str]]  # a language and what narrows it: script, region


def languages_of(names: Iterable[str], languages: Sequence[str]) -> dict[str, str]:
    """Name of a file, without its ending -> the language that it tells, for those that tell one.

    A code stands between separators or at an end; of several the longest counts, of equally long ones the first. Only
    for languages of which no name has the very code, equivalents count: `zh` is told by `zho_Hans` too.

    Raises:
        ValueError: If a language could be several, such as `zho_Hans` and `zho_Hant`.
    """
    names = list(names)
    told = {name: code for name in names if (code := _code_in(name, languages)) is not None}
    others = {code: tag for code in languages if code not in told.values() and (tag := _tag(code)) is not None}
    tags = {name: _tags_in(name) for name in names if name not in told} if others else {}
    for code, tag in others.items():
        told |= dict.fromkeys(_equivalent(code, tag, tags), code)
    return told


def _code_in(name: str, languages: Sequence[str]) -> str | None:
    matches = [
        (-len(code), match.start(), code)
        for code in languages
        if (match := re.search(rf"(?<![^/._-]){re.escape(code)}(?![^/._-])", name))
    ]
    return min(matches)[2] if matches else None


def _equivalent(code: str, tag: Tag, tags: Mapping[str, Sequence[Tag]]) -> list[str]:
    """Names that tell a language by a code that means the same, or something narrower."""
    found = {
        name: narrower
        for name, own in tags.items()
        for language, narrower in own
        if language == tag[0] and narrower >= tag[1]
    }
    if len(meant := set(found.values())) > 1:
        several = ", ".join(sorted("_".join((tag[0], *sorted(narrower))) for narrower in meant))
        raise invalid("languages", f"a code that tells {several} apart", repr(code), "give the codes in the names")
    return list(found)


def _tags_in(name: str) -> list[Tag]:
    """Every language that a name may tell, with what stands behind it."""
    words = re.split(r"[/._-]", name)
    tags = (_tag("-".join(words[start : start + 3])) for start in range(len(words)))
    return [tag for tag in tags if tag is not None]


def _tag(code: str) -> Tag | None:
    """A language in two letters where it has them, with its script and its region; None if it is no such code."""
    first, *rest = re.split(r"[_-]", code)
    if not re.fullmatch(r"[A-Za-z]{2,3}", first):
        return None
    narrower = []
    for word in rest:
        if not re.fullmatch(r"[A-Z][a-z]{3}|[A-Za-z]{2}", word):
            break
        narrower.append(word.lower())
    return ISO_639_1.get(first.lower(), first.lower()), frozenset(narrower)
