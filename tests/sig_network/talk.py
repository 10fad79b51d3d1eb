"""Sends datagrams to ADDRESS PORT, a server of serve.py, from one socket and without a pause,
and prints who answers whenever that changes; `nobody` when nobody did for a while."""
import socket, sys, time

address, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
known, heard = None, time.monotonic()
with socket.socket(family, socket.SOCK_DGRAM) as talking:
    talking.settimeout(0.05)
    talking.connect((address, port))
    while True:
        try:
            talking.send(b"?")
            met = talking.recv(512).split()[3].decode()
            heard = time.monotonic()
        except OSError:
            # Refused, or lost while rules change.
            if time.monotonic() - heard < 0.5:
                continue
            met = "nobody"
        if met != known:
            known = met
            print(known, flush=True)
        time.sleep(0.01)
