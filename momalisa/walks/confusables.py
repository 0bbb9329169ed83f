"""What a text looks like to a reader, whatever its characters are."""

import unicodedata

_IGNORED = ({0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x2800, 0x3164, 0xFFA0}).union(
    *(range(0x180B, 0x1810), range(0xFE00, 0xFE10), range(0xFFF0, 0xFFF9), range(0xE0000, 0xE1000))
)
"""Characters that show nothing by themselves, besides those of category Cf: variation selectors, fillers, tags."""

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
for _first in (0x1F150, 0x1F170, 0x1F1E6):  # letters in black circles and squares, and those that flags are made of
    _FOLDED |= {_first + index: letter for index, letter in enumerate(_LATIN)}
"""A Latin letter for each common one that looks like it: a choice, after the idea of Unicode's TR39."""


def skeleton(text: str) -> str:
    """Return a text in small letters, without accents and what shows nothing, in Latin letters where it looks so.

    It is for comparing with another text that went through the same, not for showing.
    """
    letters = unicodedata.normalize("NFKD", text).translate(_FOLDED).casefold().translate(_FOLDED)
    decomposed = unicodedata.normalize("NFKD", letters)
    return "".join(each for each in decomposed if not unicodedata.combining(each) and not _shows_nothing(each))


def has_visible(text: str) -> bool:
    """Tell whether a reader sees anything of a text."""
    return any(unicodedata.category(each)[0] not in "MZ" and not _shows_nothing(each) for each in text)


def marks_in_a_row(text: str) -> int:
    """Return the length of the longest pile of marks on one letter."""
    most = row = 0
    for each in text:
        row = row + 1 if unicodedata.category(each) in {"Mn", "Me"} else 0
        most = max(most, row)
    return most


def _shows_nothing(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or ord(character) in _IGNORED
