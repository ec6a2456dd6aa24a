"""Has the kernel drop all that comes for a process on its TCP connections to a port, as if its machine were asleep; or not any more.

Arguments: the process, the port, "on" or "off".
"""

import ctypes
import os
import socket
import struct
import sys

SYS_PIDFD_GETFD = 438
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
BPF_RET = 6

pid, port, way = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
libc = ctypes.CDLL(None, use_errno=True)
process = os.pidfd_open(pid)
drop_all = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RET, 0, 0, 0))
program = struct.pack("HP", 1, ctypes.addressof(drop_all))
count = 0
for number in os.listdir(f"/proc/{pid}/fd"):
    fd = libc.syscall(SYS_PIDFD_GETFD, process, int(number), 0)
    try:
        copy = socket.socket(fileno=fd)
        if copy.getpeername()[1] != port:
            continue
    except (OSError, ValueError, IndexError):
        continue
    if way == "on":
        copy.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    else:
        copy.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    count += 1
sys.exit(0 if count else f"no connection of {pid} to port {port}")
