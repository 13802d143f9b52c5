"""Sends datagrams from one UDP port as it is told: each line of its input is an address, a port and how many. Answers with how
many the kernel took, and the error that ended it."""
import errno
import socket
import sys

made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.bind(("0.0.0.0", int(sys.argv[1])))
for line in sys.stdin:
    address, port, count = line.split()
    sent, ended = 0, ""
    try:
        while sent < int(count):
            made.sendto(b"x", (address, int(port)))
            sent += 1
    except OSError as error:
        ended = " " + errno.errorcode[error.errno]
    print(f"{sent}{ended}", flush=True)
