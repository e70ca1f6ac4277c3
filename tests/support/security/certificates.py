"""Throw-away certificates, made with the openssl command."""

import subprocess
from pathlib import Path
from typing import NamedTuple


class Certificate(NamedTuple):
    """PEM files of a certificate and its private key (PKCS 8)."""

    file: Path
    key_file: Path


class CertificateAuthority:
    """Issues certificates for localhost and 127.0.0.1 in `folder`. `file`: its own certificate."""

    def __init__(self, folder: Path, name: str = "authority"):
        self._folder = folder
        self.file, self._key_file = self._create(
            name, "-addext", "basicConstraints=critical,CA:TRUE"
        )

    def issue(self, name: str, key_password: str = "") -> Certificate:
        """`name`: the common name, and the name of the files."""
        return self._create(
            name,
            *("-CA", str(self.file), "-CAkey", str(self._key_file)),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
            key_password=key_password,
        )

    def _create(self, name: str, *options: str, key_password: str = "") -> Certificate:
        created = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key.pem")
        openssl(
            *("req", "-x509", "-days", "2", "-subj", f"/CN={name}", "-nodes"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-out", str(created.file), "-keyout", str(created.key_file)),
            *options,
        )
        if key_password:
            # The only encryption of openssl that Java's Kafka client reads.
            encrypted = self._folder / f"{name}.encrypted.pem"
            openssl(
                *("pkcs8", "-topk8", "-v1", "PBE-SHA1-3DES", "-passout", f"pass:{key_password}"),
                *("-in", str(created.key_file), "-out", str(encrypted)),
            )
            return created._replace(key_file=encrypted)
        return created


def openssl(*arguments: str, content: bytes = b"") -> bytes:
    """Returns the output of a command that reads `content`."""
    command = ["openssl", *arguments]
    return subprocess.run(command, input=content, capture_output=True, check=True).stdout
