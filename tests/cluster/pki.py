"""Keys, certificates and kubeconfigs of one cluster, made with openssl.

Everything is made once per state directory and is valid for ten years; nothing here outlives `down`.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from pathlib import Path

import yaml

import files
from shell import output

DAYS = "3650"
CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

# Python 3.13 refuses certificates without the key identifiers.
LEAF_EXTENSIONS = """\
basicConstraints=CA:FALSE
keyUsage=digitalSignature
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""


@dataclass(frozen=True)
class User:
    """Somebody the API server knows: the certificate's common name and organization are user and group."""

    file: str
    name: str
    group: str


@dataclass(frozen=True)
class Pki:
    """The files in `directory`; the properties name them, `make` writes those that are missing."""

    directory: Path

    @property
    def ca(self) -> Path:
        """The certificate that everything else here is signed with."""
        return self.directory / "ca.crt"

    @property
    def front_proxy_ca(self) -> Path:
        """Signs the certificate that the API server shows to extension API servers."""
        return self.directory / "front-proxy-ca.crt"

    @property
    def service_account_key(self) -> Path:
        """Signs the tokens of service accounts."""
        return self.directory / "service-account.key"

    def certificate(self, name: str) -> Path:
        """The certificate of the user or server `name`."""
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        """The private key of the user or server `name`."""
        return self.directory / f"{name}.key"

    def make(self, users: list[User], servers: dict[str, list[str]]) -> None:
        """Write what is missing: the CAs, the key, client certificates, and server certificates (name: alt names)."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        for ca in (self.ca, self.front_proxy_ca):
            if not ca.exists():
                _authority(ca, f"llm-d-embedded-{ca.stem}")
        if not self.service_account_key.exists():
            output(["openssl", "genrsa", "-out", self.service_account_key, "2048"])
        for user in users:
            self._sign(user.file, f"/O={user.group}/CN={user.name}", "extendedKeyUsage=clientAuth", self.ca)
        self._sign("front-proxy-client", "/CN=front-proxy-client", "extendedKeyUsage=clientAuth", self.front_proxy_ca)
        for name, alternatives in servers.items():
            extension = f"extendedKeyUsage=serverAuth\nsubjectAltName={','.join(alternatives)}"
            self._sign(name, f"/CN={name}", extension, self.ca)

    def _sign(self, name: str, subject: str, extension: str, ca: Path) -> None:
        """Make a key and a certificate signed by `ca`; `extension` is in openssl's configuration syntax."""
        certificate, key = self.certificate(name), self.key(name)
        if certificate.exists():
            return
        request = output(["openssl", "req", "-new", *CURVE, "-keyout", key, "-subj", subject], stdin="")
        settings = self.directory / f"{name}.ext"
        settings.write_text(f"{LEAF_EXTENSIONS}{extension}\n", encoding="utf-8")
        signed = output(
            ["openssl", "x509", "-req", "-CA", ca, "-CAkey", ca.with_suffix(".key"), "-days", DAYS]
            + ["-set_serial", str(secrets.randbits(96)), "-extfile", settings],
            stdin=request,
        )
        settings.unlink()
        # The certificate comes last: it is what says that both files are there.
        certificate.write_text(signed, encoding="utf-8")

    def kubeconfig(self, path: Path, user: User, server: str, context: str) -> None:
        """Write a kubeconfig (mode 0600, certificates inside) for `user` at the URL `server` to `path`."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "clusters": [
                {"name": context, "cluster": {"server": server, "certificate-authority-data": _inline(self.ca)}}
            ],
            "contexts": [{"name": context, "context": {"cluster": context, "user": user.name}}],
            "users": [
                {
                    "name": user.name,
                    "user": {
                        "client-certificate-data": _inline(self.certificate(user.file)),
                        "client-key-data": _inline(self.key(user.file)),
                    },
                }
            ],
        }
        files.write(path, yaml.safe_dump(content, sort_keys=False), mode=0o600)


def _authority(certificate: Path, name: str) -> None:
    key = certificate.with_suffix(".key")
    signed = output(
        ["openssl", "req", "-x509", *CURVE, "-keyout", key, "-days", DAYS, "-subj", f"/CN={name}"]
        + ["-addext", "keyUsage=critical,digitalSignature,keyCertSign,cRLSign"]
    )
    certificate.write_text(signed, encoding="utf-8")


def _inline(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")
