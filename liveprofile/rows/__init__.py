"""The tables of Cassandra, each declared once: all else about their columns comes from here."""

from liveprofile.rows import operations, profiles, risk, users
from liveprofile.rows.table import Table

TABLES: dict[str, Table] = {
    each.name: each
    for module in (profiles, risk, users, operations)
    for each in vars(module).values()
    if isinstance(each, Table)
}
