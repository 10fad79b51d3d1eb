"""Answers on the ports given as arguments, by TCP and by UDP, over both families, with one
line `FROM PORT TO NAME`: the client's address and port as seen from here, the address that
was reached, and the name of this host. Over TCP it then sends back what it is sent."""
import socket, sys, threading

NAME = socket.gethostname()


def plain(address):
    return address.removeprefix("::ffff:")


def tcp(listener):
    while True:
        connection, client = listener.accept()
        threading.Thread(target=converse, args=(connection, client), daemon=True).start()


def converse(connection, client):
    try:
        to = plain(connection.getsockname()[0])
        connection.sendall(f"{plain(client[0])} {client[1]} {to} {NAME}\n".encode())
        while data := connection.recv(4096):
            connection.sendall(data)
    except OSError:
        pass  # The client has gone.
    finally:
        connection.close()


def udp(listener):
    # An answer has to leave from the address that was asked (ip(7), ipv6(7): IPV6_PKTINFO).
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    while True:
        _, about, _, client = listener.recvmsg(2048, 256)
        to = plain(socket.inet_ntop(socket.AF_INET6, about[0][2][:16]))
        line = f"{plain(client[0])} {client[1]} {to} {NAME}\n".encode()
        listener.sendmsg([line], about, 0, client)


# Held here: a listener that nothing refers to is closed.
listeners = []
for port in map(int, sys.argv[1:]):
    for kind, serve in [(socket.SOCK_STREAM, tcp), (socket.SOCK_DGRAM, udp)]:
        listener = socket.socket(socket.AF_INET6, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", port))
        if kind == socket.SOCK_STREAM:
            listener.listen(512)
        listeners.append(listener)
        threading.Thread(target=serve, args=(listener,)).start()
