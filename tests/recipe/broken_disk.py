"""A file system of its own that becomes full or read-only, and is mended again; needs root."""

import errno
import os
import subprocess
import time
from pathlib import Path

import pytest

SIZE = 1 << 30  # bytes


class Disk:
    """An ext4 image, mounted at `path`. pytest.skip where this user or machine cannot mount."""

    def __init__(self, folder: Path, size: int = SIZE):
        self._image, self.path = folder / "image", folder / "disk"
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(size)
        try:
            self._run("mkfs.ext4", "-q", "-m", "0", str(self._image))
            self._mount()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system of its own can be mounted here: {error}")

    def fill(self, leaving: int = 0) -> None:
        """Fill it but for `leaving` bytes."""
        filler = self.path / "filler"
        with filler.open("ab", buffering=0) as file:
            for size in (1 << 24, 1 << 12, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC
        if leaving:
            os.truncate(filler, filler.stat().st_size - leaving)
            os.sync()  # blocks that were given back are free when that is on the disk

    def make_read_only(self) -> None:
        """As the kernel does after an error of the disk, whatever is open for writing."""
        self._run("mount", "-o", "remount,abort", str(self.path))

    def mend(self) -> None:
        (self.path / "filler").unlink(missing_ok=True)

    def mend_read_only(self) -> None:
        """Unmount it, which fails while a process works there; check it, and mount it again."""
        self._run("umount", str(self.path))
        while subprocess.check_output(["losetup", "--associated", str(self._image)]):
            time.sleep(0.1)  # until the kernel has written what it still had of it
        done = subprocess.run(["e2fsck", "-f", "-y", str(self._image)], capture_output=True)
        assert done.returncode in (0, 1), done  # 1: errors, and all of them were mended
        self._mount()
        assert os.access(self.path, os.W_OK), "the disk is mended, and yet mounted read-only"

    def close(self) -> None:
        if os.path.ismount(self.path):
            self._run("umount", "--lazy", str(self.path))
        self._image.unlink()

    def _mount(self) -> None:
        self._run("mount", "-o", "loop", str(self._image), str(self.path))

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, text=True)


TROUBLES = {
    "full": (Disk.fill, Disk.mend, ("No space left on device", "free space")),
    "read-only": (Disk.make_read_only, Disk.mend_read_only, ("Read-only file system", "remount")),
}
