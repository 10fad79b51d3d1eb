"""Traffic without a pause, until standard input ends: `SERVICE PORT ADDRESS…`.

New TCP connections and datagrams to a server of serve.py at each address, a connection to
each that is kept, and look-ups of the Service's name. Prints counts as one line of JSON ten
times a second, and every failure on a line of its own, as text."""
import json, socket, sys, threading, time

SERVICE, PORT, ADDRESSES = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
PATIENCE = 10
counts = {}
stop = threading.Event()


def keep_at(name, once):
    counts[name] = 0
    began = time.monotonic()
    while not stop.is_set():
        try:
            once()
            counts[name] += 1
        except Exception as error:
            print(f"{name}: {error!r} at {time.monotonic() - began:.3f} s", flush=True)
        time.sleep(0.002)


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def connect(address):
    connection = socket.socket(family(address), socket.SOCK_STREAM)
    connection.settimeout(PATIENCE)
    connection.connect((address, PORT))
    greeting = connection.recv(512)
    assert greeting.endswith(b"\n"), greeting
    return connection


def datagram(address):
    with socket.socket(family(address), socket.SOCK_DGRAM) as asking:
        asking.settimeout(PATIENCE)
        asking.connect((address, PORT))
        asking.send(b"?")
        assert asking.recv(512).endswith(b"\n")


def talk(connection):
    connection.sendall(b"still there?")
    heard = b""
    while len(heard) < 12:
        more = connection.recv(512)
        assert more, "closed"
        heard += more
    assert heard == b"still there?", heard


def work():
    for address in ADDRESSES:
        yield f"connections to {address}", lambda address=address: connect(address).close()
        yield f"datagrams to {address}", lambda address=address: datagram(address)
        kept = connect(address)
        yield f"one connection to {address}", lambda kept=kept: talk(kept)
    yield "look-ups", lambda: socket.getaddrinfo(SERVICE, PORT, type=socket.SOCK_STREAM)


threads = [threading.Thread(target=keep_at, args=each) for each in work()]
for thread in threads:
    thread.start()


def report():
    while not stop.wait(0.1):
        print(json.dumps(counts), flush=True)


threading.Thread(target=report).start()
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join()
