"""The console in a browser (`liveprofile serve console`): server-rendered pages over the API's
store.

Roles, keys, deadlines and the audit trail are those of the read API (serve/). routes/ read the
store and fill templates/.
"""
