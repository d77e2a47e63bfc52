"""The media folder: files under their SHA-256, and how bytes get there without being lost.

    incoming/            being written; whatever is here at start belongs to nobody
    files/ab/abcd...     uploaded bytes, mode 0600
    thumbnails/ab/abcd.../NAME.EXTENSION     may be deleted at any time, and are made again

A file appears under its name only when its bytes are on the disk (write, fsync, rename, fsync of
the folder), and only then does a row name it. So a crash leaves at worst a file without a row,
which the next upload of the same bytes adopts. Files are removed after the commit that found their
reference count at 0, while no upload stands between its file and its row (`media.placing`).

Everything here blocks: it is called in threads. One process owns the folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from threading import Lock


@dataclass(frozen=True, slots=True)
class KeptFile:
    """Bytes that are durable under their digest."""

    digest: bytes
    size: int


class FileStore:
    """Where the bytes are."""

    def __init__(self, folder: Path) -> None:
        self._incoming = folder / "incoming"
        self._files = folder / "files"
        self._thumbnails = folder / "thumbnails"

    def prepare(self) -> None:
        """Create the folders and remove what an earlier run left half done."""
        if self._incoming.exists():
            shutil.rmtree(self._incoming)
        for folder in (self._incoming, self._files, self._thumbnails):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path_of(self, digest: bytes) -> Path:
        """Return where the bytes with this digest are, or would be."""
        name = digest.hex()
        return self._files / name[:2] / name

    def thumbnails_of(self, digest: bytes) -> Path:
        """Return the folder of what was made from the file with this digest."""
        name = digest.hex()
        return self._thumbnails / name[:2] / name

    def remove(self, digest: bytes) -> None:
        """Remove the bytes with this digest and what was made from them; nothing may name them."""
        shutil.rmtree(self.thumbnails_of(digest), ignore_errors=True)
        self.path_of(digest).unlink(missing_ok=True)

    def new_path(self) -> Path:
        """Return the name of a file to be written and then moved, on the same file system."""
        return self._incoming / os.urandom(16).hex()

    def begin(self) -> IncomingFile:
        """Open a file for bytes that arrive in pieces."""
        return IncomingFile(self, self._incoming)

    def keep(self, data: bytes | bytearray) -> KeptFile:
        """Store bytes that are all there."""
        file = self.begin()
        try:
            return file.keep(data)
        finally:
            file.discard()


class IncomingFile:
    """A file on its way in; `discard` it in the end, whatever happened."""

    def __init__(self, store: FileStore, folder: Path) -> None:
        self._store = store
        # A caller that was cancelled discards the file while its last write still runs in
        # another thread: without the lock that could write to a descriptor used anew.
        self._lock = Lock()
        descriptor, name = tempfile.mkstemp(dir=folder)
        self._file = os.fdopen(descriptor, "wb")
        self._path: Path | None = Path(name)
        self._hash = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes | bytearray) -> None:
        """Append; OSError when the disk is full."""
        with self._lock:
            self._hash.update(data)
            self._size += len(data)
            self._file.write(data)

    def keep(self, rest: bytes | bytearray = b"") -> KeptFile:
        """Append `rest`, make everything durable and put it under its digest."""
        self.write(rest)
        with self._lock:
            if self._path is None:
                raise ValueError("the file was discarded")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            digest = self._hash.digest()
            target = self._store.path_of(digest)
            make_folder(target.parent)
            # Also when the same bytes are there already: that mends a file damaged on the disk.
            self._path.replace(target)
            self._path = None
            sync_folder(target.parent)
        return KeptFile(digest, self._size)

    def discard(self) -> None:
        """Remove the file unless it was kept."""
        with self._lock:
            if self._path is not None:
                path, self._path = self._path, None
                try:
                    self._file.close()
                finally:
                    path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Create a folder durably, and those above it that are missing."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_folder(folder.parent)
        make_folder(folder)
        return
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
