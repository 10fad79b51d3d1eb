"""Holds connections open on which it says nothing, until its input ends.

crowd.py PORT SILENT QUIET: so many that never begin a handshake, and so many that are quiet after
one, in turn without a protocol, with HTTP/1.1, with HTTP/2, and after a request.
"""
import resource, socket, ssl, sys

port, silent, quiet = map(int, sys.argv[1:])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def connect():
    return socket.create_connection(("127.0.0.1", port), timeout=100)


def context(protocol):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if protocol:
        made.set_alpn_protocols([protocol])
    return made


contexts = [context(protocol) for protocol in [None, "http/1.1", "h2", None]]
held = []
for number in range(quiet):
    stream = contexts[number % 4].wrap_socket(connect())
    if number % 4 == 3:
        stream.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert stream.recv(12) == b"HTTP/1.1 200"
    held.append(stream)
held += [connect() for _ in range(silent)]
print("held", flush=True)
sys.stdin.read()
