"""Has four ports, one in each state: bound, listening with visitors who wait, listening in two processes more, and bound for datagrams. Then it
does what it is told.
"""

import os, signal, socket, sys
ports = [int(port) for port in sys.argv[1:]]
def bound(kind, port):
    s = socket.socket(type=kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0", port))
    return s
sockets = [bound(kind, port) for kind, port in zip((socket.SOCK_STREAM,) * 3 + (socket.SOCK_DGRAM,), ports)]
_, waits, forked, _ = sockets
waits.listen(4)
forked.listen()
workers = []
for _ in range(2):
    if (pid := os.fork()) == 0:
        while True:
            forked.accept()
    workers.append(pid)
def end_workers():
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
print("ready", os.getpid(), os.getppid(), flush=True)
how = sys.stdin.readline().strip()
if how == "close":
    end_workers()
    for s in sockets:
        s.close()
    print("closed", flush=True)
    sys.stdin.readline()
elif how == "exec":
    end_workers()
    # Which closes what was not made to stay.
    os.execvp("cat", ["cat"])
