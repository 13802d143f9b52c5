"""Has a UDP port and does not let go of it: says what sending came to, before the port was withdrawn and after."""

import errno
import os
import socket
import sys
import time

held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
held.bind(("127.0.0.1", int(sys.argv[1])))


def send():
    try:
        held.sendto(b"x", ("127.0.0.1", int(sys.argv[2])))
        return "sent"
    except OSError as error:
        return errno.errorcode[error.errno]


def say(file, text):
    with open(file + ".new", "w") as new:
        new.write(text)
    os.rename(file + ".new", file)


say("before", send())
while not os.path.exists("withdrawn"):
    time.sleep(0.01)
# The first tells that the socket was closed from outside.
say("after", f"{send()} {send()}")
time.sleep(1000)
