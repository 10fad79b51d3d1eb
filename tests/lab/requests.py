"""New connections to a server of serve.py, so many a second, until standard input ends:
`ADDRESS PORT RATE`. Prints every failure on a line of its own, as text, and how many were made
in how many seconds as one line of JSON ten times a second."""
import json, socket, sys, threading, time

ADDRESS, PORT, RATE = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
PATIENCE = 10
WORKERS = 32
lock = threading.Lock()
made = failed = 0
first = due = time.monotonic()
stop = threading.Event()


def turn():
    """When the next request is to be made. What a busy machine has missed for more than a second
    is not made up for."""
    global due
    with lock:
        at = due = max(due + 1 / RATE, time.monotonic() - 1)
    return at


def request():
    family = socket.AF_INET6 if ":" in ADDRESS else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE)
        connection.connect((ADDRESS, PORT))
        greeting = connection.recv(512)
        assert greeting.endswith(b"\n"), greeting


def work():
    global made, failed
    while not stop.is_set():
        time.sleep(max(0, turn() - time.monotonic()))
        began = time.monotonic()
        try:
            request()
            with lock:
                made += 1
        except Exception as error:
            with lock:
                failed += 1
            print(f"{error!r} after {time.monotonic() - began:.3f} s", flush=True)


threads = [threading.Thread(target=work) for _ in range(WORKERS)]
for thread in threads:
    thread.start()


def report():
    seconds = time.monotonic() - first
    print(json.dumps({"made": made, "failed": failed, "seconds": seconds}), flush=True)


def keep_reporting():
    while not stop.wait(0.1):
        report()


threading.Thread(target=keep_reporting).start()
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join()
report()
