"""A signed repository of packages that have NVIDIA's names and next to nothing in them.

What depends on what, what has to be there before, and which versions exist together is as in
NVIDIA's own; so install order, pins, holds and refusals happen for real.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

from shell import output

KERNEL = os.uname().release
UNIT = "[Unit]\nDescription={0}\n[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
# As upstream's: it can only be installed once the branch is pinned.
PINNED = "#!/bin/sh\n[ -e /etc/apt/preferences.d/nvidia-driver-pinning ] || { echo 'the branch is not pinned' >&2; exit 1; }\n"
# Starts only with the driver of its own version, to the last digit, as upstream's.
FABRIC_MANAGER = UNIT.format("Fabric Manager").replace(
    "[Service]\n", "[Service]\nExecStartPre=/bin/grep -q '  {0}  ' /proc/driver/nvidia/version\n"
)
# As upstream's, in so far as anybody reads it: the library has to be of the loaded module's version.
NVIDIA_SMI = """#!/bin/sh
loaded=$(sed -n 's/^NVRM version:.* \\([0-9.]*\\)  Release.*/\\1/p' /proc/driver/nvidia/version 2>/dev/null)
if [ -z "$loaded" ]; then
  echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running."
  exit 9
elif [ "$loaded" != {0} ]; then
  echo "Failed to initialize NVML: Driver/library version mismatch"
  exit 18
fi
fabric=N/A status=N/A
if grep -qs 0x068000 /sys/bus/pci/devices/*/class; then
  fabric="In Progress"
  systemctl --quiet is-active nvidia-fabricmanager && fabric=Completed status=Success
fi
echo "<nvidia_smi_log><driver_version>$loaded</driver_version>"
for device in $(grep -ls 0x030200 /sys/bus/pci/devices/*/class); do
  echo "<gpu id=\\"$(basename $(dirname $device))\\"><fabric><state>$fabric</state><status>$status</status></fabric></gpu>"
done
echo "</nvidia_smi_log>"
"""
MODULE = "\x7fELF\0license=Dual MIT/GPL\0version={}\0"


@dataclass
class Package:
    """One version of a package."""

    name: str
    version: str
    depends: str = ""
    files: dict[str, str] = field(default_factory=dict)
    preinst: str = ""


def packages() -> list[Package]:
    """Everything in the repository."""
    found = []
    for branch in ("595", "610"):
        content = f"Package: *nvidia*\nPin: version {branch}*\nPin-Priority: 1001\n"
        content += "\nPackage: *nvidia-container*\nPin: release *\nPin-Priority: 500\n"
        name = f"nvidia-driver-pinning-{branch}"
        found.append(Package(name, branch, files={"/etc/apt/preferences.d/nvidia-driver-pinning": content}))
    for version in ("595.58.03", "595.91.07", "595.99.01", "610.57.04"):
        found += _driver(version)
        # 595.99.01 is a driver whose Fabric Manager nobody has published.
        if version != "595.99.01":
            unit = {"/lib/systemd/system/nvidia-fabricmanager.service": FABRIC_MANAGER.replace("{0}", version)}
            found.append(Package("nvidia-fabricmanager", f"{version}-1", files=unit))
    for name in ("libnvidia-container1", "libnvidia-container-tools", "nvidia-container-toolkit-base"):
        found.append(Package(name, "1.20.0-1"))
    runtime = {
        "/usr/bin/nvidia-container-runtime": '#!/bin/sh\nexec runc "$@"\n',
        "/lib/systemd/system/nvidia-cdi-refresh.path": "[Path]\nPathChanged=/lib/modules\n[Install]\nWantedBy=multi-user.target\n",
        "/lib/systemd/system/nvidia-cdi-refresh.service": "[Service]\nType=oneshot\nExecStart=/bin/true\n",
    }
    found.append(Package("nvidia-container-toolkit", "1.20.0-1", "nvidia-container-toolkit-base (= 1.20.0-1)", runtime))
    found += _dcgm()
    headers = {f"/usr/src/linux-headers-{KERNEL}/Makefile": "", f"/lib/modules/{KERNEL}/build/Makefile": ""}
    found.append(Package(f"linux-headers-{KERNEL}", "1", files=headers))
    return found


def _driver(version: str) -> list[Package]:
    unit = {"/lib/systemd/system/nvidia-persistenced.service": UNIT.format("Persistence")}
    module = {f"/lib/modules/{KERNEL}/updates/dkms/nvidia.ko": MODULE.format(version)}
    library = {
        f"/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.{version}": "",
        "/usr/bin/nvidia-smi": NVIDIA_SMI.replace("{0}", version),
    }
    return [
        Package("nvidia-persistenced", f"{version}-1", files=unit),
        Package("nvidia-driver-cuda", f"{version}-1", f"nvidia-persistenced (= {version}-1)", library, PINNED),
        Package("nvidia-kernel-open-dkms", f"{version}-1", f"linux-headers-{KERNEL}", module, PINNED),
    ]


def _dcgm() -> list[Package]:
    """Packages of DCGM; those of a CUDA need their core, and the epoch is NVIDIA's."""
    unit = {"/lib/systemd/system/nvidia-dcgm.service": UNIT.format("DCGM")}
    found = []
    for version in ("1:4.5.2-1", "1:4.6.0-1"):
        core = f"datacenter-gpu-manager-4-core (= {version})"
        found.append(Package("datacenter-gpu-manager-4-core", version, files=unit))
        found.append(Package("datacenter-gpu-manager-4-proprietary", version, core))
        for cuda in ("cuda12", "cuda13"):
            found.append(Package(f"datacenter-gpu-manager-4-{cuda}", version, core))
            found.append(Package(f"datacenter-gpu-manager-4-proprietary-{cuda}", version, core))
    return found


