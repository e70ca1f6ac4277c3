"""Pseudonyms of user ids for logs and error messages."""

import hashlib


def user_pseudonym(user_id: str) -> str:
    """A short stable pseudonym of a user id, such as `user:3f9a0c21b7d4`.

    BLAKE2b (RFC 7693), 6 bytes: enough to follow one user through the logs. Ids that can be
    guessed, such as running numbers, can be recovered by trial: treat logs as personal data.
    """
    return key_pseudonym(user_id.encode("utf-8", "surrogatepass"))


def key_pseudonym(key: bytes) -> str:
    """The pseudonym of the user of a record's key, which need not be text."""
    return "user:" + hashlib.blake2b(key, digest_size=6, person=b"liveprofile-log").hexdigest()
