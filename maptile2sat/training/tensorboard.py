"""Event files that TensorBoard reads, written without it.

TensorFlow no longer brings TensorBoard along, and `tf.summary.scalar` does not work without it. The
format is plain: TFRecords of `Event` messages, of which TensorFlow has both. Each start of a run
adds a file; `SessionLog.START` tells readers to forget what an interrupted start had written
past the checkpoint.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

_VERSION = "brain.Event:2"


class EventWriter:
    """Appends scalars and pictures to one new event file.

    Args:
        folder: TensorBoard's log directory, made if missing.
        step: Steps that the run has done; what older files say of later ones is void.

    Raises:
        OSError: If the file cannot be written, by this or any method.
    """

    def __init__(self, folder: Path, step: int) -> None:
        import tensorflow as tf

        self._tf = tf
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names
        name = f"events.out.tfevents.{time.time_ns() // 1000:017d}.{socket.gethostname()}"
        self._path = folder / f"{name}.{os.getpid()}"
        with self._written():
            self._records = tf.io.TFRecordWriter(str(self._path))
        self._write(file_version=_VERSION)
        start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        self._write(step=step + 1, session_log=start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by tag; readers find them at once."""
        tf = self._tf
        parts = [
            tf.compat.v1.Summary.Value(
                tag=tag,
                tensor=tf.make_tensor_proto(value, tf.float32),
                metadata=self._metadata("scalars", "DATA_CLASS_SCALAR"),
            )
            for tag, value in values.items()
        ]
        self._write(step=step, summary=tf.compat.v1.Summary(value=parts))

    def picture(self, step: int, tag: str, path: Path) -> None:
        """Write a PNG file as it is."""
        tf = self._tf
        with Image.open(path) as picture:
            width, height = picture.size
        # the plugin's own order: width and height as text, then the encoded pictures
        content = [str(width).encode(), str(height).encode(), path.read_bytes()]
        part = tf.compat.v1.Summary.Value(
            tag=tag,
            tensor=tf.make_tensor_proto(content, tf.string),
            metadata=self._metadata("images", "DATA_CLASS_BLOB_SEQUENCE"),
        )
        self._write(step=step, summary=tf.compat.v1.Summary(value=[part]))

    def close(self) -> None:
        """Close the file."""
        with self._written():
            self._records.close()

    def _metadata(self, plugin: str, kind: str) -> Any:
        metadata = self._tf.compat.v1.SummaryMetadata()
        metadata.plugin_data.plugin_name = plugin
        metadata.data_class = (
            metadata.DESCRIPTOR.fields_by_name["data_class"].enum_type.values_by_name[kind].number
        )
        return metadata

    def _write(self, **fields: Any) -> None:
        event = self._tf.compat.v1.Event(wall_time=time.time(), **fields)
        with self._written():
            self._records.write(event.SerializeToString())
            self._records.flush()

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Let what TensorFlow says of a file be what Python says: a full disk is no lack of memory.

        Raises:
            OSError: If it cannot be written.
        """
        try:
            yield
        except self._tf.errors.OpError as error:
            raise OSError(f"{self._path}: {error.message}") from error
