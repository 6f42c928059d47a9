"""What the use cases need of a hub: a name resolved to files, and places that serve them."""

from __future__ import annotations

from typing import Protocol

from modelhaul.core.repo import RemoteFile, RepoRef, Snapshot, Source


class Hub(Protocol):
    """A site that holds repositories."""

    async def resolve(self, ref: RepoRef) -> Snapshot:
        """The commit and the files behind a reference.

        Raises:
            NotFound: no such repository or revision, or it is hidden from us.
            Unauthorized: a token is needed or not accepted.
            TransportError, QuotaError, ProtocolError: the hub cannot be asked now.
        """
        ...

    def sources(self, snapshot: Snapshot, file: RemoteFile) -> tuple[Source, ...]:
        """Where the bytes of a file can be had, best first."""
        ...
