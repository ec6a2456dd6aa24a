"""Has the kernel drop all that comes for the TCP connection at stdin, as if its machine were asleep; or not any more.

Arguments: "on" or "off".
"""

import ctypes
import socket
import struct
import sys

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
BPF_RET = 6

connection = socket.socket(fileno=0)
if sys.argv[1] == "on":
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RET, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(drop_all))
    connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
else:
    connection.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
