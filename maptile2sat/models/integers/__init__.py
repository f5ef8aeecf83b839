"""The `local` generator in whole numbers: the same bits on every machine, engine and window."""
