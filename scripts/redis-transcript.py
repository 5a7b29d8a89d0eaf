#!/usr/bin/env python3
"""Runs a transcript of requests and replies against a server, or records it anew.

    redis-transcript.py check  HOST:PORT FILE   says which replies are others; exit status 1 where any is
    redis-transcript.py record HOST:PORT FILE   writes what the server replies into the file

The file has a line `> word word ...` for each request, and a line `< text` for each line of its reply, in RESP2. With `>?`
only the kind of the reply is compared, its first byte. Words in double quotes, and all replies, have \\r, \\n, \\t, \\\\, \\" and \\xHH.
Other lines are remarks. The server is emptied first (FLUSHALL).
"""

import re
import socket
import sys

ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\", '"': b'"'}


def unescape(text):
    def one(match):
        code = match.group(1)
        return (bytes([int(code[1:], 16)]) if code[0] == "x" else ESCAPES[code]).decode("latin-1")

    return re.sub(r"\\(x[0-9a-f]{2}|.)", one, text).encode("latin-1")


def escape(data):
    shown = ""
    for byte in data:
        char = chr(byte)
        if char == "\\":
            shown += "\\\\"
        elif 32 <= byte < 127:
            shown += char
        else:
            shown += {10: "\\n", 13: "\\r", 9: "\\t"}.get(byte, f"\\x{byte:02x}")
    # No editor takes a blank at the end away.
    return shown[:-1] + "\\x20" if shown.endswith(" ") else shown


def words(line):
    return [unescape(quoted) if bare == "" else bare.encode()
            for quoted, bare in re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', line)]


class Server:
    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        self.input = self.socket.makefile("rb")

    def ask(self, request):
        parts = [b"*%d\r\n" % len(request)] + [b"$%d\r\n%s\r\n" % (len(word), word) for word in request]
        self.socket.sendall(b"".join(parts))
        return self.reply()

    def reply(self):
        head = self.input.readline()
        if not head.endswith(b"\r\n"):
            raise SystemExit("the server has closed the connection")
        head = head[:-2]
        lines = [head]
        if head[:1] == b"$" and head != b"$-1":
            body = self.input.read(int(head[1:]) + 2)
            lines.append(body[:-2])
        elif head[:1] == b"*" and head != b"*-1":
            for _ in range(int(head[1:])):
                lines += self.reply()
        return lines


def main(mode, address, path):
    server = Server(address)
    server.ask([b"FLUSHALL"])
    out, wrong, request, is_kind_only, expected = [], 0, None, False, []

    def settle():
        nonlocal wrong
        if request is None:
            return
        shown = [escape(line) for line in server.ask(words(request))]
        if is_kind_only:
            shown = [shown[0][:1]]
        if mode == "record":
            out.extend(f"< {line}" if line else "<" for line in shown)
        elif shown != expected:
            wrong += 1
            print(f"> {request}\n  expected {expected}\n  but was  {shown}")

    for line in open(path, encoding="utf-8").read().splitlines():
        if line == "<" or line.startswith("< "):
            expected.append(line[2:])
            continue
        settle()
        out.append(line)
        request, expected = None, []
        if line.startswith(">"):
            is_kind_only = line.startswith(">?")
            request = line[2:].strip() if is_kind_only else line[1:].strip()
    settle()
    if mode == "record":
        open(path, "w", encoding="utf-8").write("\n".join(out) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("check", "record"):
        raise SystemExit(__doc__)
    sys.exit(main(*sys.argv[1:]))
