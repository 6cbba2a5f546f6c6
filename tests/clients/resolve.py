"""Resolves each argument and prints its addresses on one line."""
import socket
import sys

for name in sys.argv[1:]:
    line = name
    try:
        for one in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
            line += " " + one[4][0]
    except OSError:
        line += " error"
    print(line)
