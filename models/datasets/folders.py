"""Which files of an archive are images, and of which class: the name of the folder they lie in."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from models.datasets.archives import shown
from models.datasets.arrays import bad_file
from models.spec import SpecError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

_MAX_CLASS_LETTERS = 256
_MAX_PART_LETTERS = 256  # no file system has longer names, and marks without end take NFC hours
_LITTER = ("thumbs.db", "desktop.ini")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_LAYOUT = (
    "an image lies in the folder of its class, such as cat/1.png, and one folder may hold all of "
    "these"
)

Folder = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The images of an archive, in the order of class and file name by code points.

    Attributes:
        classes: the folders' names, sorted.
        codes: for each image its class, an index into ``classes``.
        entries: for each image its index in the archive.
    """

    classes: tuple[str, ...]
    codes: list[int]
    entries: list[int]


def layout(names: Sequence[str]) -> Layout:
    """Sort the files of an archive into classes; names count in their NFC form.

    Hidden files, ``__MACOSX``, ``Thumbs.db`` and ``desktop.ini`` are left out.

    Args:
        names: relative paths, from `models.datasets.archives`.

    Raises:
        SpecError: a file that is no image by its name, lies elsewhere than ``class/file`` or
            ``folder/class/file``, stands twice or has too long a name; or a folder whose name
            cannot be a class's.
    """
    folders: dict[str, Folder | None] = {}
    found: list[tuple[Folder, str, int]] = []
    for index, name in enumerate(names):
        folder, _, file = name.removeprefix("./").rpartition("/")
        if folder not in folders:
            folders[folder] = _folder(folder)
        place = folders[folder]
        if place is None or file[:1] == "." or file.lower() in _LITTER:
            continue
        if not file.lower().endswith(EXTENSIONS):
            raise _no_image(name)
        found.append((place, _nfc(file), index))
    depth = _depth(found, names)
    found.sort()
    for before, after in itertools.pairwise(found):
        if before[:2] == after[:2]:
            raise _one_name(names[before[2]], names[after[2]])
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(place[depth], len(numbers)) for place, _, _ in found]
    return Layout(classes=tuple(numbers), codes=codes, entries=[index for _, _, index in found])


def _folder(name: str) -> Folder | None:
    """The folders on the way to a file; None where what they hold is left out."""
    parts = tuple(map(_nfc, name.split("/"))) if name else ()
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return None
    return parts


def _depth(found: Sequence[tuple[Folder, str, int]], names: Sequence[str]) -> int:
    """How many folders stand before those of the classes: 0 or 1, and the same for all."""
    places: dict[Folder, int] = {}
    for place, _, index in found:
        places.setdefault(place, index)
    depth = 1 if all(len(place) > 1 for place in places) else 0
    tops: dict[str, int] = {}
    for place, index in places.items():
        tops.setdefault(place[0] if place else "", index)
    if depth == 1 and len(tops) > 1:
        one, other = [shown(names[index]) for index in tops.values()][:2]
        raise bad_file(
            f"the entries {one} and {other} lie in two folders of folders, but {_LAYOUT}. Splits "
            "are datasets of their own"
        )
    for place, index in places.items():
        if len(place) != depth + 1:
            raise bad_file(f"the entry {shown(names[index])} is not where it should be: {_LAYOUT}")
        name = place[depth]
        if len(name) > _MAX_CLASS_LETTERS or not name.isprintable():
            raise bad_file(
                f"the folder {shown(name)} cannot name a class: that takes 1 to "
                f"{_MAX_CLASS_LETTERS} printable characters"
            )
    return depth


def _no_image(name: str) -> SpecError:
    if name.lower().endswith(_ARCHIVES):
        return bad_file(
            f"the entry {shown(name)} is an archive inside of the archive; pack the folders of "
            "images themselves"
        )
    return bad_file(f"the entry {shown(name)} is no image; read are {', '.join(EXTENSIONS)}")


def _one_name(one: str, other: str) -> SpecError:
    if one == other:
        return bad_file(f"the entry {shown(one)} stands in the archive twice")
    return bad_file(
        f"the entries {shown(one)} and {shown(other)} have one name once './' is left out and "
        "letters are composed (NFC)"
    )


def _nfc(part: str) -> str:
    """The name of one file or folder as it counts."""
    if len(part) > _MAX_PART_LETTERS:
        raise bad_file(
            f"the name {shown(part)} has {len(part)} characters; the name of a file or folder has "
            f"at most {_MAX_PART_LETTERS}"
        )
    return part if part.isascii() else unicodedata.normalize("NFC", part)
