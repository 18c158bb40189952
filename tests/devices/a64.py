"""Run a command in an arm64 root tree by qemu-user: `python a64.py ROOT COMMAND …`. Nothing of this machine changes.

Since Linux 6.7 each user namespace has a table of binary formats of its own: a private namespace is made, qemu is
registered in it, and the command runs in a chroot there. Root is needed for nothing else than the mounts.
"""

import ctypes
import os
import signal
import sys

NEWNS, NEWUSER = 0x20000, 0x10000000
BIND, RECURSIVE, PRIVATE = 4096, 16384, 1 << 18
QEMU = "/usr/bin/qemu-aarch64-static"
FORMAT = (
    rb":qemu-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    rb":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:" + QEMU.encode() + b":OCF"
)
"""ELF files for AArch64, as the kernel's binfmt_misc wants it said."""
PROCESSOR = """processor\t: {number}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
"""A Cortex-A72 in /proc/cpuinfo: XNNPACK reads what it runs on there."""
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
KEPT = ("EDGEKIT_", "FLWR_", "OMP_")

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int, data: bytes | None = None) -> None:
    check(libc.mount(source.encode(), target.encode(), kind and kind.encode(), flags, data), f"mount {target}")


def inside(root: str, command: list[str]) -> None:
    """Set the namespace up, and become the command."""
    mount("none", "/", None, RECURSIVE | PRIVATE)
    mount("none", "/proc/sys/fs/binfmt_misc", "binfmt_misc", 0)
    with open("/proc/sys/fs/binfmt_misc/register", "wb", 0) as register:
        register.write(FORMAT)
    mount("/proc", f"{root}/proc", None, BIND | RECURSIVE)
    mount("/sys", f"{root}/sys", None, BIND | RECURSIVE)
    with open(f"{root}/etc/cpuinfo", "w") as file:
        file.write("".join(PROCESSOR.format(number=number) for number in range(os.cpu_count() or 1)))
    mount(f"{root}/etc/cpuinfo", f"{root}/proc/cpuinfo", None, BIND)
    mount("none", f"{root}/dev", "tmpfs", 0, b"mode=0755")
    for name in DEVICES:
        open(f"{root}/dev/{name}", "w").close()
        mount(f"/dev/{name}", f"{root}/dev/{name}", None, BIND)
    os.mkdir(f"{root}/dev/shm")
    mount("none", f"{root}/dev/shm", "tmpfs", 0)
    os.chroot(root)
    os.chdir("/root")
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root", "LANG": "C.UTF-8"}
    environment["QEMU_CPU"] = "cortex-a72"  # a Raspberry Pi 4's: without the vector extensions that qemu emulates badly
    environment |= {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
    # Not execvpe: it would import a module of this machine's Python, which is out of reach from here on.
    places = [command[0], *(f"{folder}/{command[0]}" for folder in environment["PATH"].split(":"))]
    os.execve(next(place for place in places if os.path.exists(place)), command, environment)


def main() -> int:
    root, command = os.path.abspath(sys.argv[1]), sys.argv[2:]
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            check(libc.unshare(NEWUSER | NEWNS), "unshare")
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            inside(root, command)
        except OSError as error:
            print(f"a64: {error}", file=sys.stderr)
        os._exit(127)
    os.read(ready[0], 1)
    for table in ("uid_map", "gid_map"):
        with open(f"/proc/{child}/{table}", "w") as file:
            file.write("0 0 65536")
    os.write(go[1], b"x")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda sent, _: os.kill(child, sent))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
