"""Map tiles in folders: z/x/y.png."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from maptile2sat.errors import SourceError
from maptile2sat.geo.grid import MAX_ZOOM, Window
from maptile2sat.sources.base import drawn_in, style_in
from maptile2sat.sources.options import SourceOptions
from maptile2sat.sources.redact import plain_text
from maptile2sat.sources.tiles import MAX_TILE_BYTES, TiledSource, open_tileset, span_of_tiles
from maptile2sat.sources.xyz import Template

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_TMS_NOTES = "tilemapresource.xml"
_NOTES_BYTES = 64 << 10
_PROFILE = re.compile(r"<TileSets\b[^<>]*?\bprofile\s*=\s*[\"']([^\"']+)[\"']", re.I)
_SRS = re.compile(r"<SRS>([^<]+)</SRS>", re.I)
_LAYOUT = re.compile(r"(?P<root>.*?)/?\{z\}/\{x\}/\{(?P<row>-?y)\}(?P<ending>[^/{}]*)")


class FolderTiles:
    """The tiles in a folder `root`/z/x/y.ending; a `TileSet`.

    Args:
        root: The folder.
        endings: What the files' names may end in.
        tms: Whether rows count from the south.

    Raises:
        SourceError: If there is no such folder.
    """

    remote = False

    def __init__(self, root: Path, endings: Sequence[str] = _ENDINGS, *, tms: bool = False) -> None:
        if not root.is_dir():
            raise SourceError(f"there is no folder {root}")
        self._root = root
        self._endings = endings
        self._tms = tms
        self.name = str(root)
        self.zooms: Sequence[int] = [
            zoom for zoom in sorted(_numbers(root)) if zoom <= MAX_ZOOM and self._first(zoom)
        ]
        metadata = _metadata(root / "metadata.json")
        self.attribution = plain_text(metadata.get("attribution", ""))
        self.style = style_in(metadata)
        self.drawn = drawn_in(metadata)

    def span(self, zoom: int) -> Window:
        """Return the hull of the tiles of `zoom`, in tiles."""
        columns: list[int] = []
        low, high = 1 << zoom, -1
        for column in _numbers(self._root / str(zoom)):
            rows = self._rows(zoom, column)
            if rows and column < 1 << zoom:
                columns.append(column)
                low, high = min(low, *rows), max(high, *rows)
        if not columns or high >= 1 << zoom:
            raise SourceError(f"{self._root} has tiles outside the world at zoom {zoom}")
        if self._tms:
            low, high = (1 << zoom) - 1 - high, (1 << zoom) - 1 - low
        return span_of_tiles(columns, (low, high), zoom)

    def sample(self, zoom: int) -> bytes | None:
        """Return some tile of `zoom`."""
        first = self._first(zoom)
        return _contents(first) if first else None

    def fetch(self, zoom: int, x: int, y: int) -> bytes | None:
        """Return a tile's bytes, or None where there is no file."""
        row = (1 << zoom) - 1 - y if self._tms else y
        for ending in self._endings:
            data = _contents(self._root / str(zoom) / str(x) / f"{row}{ending}")
            if data is not None:
                return data
        return None

    def discard(self, zoom: int, x: int, y: int) -> None:
        """Do nothing: there are no copies."""

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _rows(self, zoom: int, column: int) -> list[int]:
        """Return the rows of a column as the files count them."""
        names = [entry.name for entry in _entries(self._root / str(zoom) / str(column))]
        split = ((name[: -len(end)], end) for name in names for end in self._endings_of(name))
        return [int(stem) for stem, _ in split if _NUMBER.fullmatch(stem)]

    def _endings_of(self, name: str) -> list[str]:
        return [end for end in self._endings if end and name.endswith(end)] or (
            [""] if "" in self._endings else []
        )

    def _first(self, zoom: int) -> Path | None:
        """Return the file of some tile of a zoom."""
        for column in _numbers(self._root / str(zoom)):
            folder = self._root / str(zoom) / str(column)
            for row in self._rows(zoom, column):
                for ending in self._endings:
                    path = folder / f"{row}{ending}"
                    if path.is_file():
                        return path
        return None


def open_folder(text: str, options: SourceOptions, *, attribution: str = "") -> TiledSource:
    """Open a folder of tiles, or a template such as `tiles/{z}/{x}/{y}.png`.

    A folder with a `tilemapresource.xml` is a Tile Map Service: its rows count from the south.

    Args:
        text: The folder or the template.
        options: How to open it.
        attribution: Whom to name, if something else than the folder says it.

    Raises:
        SourceError: If there are no tiles or not the zoom.
    """
    if "{" not in text:
        root = Path(text)
        _check_profile(root / _TMS_NOTES)
        tiles = FolderTiles(root, tms=(root / _TMS_NOTES).is_file())
        if not tiles.zooms:
            raise SourceError(
                f"the folder {root} holds no map tiles named z/x/y.png (jpg, webp): name the map "
                "file itself, or the folder that the zoom folders are in"
            )
        return open_tileset(tiles, options, retina=False)
    match = _LAYOUT.fullmatch(Template(text).text)
    if match is None:
        raise SourceError(
            f"{text} is not a supported layout of tile files: it must end in "
            "{z}/{x}/{y}.png (or .jpg, .webp), or {-y} for rows from the south"
        )
    root = Path(match["root"] or ("/" if text.startswith("/") else "."))
    _check_profile(root / _TMS_NOTES)
    tiles = FolderTiles(root, [match["ending"]], tms=match["row"] == "-y")
    tiles.attribution = attribution or tiles.attribution
    return open_tileset(tiles, options, retina="@2x" in match["ending"])


def _check_profile(notes: Path) -> None:
    """Refuse tiles that are not web mercator's, where the notes of a Tile Map Service say so.

    Their names look alike, z/x/y, but they lie elsewhere.

    Raises:
        SourceError: If they are of another profile, or in another CRS.
    """
    text = (_contents(notes) or b"")[:_NOTES_BYTES].decode(errors="replace")
    for kind, pattern, known in (
        ("profile", _PROFILE, ("mercator",)),
        ("CRS", _SRS, ("3857", "900913", "41001", "102100", "102113")),
    ):
        said = pattern.search(text)
        if said is not None and not any(name in said[1].lower() for name in known):
            raise SourceError(
                f"the tiles in {notes.parent} are not in web mercator: {notes.name} names the "
                f"{kind} '{' '.join(said[1].split())[:40]}'; give the raster that they were made "
                "of, or make them again, gdal2tiles.py --profile mercator"
            )


def _numbers(folder: Path) -> list[int]:
    """Return the names in a folder that are plain numbers and folders themselves."""
    return [
        int(entry.name)
        for entry in _entries(folder)
        if _NUMBER.fullmatch(entry.name) and entry.is_dir()
    ]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise SourceError(
            f"the folder {folder} cannot be read: {error.strerror or error}"
        ) from error


def _contents(path: Path) -> bytes | None:
    """Return the bytes of a tile file, None if there is none."""
    try:
        if not path.is_file() and path.exists():  # to open a pipe would wait for ever
            raise SourceError(f"{path} is not a file")
        with path.open("rb") as file:
            return file.read(MAX_TILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error


def _metadata(path: Path) -> dict[str, str]:
    """Return the strings of a `metadata.json`, as tile tools write it; empty if there is none."""
    try:
        values = json.loads((_contents(path) or b"{}").decode())
    except (ValueError, RecursionError):
        return {}
    items = values.items() if isinstance(values, dict) else ()
    return {key: value for key, value in items if isinstance(value, str)}
