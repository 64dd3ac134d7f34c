"""Certificates of a made-up authority, for servers and clients of the tests."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, each in a PEM file."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates; its own is `ca`."""

    def __init__(self, root: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        root.mkdir(parents=True, exist_ok=True)
        self._root = root
        self._own = self._make("authority", "-x509", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        self.ca = self._own.cert

    def server(self, *names: str) -> Certificate:
        """Return a certificate for host names and addresses."""
        listed = ",".join(f"{'IP' if name[0].isdigit() else 'DNS'}:{name}" for name in names)
        return self._signed("server", f"subjectAltName={listed}\nextendedKeyUsage=serverAuth\n")

    def client(self) -> Certificate:
        """Return a certificate to show to servers."""
        return self._signed("client", "extendedKeyUsage=clientAuth\n")

    def _signed(self, name: str, extensions: str) -> Certificate:
        request = self._make(name)
        extra = self._root / f"{name}.ext"
        extra.write_text(extensions)
        signed = self._root / f"{name}.signed.pem"
        _openssl(
            "x509",
            "-req",
            "-in",
            request.cert,
            "-CA",
            self._own.cert,
            "-CAkey",
            self._own.key,
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            extra,
            "-out",
            signed,
        )
        return Certificate(signed, request.key)

    def _make(self, name: str, *options: str) -> Certificate:
        made = Certificate(self._root / f"{name}.pem", self._root / f"{name}.key")
        _openssl(
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            f"/CN=shipway {name}",
            *options,
            "-keyout",
            made.key,
            "-out",
            made.cert,
        )
        return made


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
