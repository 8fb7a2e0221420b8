"""An upstream of large bodies: it swallows uploads and pours out embeddings, as fast as they are taken.

Its own memory stays flat; what it needs is on the other core.
"""

import argparse
import socket
import socketserver

_BLOCK_BYTES = 262_144
_TRANSCRIPT = b'{"text":"Bonjour","usage":{"type":"duration","seconds":60}}'
_NUMBERS = b"0.018902843818068504,-0.023282647132873535," * 24
_VECTOR = b'{"object":"embedding","index":0,"embedding":[%b0.5]},' % _NUMBERS
_FIRST = b'{"object":"list","data":['
_LAST = b'{"object":"embedding","index":1,"embedding":[0.5]}],"model":"m","usage":{"prompt_tokens":2,"total_tokens":2}}'


class _Handler(socketserver.StreamRequestHandler):
    server: "_Server"

    def handle(self) -> None:
        while head := self._head():
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            self._swallow(length)
            if b"/audio/" in head.partition(b"\r\n")[0]:
                self._answer_head(len(_TRANSCRIPT))
                self.connection.sendall(_TRANSCRIPT)
            else:
                self._pour(self.server.answer_bytes)

    def _head(self) -> bytes:
        lines = []
        while line := self.rfile.readline(65_536):
            lines.append(line)
            if line == b"\r\n":
                return b"".join(lines)
        return b""

    def _swallow(self, length: int) -> None:
        buffer = bytearray(_BLOCK_BYTES)
        while length:
            got = self.rfile.readinto(memoryview(buffer)[: min(length, _BLOCK_BYTES)])
            if not got:
                raise ConnectionError
            length -= got

    def _pour(self, size: int) -> None:
        block = _VECTOR * (_BLOCK_BYTES // len(_VECTOR))
        blocks = max(1, (size - len(_FIRST) - len(_LAST)) // len(block))
        self._answer_head(len(_FIRST) + len(block) * blocks + len(_LAST))
        self.connection.sendall(_FIRST)
        for _ in range(blocks):
            self.connection.sendall(block)
        self.connection.sendall(_LAST)

    def _answer_head(self, length: int) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % length
        self.connection.sendall(head)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int, answer_bytes: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answer_bytes = answer_bytes

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: proxies close connections when they like."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer-bytes", type=int, required=True)
    arguments = parser.parse_args()
    with _Server(arguments.port, arguments.answer_bytes) as server:
        server.serve_forever()
