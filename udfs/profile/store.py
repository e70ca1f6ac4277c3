"""The tables of the profile pipeline, as a worker opens them."""

from typing import Protocol

from cassandra.cluster import Session

from liveprofile.settings import CassandraSettings, Settings
from udfs.cassandra.store import CassandraStore
from udfs.profile.stored_users import CassandraStoredUsers, StoredUsers
from udfs.profile.writer import CassandraProfileWriter, ProfileWriter


class ProfileStore(Protocol):
    """Where profiles are read and written."""

    @property
    def users(self) -> StoredUsers: ...

    @property
    def writer(self) -> ProfileWriter: ...


class CassandraProfileStore(CassandraStore):
    """A ProfileStore. For `session` and errors see CassandraStore and CassandraProfileWriter."""

    def __init__(
        self, settings: CassandraSettings, embedding_dim: int, session: Session | None = None
    ):
        super().__init__(settings, session)

        def prepare() -> tuple[CassandraStoredUsers, CassandraProfileWriter]:
            writer = CassandraProfileWriter(self.session, settings, embedding_dim)
            users = CassandraStoredUsers(self.session, settings, writer.memberships, writer.flush)
            return users, writer

        self.users, self.writer = self._opened(prepare)


def open_profile_store(settings: Settings, embedding_dim: int) -> CassandraProfileStore:
    """Opens the store of a worker. Raises like CassandraProfileStore."""
    return CassandraProfileStore(settings.cassandra, embedding_dim)
