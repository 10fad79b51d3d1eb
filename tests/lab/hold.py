"""Holds a connection to ADDRESS PORT, a server of serve.py, open: prints `connected`, then the lines
that come back for what it is given as input, and in the end `reset`, `closed` or the error."""
import select, socket, sys

with socket.create_connection((sys.argv[1], int(sys.argv[2])), 30) as held:
    held.recv(512)
    print("connected", flush=True)
    while True:
        try:
            ready, _, _ = select.select([held, sys.stdin], [], [])
            if held in ready:
                text = held.recv(512).decode()
                print(text.strip() or "closed", flush=True)
                if not text:
                    break
            if sys.stdin in ready:
                line = sys.stdin.readline()
                if not line:
                    break
                held.sendall(line.encode())
        except ConnectionResetError:
            print("reset", flush=True)
            break
        except OSError as error:
            print(error, flush=True)
            break
