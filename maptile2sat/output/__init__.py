"""What a render becomes: GeoTIFF, pyramid, folder of blocks, and what describes them."""
