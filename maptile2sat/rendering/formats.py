"""What a render is written as, by the name of its output: a GeoTIFF or a pyramid of tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, get_args

from maptile2sat.errors import UsageError
from maptile2sat.geo.grid import mercator_grid
from maptile2sat.output import geotiff, pyramid
from maptile2sat.output import geotiff as creation
from maptile2sat.output.geotiff import OTHER_FORMATS, output_errors
from maptile2sat.output.pyramid import TileFormat, Zooms
from maptile2sat.output.raw_blocks import BYTES_PER_PIXEL, RawBlocks
from maptile2sat.rendering.options import RenderOptions
from maptile2sat.rendering.regrid import Target


class Output(Protocol):
    """A kind of file that finished pixels are written to."""

    @property
    def pyramid(self) -> bool:
        """Whether its pixels lie on the grid of a zoom."""

    @property
    def transparent(self) -> bool:
        """Whether it says which pixels are masked."""

    def check(self, target: Target) -> None:
        """Make sure, before the work, that it can hold a target.

        Raises:
            UsageError: If it cannot.
        """

    def zooms(self, target: Target) -> Zooms | None:
        """Return its zooms, if it has any.

        Raises:
            UsageError: If those asked for cannot be.
        """

    def shown(self, target: Target) -> Target:
        """Return the grid and window of its largest picture."""

    def warning(self) -> str:
        """Return what the user should know, or an empty text."""

    def size(self, target: Target) -> tuple[int, int]:
        """Return the estimated bytes of the file, and those needed beside it to write it."""

    def write(
        self,
        blocks: RawBlocks,
        target: Target,
        path: Path,
        tags: Mapping[str, str],
        fill: tuple[int, int, int],
    ) -> None:
        """Write the file and put it in its place.

        Args:
            blocks: The pixels; closed then. What is temporary goes into their folder.
            target: Where they lie.
            path: The destination, on the same disk.
            tags: The render's metadata.
            fill: Colour of masked pixels where nothing can be transparent.

        Raises:
            OutputError: If it cannot be written.
        """


@dataclass(frozen=True)
class GeoTiff:
    """A GeoTIFF; an `Output`.

    Attributes:
        profile: One of `creation.PROFILES`.
        creation: What `creation.creation_options` returned.
        cog: Whether it is a COG.
    """

    profile: str
    creation: Mapping[str, str]
    cog: bool
    pyramid = False
    transparent = True

    def check(self, target: Target) -> None:
        """Make sure that a GeoTIFF can be in the target's CRS."""
        geotiff.check_crs(target.grid.crs)

    def zooms(self, target: Target) -> None:
        """Return None: it has overviews."""

    def shown(self, target: Target) -> Target:
        """Return the target itself."""
        return target

    def warning(self) -> str:
        """Return nothing."""
        return ""

    def size(self, target: Target) -> tuple[int, int]:
        """Return the estimated bytes of the file, and of the overviews."""
        pixels = target.window.width * target.window.height
        size = int(pixels * creation.BYTES_PER_PIXEL[self.profile])
        overviews = int(pixels * (geotiff.TEMPORARY_BYTES_PER_PIXEL - BYTES_PER_PIXEL))
        return size, overviews

    def write(
        self,
        blocks: RawBlocks,
        target: Target,
        path: Path,
        tags: Mapping[str, str],
        fill: tuple[int, int, int],
    ) -> None:
        """Write the file and put it in its place."""
        geotiff.write_geotiff(blocks, target.grid, path, tags, self.creation, cog=self.cog)


