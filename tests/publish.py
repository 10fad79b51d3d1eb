"""A server that echoes, or says what it got: `e` echoes all that follows as it comes, `d` waits for
the end and then says its name, how many bytes came, and their digest."""
import hashlib
import socketserver
import sys


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        mode = self.request.recv(1)
        if mode == b"e":
            while data := self.request.recv(65536):
                self.request.sendall(data)
        else:
            digest, count = hashlib.sha256(), 0
            while data := self.request.recv(65536):
                digest.update(data)
                count += len(data)
            said = f"{sys.argv[2]} {count} {digest.hexdigest()}"
            self.request.sendall(said.encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512


Server(("", int(sys.argv[1])), Handler).serve_forever()