def make(folder: Path, name: str = "NVIDIA stand-in") -> str:
    """Make the repository and its key in ``folder``; returns the key's fingerprint."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for package in packages():
        _build(package, folder)
    index = output(["dpkg-scanpackages", "--multiversion", folder, "/dev/null"]).replace(
        f"Filename: {folder}/", "Filename: ./"
    )
    (folder / "Packages").write_text(index, encoding="utf-8")
    digest, size = hashlib.sha256(index.encode()).hexdigest(), len(index.encode())
    release = f"Origin: {name}\nDate: {formatdate(usegmt=True)}\nSHA256:\n {digest} {size} Packages\n"
    return sign(folder, release, name)


def sign(folder: Path, release: str, name: str) -> str:
    """Write InRelease and key.asc with a new key; returns its fingerprint."""
    home = folder.parent / f".gnupg-{folder.name}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--passphrase", ""]
    output([*gpg, "--quick-generate-key", name, "ed25519", "sign", "never"])
    (folder / "key.asc").write_text(output([*gpg, "--armor", "--export"]), encoding="utf-8")
    (folder / "InRelease").write_text(output([*gpg, "--clearsign"], stdin=release), encoding="utf-8")
    shown = output([*gpg, "--with-colons", "--list-keys"])
    output(["gpgconf", "--homedir", home, "--kill", "all"])
    return next(line.split(":")[9] for line in shown.splitlines() if line.startswith("fpr:"))


def _build(package: Package, folder: Path) -> None:
    root = folder / "root"
    control = root / "DEBIAN"
    control.mkdir(parents=True)
    depends = f"Depends: {package.depends}\n" if package.depends else ""
    (control / "control").write_text(
        f"Package: {package.name}\nVersion: {package.version}\nArchitecture: amd64\n{depends}"
        "Maintainer: tests <tests@example.com>\nDescription: stand-in\n",
        encoding="utf-8",
    )
    if package.preinst:
        (control / "preinst").write_text(package.preinst, encoding="utf-8")
        (control / "preinst").chmod(0o755)
    for path, content in package.files.items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
        file.chmod(0o755 if "/bin/" in path else 0o644)
    output(["dpkg-deb", "--root-owner-group", "-Znone", "--build", root, folder])
    shutil.rmtree(root)
