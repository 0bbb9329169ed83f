"""What a text looks like: letters that look the same, and characters that show nothing."""

import unicodedata

_IGNORED = ({0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x2800, 0x3164, 0xFFA0}).union(
    *(range(0x180B, 0x1810), range(0xFE00, 0xFE10), range(0xFFF0, 0xFFF9), range(0xE0000, 0xE1000))
)
"""Invisible characters, besides those of category Cf: variation selectors, fillers, tags."""

_LATIN = "".join(map(chr, range(ord("A"), ord("Z") + 1)))

_LOOK_ALIKES = (
    ("АВЕКМНОРСТУХІЈЅԌԚԜ", "ABEKMHOPCTYXIJSGQW"),  # Cyrillic
    ("аеорсухіјѕԁһӏԛԝѵґкмтп", "aeopcyxijsdhlqwvrkmtn"),
    ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX"),  # Greek
    ("αειικνορτυχγηϲϳ", "aeiiknoptuxyncj"),
    ("օսհոցյզ", "ouhngjq"),  # Armenian
    ("ᎪᏴᏟᎠᎬᏀᎻᎫᏦᏞᎷᏢᏒᏚᎢᏙᎳᏃ", "ABCDEGHJKLMPRSTVWZ"),  # Cherokee
    ("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnoprstuvwyz"),  # small capitals
    ("ıɑɡɩʋøđłħŧƀ", "iagiuodlhtb"),  # Latin letters that NFKD leaves as they are
)
_FOLDED = {ord(one): other for ones, others in _LOOK_ALIKES for one, other in zip(ones, others, strict=True)}
for _first in (0x1F150, 0x1F170, 0x1F1E6):  # letters in black circles, in black squares, and of flags
    _FOLDED |= {_first + index: letter for index, letter in enumerate(_LATIN)}
"""The Latin letter that each common look-alike resembles: a selection, after Unicode's TR39."""


def skeleton(text: str) -> str:
    """Return a text in lower case, without accents and invisible characters, with look-alikes as Latin letters.

    It is for comparison with other skeletons, not for display.
    """
    letters = unicodedata.normalize("NFKD", text).translate(_FOLDED).casefold().translate(_FOLDED)
    decomposed = unicodedata.normalize("NFKD", letters)
    return "".join(each for each in decomposed if not unicodedata.combining(each) and not _is_invisible(each))


def is_visible(text: str) -> bool:
    """Return whether a text has at least one visible character."""
    return any(unicodedata.category(each)[0] not in "MZ" and not _is_invisible(each) for each in text)


def max_stacked_marks(text: str) -> int:
    """Return the largest number of combining marks on one letter."""
    longest = run = 0
    for each in text:
        run = run + 1 if unicodedata.category(each) in {"Mn", "Me"} else 0
        longest = max(longest, run)
    return longest


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or ord(character) in _IGNORED
