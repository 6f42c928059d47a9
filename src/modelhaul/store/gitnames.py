"""Names that git and git-lfs give to content."""

from __future__ import annotations

import hashlib


def blob_hash(size: int) -> hashlib._Hash:
    """The hash whose hex digest, once the content has gone through, is its name as a git blob.

    Args:
        size: bytes of the content.
    """
    # Git's own choice of hash, not ours: it is how the hub names such a file.
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def blob_name(content: bytes) -> str:
    """The SHA-1 by which git names a blob, in hex."""
    named = blob_hash(len(content))
    named.update(content)
    return named.hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """What git holds in place of a file in LFS.

    Args:
        sha256: of the content, in hex.
        size: bytes.
    """
    return (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    ).encode()
