"""A file of OpenStreetMap data, of which only what exists now is read."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maptile2sat.osm.xml_notes import Notes, read_notes, write_flat

_LISTED = 5
"""How many objects that refer to deleted ones a warning names."""


class OsmFile:
    """What a file holds, without what was deleted and without older versions.

    Attributes:
        path: The file.
        header: What osmium tells of its head.
        remarks: What the file says of itself.
        warnings: What is not drawn, and why.
        placed: Whether its ways may have places of their own.
        skip: A filter of osmium that leaves out what does not exist, if there is any of that.
    """

    def __init__(self, osmium: Any, path: Path, notes: Notes, source: Path) -> None:
        self._osmium, self._source = osmium, str(source)
        self.path = path
        self.remarks = notes.remarks
        self.warnings: list[str] = []
        self.skip: _Skip | None = None
        self.header = osmium.FileProcessor(self._source, osmium.osm.NOTHING).header
        self.placed = notes.placed or notes.nested or _is_placed(self.header)
        if notes.versions or notes.deleted or self.header.has_multiple_object_versions:
            self._find_gone(notes)

    def objects(self, kinds: Any) -> Iterator[Any]:
        """Yield the objects of some kinds."""
        processor = self._osmium.FileProcessor(self._source, kinds)
        return iter(processor if self.skip is None else processor.with_filter(self.skip))

    def apply(self, kinds: Any, *handlers: Any) -> None:
        """Have osmium call `handlers` with each object of some kinds."""
        first = () if self.skip is None else (self.skip,)
        with self._osmium.io.Reader(self._source, kinds) as reader:
            self._osmium.apply(reader, *first, *handlers)

    def places(self) -> Iterator[tuple[float, float]]:
        """Yield longitude and latitude of all nodes, in their ways too if they have places there.

        Those of a node that is in both come twice.
        """
        kinds = self._osmium.osm.NODE
        for item in self.objects(kinds | self._osmium.osm.WAY if self.placed else kinds):
            for at in item.nodes if item.is_way() else (item,):
                if at.location.valid():
                    yield at.location.lon, at.location.lat

    def _find_gone(self, notes: Notes) -> None:
        """Find what was deleted, with all that refers to it, and older versions."""
        osm = self._osmium.osm
        seen: dict[str, dict[int, tuple[int, bool]]] = {"n": {}, "w": {}, "r": {}}
        several: dict[str, set[int]] = {kind: set() for kind in seen}
        for item in self.objects(osm.ALL):
            kind, state = item.type_str(), (item.version, not item.visible)
            known = seen[kind].get(item.id)
            if known is not None and known[0] != state[0]:
                several[kind].add(item.id)
            seen[kind][item.id] = state if known is None else max(known, state)
        gone = {kind: {ref for ref, (_, dead) in seen[kind].items() if dead} for kind in seen}
        for name, ref in notes.deleted:
            gone[name[0]].add(ref)
        newest = {kind: {ref: seen[kind][ref][0] for ref in several[kind]} for kind in seen}
        del seen
        if not any(gone.values()) and not any(newest.values()):
            return
        self.skip = _Skip(newest, gone)
        hanging: list[str] = []
        for below, kind, refs in (("n", "way", _nodes), ("w", "relation", _ways)):
            if gone[below]:
                for item in self.objects(osm.WAY if kind == "way" else osm.RELATION):
                    if not gone[below].isdisjoint(refs(item)):
                        hanging.append(f"{kind} {item.id}")
                        gone[kind[0]].add(item.id)
        if hanging:
            more = f" and {len(hanging) - _LISTED} more" if len(hanging) > _LISTED else ""
            self.warnings.append(
                "not drawn, because they refer to what the extract says is deleted: "
                f"{', '.join(hanging[:_LISTED])}{more}: get it anew, with all of that in it"
            )


@contextmanager
def open_osm(osmium: Any, path: Path) -> Iterator[OsmFile]:
    """Open a file of OpenStreetMap data.

    Raises:
        SourceError: If it holds changes, or is JSON.
    """
    notes = read_notes(path)
    if not notes.nested:
        yield OsmFile(osmium, path, notes, path)
        return
    with tempfile.TemporaryDirectory(prefix="maptile2sat-") as folder:
        flat = Path(folder) / "flat.osm"
        write_flat(path, flat)
        yield OsmFile(osmium, path, notes, flat)


def _is_placed(header: Any) -> bool:
    """Return whether a PBF file has places on its ways, which it says."""
    at = 0
    while feature := header.get(f"pbf_optional_feature_{at}", ""):
        if feature == "LocationsOnWays":
            return True
        at += 1
    return False


def _nodes(way: Any) -> Iterator[int]:
    return (node.ref for node in way.nodes)


def _ways(relation: Any) -> Iterator[int]:
    return (member.ref for member in relation.members if member.type == "w")


class _Skip:
    """What osmium asks first: true leaves an object out."""

    def __init__(self, newest: dict[str, dict[int, int]], gone: dict[str, set[int]]) -> None:
        self.node = _absent(newest["n"], gone["n"])
        self.way = _absent(newest["w"], gone["w"])
        self.relation = _absent(newest["r"], gone["r"])


def _absent(newest: dict[int, int], gone: set[int]) -> Callable[[Any], bool]:
    return lambda item: item.id in gone or newest.get(item.id, item.version) != item.version