@dataclass(frozen=True)
class Pyramid:
    """MBTiles or PMTiles; an `Output`.

    Attributes:
        form: Format of the tiles.
        low: Lowest zoom asked for.
        high: Highest zoom asked for.
        packed: Whether it is PMTiles.
    """

    form: TileFormat
    low: int | None
    high: int | None
    packed: bool
    pyramid = True

    @property
    def transparent(self) -> bool:
        """Whether tiles of the format have a mask."""
        return self.form != "jpeg"

    def check(self, target: Target) -> None:
        """Refuse zooms that make no sense."""
        self.zooms(target)

    def zooms(self, target: Target) -> Zooms:
        """Return the zooms asked for, or those that suit the target."""
        deepest = target.grid.zoom or 0
        high = deepest if self.high is None else self.high
        if high > deepest:
            raise UsageError(
                f"--max-zoom {high} is deeper than the imagery, which has zoom {deepest}: viewers "
                "enlarge tiles by themselves, and -z reads a map that has it at a deeper zoom"
            )
        low = min(high, pyramid.lowest_zoom(deepest, target.window))
        low = low if self.low is None else self.low
        if not 0 <= low <= high:
            raise UsageError(f"the zooms cannot go from {low} to {high}: they begin with the lower")
        return Zooms(low, high)

    def shown(self, target: Target) -> Target:
        """Return the grid of the highest zoom, and the pixels there."""
        high = self.zooms(target).high
        window = pyramid.at_zoom(target.window, target.grid.zoom or 0, high)
        return Target(mercator_grid(high), window)

    def warning(self) -> str:
        """Say what the format cannot do."""
        if self.transparent:
            return ""
        return (
            "JPEG tiles cannot be transparent: where there is no map they have the model's ground "
            "colour (--tile-format webp or png keeps the mask)"
        )

    def size(self, target: Target) -> tuple[int, int]:
        """Return the estimated bytes of the file, and of the MBTiles that PMTiles come from."""
        window = self.shown(target).window
        size = int(window.width * window.height * pyramid.BYTES_PER_PIXEL[self.form])
        return size, 2 * size if self.packed else 0

    def write(
        self,
        blocks: RawBlocks,
        target: Target,
        path: Path,
        tags: Mapping[str, str],
        fill: tuple[int, int, int],
    ) -> None:
        """Write the file and put it in its place."""
        zooms = self.zooms(target)
        done = blocks.folder / "done.mbtiles"
        with output_errors(path):
            pyramid.write_mbtiles(
                blocks, target.grid, done, path.stem, zooms, self.form, tags, fill
            )
            blocks.close()
            if self.packed:
                packed = done.with_suffix(".pmtiles")
                pyramid.to_pmtiles(done, packed)
                done.unlink()
                done = packed
            done.replace(path)


def choose_output(path: Path | None, options: RenderOptions) -> Output:
    """Return what a file of that name is written as; a GeoTIFF if its name says nothing.

    Raises:
        UsageError: If options do not go with it, or have no sense.
        MissingExtraError: If an optional package is needed.
    """
    kind = "" if path is None else path.suffix.lower()
    if kind in pyramid.ENDINGS:
        return _pyramid(kind, options)
    unfit = {
        "--tile-format": options.tile_format,
        "--min-zoom": options.min_zoom,
        "--max-zoom": options.max_zoom,
    }
    _refuse(unfit, "tiles: give an output that ends in .mbtiles or .pmtiles")
    if kind in OTHER_FORMATS:
        raise UsageError(f"{path} would be a GeoTIFF, not {kind}: give a name that ends in .tif")
    profile = "deflate" if options.profile is None else options.profile
    given = creation.creation_options(profile, options.creation_options, cog=options.cog)
    return GeoTiff(profile, given, options.cog)


def _pyramid(kind: str, options: RenderOptions) -> Pyramid:
    unfit = {
        "--profile": options.profile,
        "--co": options.creation_options or None,
        "--no-cog": None if options.cog else True,
        "--dst-crs": options.dst_crs,
        "--resolution": options.resolution,
        "--like": options.like,
    }
    _refuse(unfit, f"GeoTIFF, not for {kind} (whose tiles are web mercator)")
    known: dict[str, TileFormat] = {form: form for form in get_args(TileFormat)}
    form = options.tile_format or "png"
    if form not in known:
        raise UsageError(f"tile format '{form}' is not one of {', '.join(known)}")
    if kind == ".pmtiles":
        pyramid.require_pmtiles()
    return Pyramid(known[form], options.min_zoom, options.max_zoom, kind == ".pmtiles")


def _refuse(unfit: Mapping[str, object], what: str) -> None:
    given = [name for name, value in unfit.items() if value is not None]
    if given:
        raise UsageError(f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} for {what}")
