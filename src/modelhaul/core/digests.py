"""What some content was computed to be, and whether that is what a hub states.

Hubs name content in two ways: by its SHA-256, and (the Hugging Face Hub, for what is no LFS file)
as git names a blob. Which of them judges is the file's to say (`RemoteFile.content`).
"""

from __future__ import annotations

from dataclasses import dataclass

from modelhaul.core.repo import RemoteFile


@dataclass(frozen=True, slots=True)
class Digests:
    """Digests of one content, in hex.

    Attributes:
        sha256: always known.
        git_sha1: its name as a git blob, None if it was not computed.
    """

    sha256: str
    git_sha1: str | None = None

    def matches(self, file: RemoteFile) -> bool | None:
        """Whether this is the content of `file` as the hub states it.

        None: nobody states a digest, or the one that is stated is not known here.
        """
        found, stated = self._judging(file)
        return None if found is None or stated is None else found == stated

    def admits(self, file: RemoteFile) -> bool:
        """Whether content just computed may stand for `file`: right, or nobody states a digest."""
        return file.content is None or self.matches(file) is True

    def difference(self, file: RemoteFile) -> str:
        """What is wrong, in words."""
        found, stated = self._judging(file)
        kind = "git blob SHA-1" if file.named_by_git else "SHA-256"
        return f"{kind} is {found}, should be {stated}"

    def _judging(self, file: RemoteFile) -> tuple[str | None, str | None]:
        if file.named_by_git:
            return self.git_sha1, file.git_sha1
        return self.sha256, file.sha256
