"""What a sharded render is asked for, and what it did."""

from __future__ import annotations

from dataclasses import dataclass

from maptile2sat.errors import UsageError
from maptile2sat.grid import BBox
from maptile2sat.sharding.manifest_fields import MAX_BLOCK_SIDE
from maptile2sat.translator import check_cell

BLOCK_SIDE = 4096
"""Side in pixels that blocks come near to if none is asked for."""

STRAGGLER_SECONDS = 30.0


@dataclass(frozen=True)
class ShardOptions:
    """How the work is shared out.

    Attributes:
        dask: `local` or `local:N` for N processes of this machine, or the address of a Dask
            scheduler, such as `tcp://10.0.0.1:8786`.
        block: Cells along a side of a block; None for as many as make about 4096 px.
        straggler_seconds: A block is given to an idle worker too if it takes longer than this, and
            three times as long as blocks usually take.
    """

    dask: str
    block: int | None = None
    straggler_seconds: float = STRAGGLER_SECONDS

    def side(self, cell: int) -> int:
        """Return the side of a block in pixels.

        Args:
            cell: The side of a cell.

        Raises:
            UsageError: If there are no such cells, `block` is not positive, or blocks become too
                large.
        """
        check_cell(cell)
        if self.block is not None and self.block < 1:
            raise UsageError(f"a block of {self.block} cells is none: say 1 or more")
        if self.block is not None and cell * self.block > MAX_BLOCK_SIDE:
            raise UsageError(
                f"a block of {self.block} cells is {cell * self.block} px wide, and "
                f"{MAX_BLOCK_SIDE} is the most: say --block {MAX_BLOCK_SIDE // cell} or less"
            )
        return cell * (self.block or max(1, BLOCK_SIDE // cell))


@dataclass(frozen=True)
class ShardResult:
    """What a sharded render did.

    Attributes:
        output: The folder, or the address of it.
        width: Columns of the whole.
        height: Rows of the whole.
        crs: Its CRS.
        bounds: West, south, east, north in that CRS.
        source: The map's name, without secrets.
        attribution: Who is to be named for the map and the model.
        blocks: All blocks.
        empty_blocks: Of them, those without any map, which have no file.
        resumed_blocks: Of them, those that were there from an earlier run.
        repeated_blocks: Blocks that were given to another worker because they took too long.
        cells: Cells generated.
        skipped_cells: Cells without any map.
        tiles: Tiles of the map that the area takes, the halo's included; 0 for rasters.
        bytes: Size of all blocks' files.
        seconds: Wall time, without starting the cluster.
        generator_seconds: Time in the generator, of all workers together.
        useful_megapixels_per_second: Output pixels made now over `seconds`, in millions.
        workers: Workers that were there at the start.
        model: Name, version and hash of the model.
        seed: Of the noise.
        numerics: Fingerprint of what computed: the same on every worker.
        exact: Whether a pixel is a function of the map around it alone (`unet` blends).
        warnings: What the user should know.
    """

    output: str
    width: int
    height: int
    crs: str
    bounds: BBox
    source: str
    attribution: str
    blocks: int
    empty_blocks: int
    resumed_blocks: int
    repeated_blocks: int
    cells: int
    skipped_cells: int
    tiles: int
    bytes: int
    seconds: float
    generator_seconds: float
    useful_megapixels_per_second: float
    workers: int
    model: str
    seed: int
    numerics: str
    exact: bool
    warnings: list[str]
