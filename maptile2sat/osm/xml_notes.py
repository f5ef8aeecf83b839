"""What an XML file of OpenStreetMap data says that osmium passes over, or refuses."""

from __future__ import annotations

import bz2
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from xml.parsers import expat  # nosec B407 # nothing with entities is parsed
from xml.sax.saxutils import quoteattr, unescape

from maptile2sat.errors import SourceError

_CHUNK = 1 << 20
_OVERLAP = 1 << 12  # longer than any start tag that is looked for
_MAX_REWRITTEN = 1 << 30
_MAX_REMARK = 300
_NEW_NODES = 1 << 62
"""Ids of nodes that have none: beyond all that exist."""

_DELETED = re.compile(rb"\baction\s*=\s*[\"']delete")
_REMARK = re.compile(rb"<remark\b")
_NESTED = re.compile(rb"<member\b[^>]*[^/>]>")
_PLACED = re.compile(rb"<nd\b[^>]*\blat\s*=")
_VISIBLE = re.compile(rb"\bvisible\s*=")

_CHANGES = (
    "holds changes to OpenStreetMap data, which say how it became different and not what is there: "
    "apply them to an extract (osmium apply-changes city.osm.pbf changes.osc -o new.osm.pbf) and "
    "give that"
)
_JSON = (
    "is JSON, of which OpenStreetMap data is not read: export it as XML (Overpass: [out:xml] in "
    "place of [out:json]) and give the .osm file"
)


@dataclass
class Notes:
    """What stands in an XML file besides its objects.

    Attributes:
        remarks: What the server that wrote it has to say, such as that it was too slow.
        deleted: Kind (`node`, `way`, `relation`) and id of what an editor has deleted.
        versions: Whether it says of objects that they are visible or not.
        placed: Whether ways have the places of their nodes.
        nested: Whether members of relations have places.
    """

    remarks: list[str] = field(default_factory=list)
    deleted: set[tuple[str, int]] = field(default_factory=set)
    versions: bool = False
    placed: bool = False
    nested: bool = False


def opened(path: Path) -> IO[bytes] | gzip.GzipFile | bz2.BZ2File:
    """Open a file that may be compressed."""
    if path.suffix == ".gz":
        return gzip.open(path)
    return bz2.open(path) if path.suffix == ".bz2" else path.open("rb")


def is_overpass_json(path: Path) -> bool:
    """Return whether a file looks like OpenStreetMap data in JSON."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 12).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError:
        return False
    return head.startswith(b"{") and re.search(rb'"(osm3s|elements)"\s*:', head) is not None


def read_notes(path: Path) -> Notes:
    """Read what an XML file says besides its objects; nothing if it is none.

    Raises:
        SourceError: If it holds changes, or is JSON.
    """
    endings = path.name.lower().split(".")[-2:]
    if "osc" in endings or "o5c" in endings:
        raise SourceError(f"{path} {_CHANGES}")
    if endings[-1] == "pbf":
        return Notes()
    notes, marked = Notes(), False
    with suppress(expat.ExpatError, LookupError, OSError, EOFError, ValueError, zlib.error):
        # of what is damaged osmium says what is wrong
        for at, chunk in enumerate(_chunks(path)):
            if not at:
                _refuse_others(chunk, path)
            wide = chunk[:2] in (b"\xff\xfe", b"\xfe\xff")  # UTF-16: nothing is found by bytes
            marked = marked or wide or bool(_DELETED.search(chunk) or _REMARK.search(chunk))
            notes.versions = notes.versions or wide or bool(_VISIBLE.search(chunk))
            notes.placed = notes.placed or wide or bool(_PLACED.search(chunk))
            notes.nested = notes.nested or bool(_NESTED.search(chunk))
        if marked:
            _parse(path, _NoteReader(notes))
    return notes


def write_flat(path: Path, target: Path) -> None:
    """Write an XML file anew, with members that have places as ways of their own.

    Raises:
        SourceError: If it is too large for that, or damaged.
    """
    try:
        with target.open("w", encoding="utf-8") as out:
            _parse(path, _Flattener(out, path))
    except (expat.ExpatError, LookupError, EOFError, ValueError, zlib.error) as error:
        raise SourceError(f"{path} cannot be read as OpenStreetMap data ({error})") from error


def _chunks(path: Path) -> Iterator[bytes]:
    """Yield the content, each part with the end of the one before."""
    tail = b""
    with opened(path) as file:
        while part := file.read(_CHUNK):
            yield tail + part
            tail = part[-_OVERLAP:]


def _refuse_others(head: bytes, path: Path) -> None:
    """Refuse changes, JSON and web pages by how they begin."""
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        remark = re.search(rb'"remark"\s*:\s*"((?:[^"\\]|\\.)*)"', head)
        said = _line(remark[1].decode(errors="replace"))[:_MAX_REMARK] if remark else ""
        raise SourceError(f"{path} {_JSON}" + (f"; it says of itself: {said}" if said else ""))
    if re.match(rb"\s*(<\?xml[^>]*>\s*)?(<!DOCTYPE html|<html)", head, re.IGNORECASE):
        text = _line(re.sub(r"(?s)<head.*?</head>|<[^>]*>", " ", head.decode(errors="replace")))
        raise SourceError(
            f"{path} cannot be read as OpenStreetMap data: it is a web page that says "
            f"'{unescape(text)[-_MAX_REMARK:]}': ask for it again, or for a smaller area"
        )
    names: list[str] = []
    parser = _parser()
    parser.StartElementHandler = lambda name, _: names.append(name)
    with suppress(expat.ExpatError, LookupError, ValueError):
        parser.Parse(head, False)
    if names[:1] == ["osmChange"] or names[:1] == ["osmAugmentedDiff"] or "action" in names:
        raise SourceError(f"{path} {_CHANGES}")


def _line(text: str) -> str:
    """Return a text from elsewhere as one line that is safe to show."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def _parser() -> Any:
    parser = expat.ParserCreate()
    parser.EntityDeclHandler = _no_entities
    return parser


