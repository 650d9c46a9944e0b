"""A make-believe machine: a copy of the scripts, and a PATH on which only what a test wants is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
TOOLS = ["awk", "bash", "cat", "dirname", "env", "grep", "mktemp", "rm", "sha256sum", "sleep", "tail"]

# each stand-in writes what it was asked to do to the log
PYTHON = """
case "$*" in
  "-c import ensurepip, venv") [ -e "$MACHINE/venv" ] ;;
  "-c import ctypes"*) [ -e "$MACHINE/libatomic" ] ;;
  "-c import sys"*) [ ! -e "$MACHINE/old" ] ;;
  --version) echo Python 3.11.2 ;;
  "-m venv --clear "*)
    echo "python3 $*" >>"$MACHINE/log"
    rm -rf "$4" && cp -r "$MACHINE/new-venv" "$4"
    echo "#!$4/bin/python3" >"$4/bin/pip" ;;
esac
"""
VENV_PYTHON = """
[ "$*" = "-c import pip" ] && exit
echo "python $* [home $PERTURBRIDGE_HOME]" >>"$MACHINE/log"
[ ! -e "$MACHINE/python-fails" ]
"""
RSCRIPT = 'echo "Welcome from the profile"; echo " R $(cat "$MACHINE/r-packages") "'
APT_GET = """
echo "apt-get $*" >>"$MACHINE/log"
[ ! -e "$MACHINE/apt-fails" ] || { echo "E: Unable to locate package"; exit 100; }
case " $* " in *" install "*) ;; *) exit 0 ;; esac
case " $* " in *" python3-venv "*) : >"$MACHINE/venv" ;; esac
case " $* " in *" chromium libatomic1 "*) cp "$MACHINE/true" "$MACHINE/bin/chromium"; : >"$MACHINE/libatomic" ;; esac
case " $* " in *" r-base-core r-bioc-limma r-bioc-edger r-cran-statmod make "*)
  cp "$MACHINE/Rscript" "$MACHINE/bin/Rscript"; cp "$MACHINE/true" "$MACHINE/bin/make"; echo limma edgeR statmod >"$MACHINE/r-packages" ;;
esac
"""
SUDO = 'echo "sudo" >>"$MACHINE/log"; exec "$@"'


class Machine:
    """A folder that stands for a machine; `checkout` is the project on it, `bin` its whole PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.checkout = folder / "check out"
        self.log_file = folder / "log"
        self.bin.mkdir()
        self.add_tools(*TOOLS, "cp")
        self.checkout.mkdir()
        for scripts in ("script", ".ci"):
            shutil.copytree(CHECKOUT / scripts, self.checkout / scripts)
        shutil.copy(CHECKOUT / "pyproject.toml", self.checkout)
        (folder / "new-venv" / "bin").mkdir(parents=True)
        write_script(folder / "new-venv" / "bin" / "python", VENV_PYTHON)
        write_script(folder / "Rscript", RSCRIPT)
        write_script(folder / "true", "exit 0")
        write_script(self.bin / "python3", PYTHON)
        self.be_user(0)

    def be_user(self, number: int) -> None:
        write_script(self.bin / "id", f"echo {number}")

    def add_tools(self, *tools: str) -> None:
        for tool in tools:
            real = shutil.which(tool)
            assert real, f"the tests of the scripts need {tool}"
            (self.bin / tool).symlink_to(real)

    def add_apt_get(self) -> None:
        write_script(self.bin / "apt-get", APT_GET)

    def add_sudo(self) -> None:
        write_script(self.bin / "sudo", SUDO)

    def add_r(self, packages: str = "limma edgeR statmod") -> None:
        shutil.copy(self.folder / "Rscript", self.bin / "Rscript")
        (self.folder / "r-packages").write_text(packages)
        shutil.copy(self.folder / "true", self.bin / "make")

    def mark(self, name: str) -> Path:
        """Switch a stand-in's behaviour: venv (python3-venv is there), libatomic, old, apt-fails, python-fails."""
        marker = self.folder / name
        marker.touch()
        return marker

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": str(self.bin), "MACHINE": str(self.folder), "HOME": str(self.folder), "TMPDIR": str(self.folder)}

    def run(self, script: str, *arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `script` of the folder script/, or a path from the checkout."""
        file = self.checkout / (script if "/" in script else f"script/{script}")
        return subprocess.run(
            [file, *arguments],
            cwd=cwd or self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def log(self) -> list[str]:
        """What the stand-ins were asked to do since the last call."""
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        self.log_file.write_text("")
        return lines


def write_script(file: Path, body: str) -> None:
    file.write_text(f"#!{os.path.realpath('/bin/bash')}\n{body}\n")
    file.chmod(0o755)
