"""One function for each act: commands, the read API and the console call it.

A function takes a session of Cassandra and the settings first, blocks, and raises the errors of
liveprofile.errors. `audit` is the entry of the audit trail for an act through API or console; None
for a command of the shell, whose user has a shell's rights.
"""