def _no_entities(*_: Any) -> None:
    raise ValueError("entities")


def _parse(path: Path, reader: _NoteReader | _Flattener) -> None:
    parser = _parser()
    parser.StartElementHandler = reader.begin
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    with opened(path) as file:
        while chunk := file.read(_CHUNK):
            parser.Parse(chunk, False)
        parser.Parse(b"", True)


class _NoteReader:
    """Collects remarks and what was deleted."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._remark: list[str] | None = None

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        if name == "remark":
            self._remark = []
        elif attributes.get("action") == "delete" and name in ("node", "way", "relation"):
            self._notes.deleted.add((name, int(attributes.get("id", ""))))

    def end(self, name: str) -> None:
        if name == "remark" and self._remark is not None:
            text = _line("".join(self._remark))
            if text:
                self._notes.remarks.append(text[:_MAX_REMARK])
            self._remark = None

    def text(self, data: str) -> None:
        if self._remark is not None:
            self._remark.append(data)


class _Flattener:
    """Writes elements as they come, but the places of members as ways at the end."""

    def __init__(self, out: IO[str], path: Path) -> None:
        self._out, self._path = out, path
        self._ways: set[str] = set()
        self._members: dict[str, list[tuple[str, str] | None]] = {}
        self._places: list[tuple[str, str] | None] | None = None
        self._nodes: dict[tuple[str, str] | None, int] = {None: _NEW_NODES}
        self._depth = self._size = 0

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if name == "nd" and self._places is not None:
            place = attributes.get("lon", ""), attributes.get("lat", "")
            self._places.append(place if all(place) else None)
            return
        if name == "member":
            self._places = []
            if attributes.get("type") == "way":
                self._members.setdefault(attributes.get("ref", ""), self._places)
        elif name == "way":
            self._ways.add(attributes.get("id", ""))
        self._write(f"<{name}{_attributes(attributes)}>")

    def end(self, name: str) -> None:
        self._depth -= 1
        if name == "nd" and self._places is not None:
            return
        if name == "member":
            self._places = None
        if not self._depth:
            for ref, places in self._members.items():
                if places and ref not in self._ways:
                    self._write_way(ref, places)
        self._write(f"</{name}>\n")

    def text(self, data: str) -> None:
        """Leave text out: there is none in objects."""

    def _write_way(self, ref: str, places: list[tuple[str, str] | None]) -> None:
        self._write(f"<way{_attributes({'id': ref})}>")
        for place in places:
            number = self._nodes.setdefault(place, _NEW_NODES + len(self._nodes))
            where = {} if place is None else dict(zip(("lon", "lat"), place, strict=True))
            self._write(f"<nd{_attributes({'ref': str(number), **where})}/>")
        self._write("</way>\n")

    def _write(self, text: str) -> None:
        self._size += len(text)
        if self._size > _MAX_REWRITTEN:
            raise SourceError(
                f"{self._path} has the geometry of relations in their members, and more of it than "
                "can be put in order here: get it with ways and nodes ('out body; >; out skel qt;')"
            )
        self._out.write(text)


def _attributes(attributes: dict[str, str]) -> str:
    return "".join(f" {name}={quoteattr(value)}" for name, value in attributes.items())
