"""Names that git and git-lfs give to content."""

from __future__ import annotations

import hashlib


def blob_name(content: bytes) -> str:
    """The SHA-1 by which git names a blob, in hex."""
    # Git's own choice of hash, not ours: it is how the hub names such a file.
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """What git holds in place of a file in LFS.

    Args:
        sha256: of the content, in hex.
        size: bytes.
    """
    return (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    ).encode()
