"""The console in a browser (`liveprofile serve console`): server-rendered pages over the API's
store.

Roles, keys, deadlines and the audit trail are those of the read API (serve/). views/ and charts/
compute what a page shows and know nothing of HTTP; routes/ read the store and fill templates/.
"""
