"""Asks servers of serve.py, all at the same time: each argument is `tcp|udp ADDRESS PORT TIMES`.
Prints one line of JSON for each: a list of what each time met. Something is an answer (an
object), `refused`, `timeout`, `unreachable`, `prohibited`, or other text that is the error itself.

A time starts after the one before has ended; a timeout ends the series, for it says enough."""
import errno, json, socket, sys, threading

PATIENCE = 3.5
# A datagram is sent again after this time: routers tell a host of few errors a second.
AGAIN = 0.5
# linux/in.h, linux/in6.h; Python does not know them before 3.14.
IP_RECVERR = 11
IPV6_RECVERR = 25
MEANING = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EACCES: "prohibited",
    # The own kernel's answer when a rule drops or rejects a datagram before it leaves the host.
    errno.EPERM: "prohibited",
}


def ask(protocol, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[protocol]
    try:
        with socket.socket(family, kind) as asking:
            asking.settimeout(PATIENCE)
            if protocol == "udp":
                # Without these only port-unreachable is told (ip(7), ipv6(7)).
                if family == socket.AF_INET:
                    asking.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
                else:
                    asking.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
            asking.connect((address, port))
            local = asking.getsockname()
            text = hear(asking, protocol).decode()
            seen, seen_port, to, name = text.split()
            return {
                "from": seen,
                "from_port": int(seen_port),
                "local": local[0],
                "local_port": local[1],
                "to": to,
                "name": name,
            }
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return MEANING.get(error.errno, str(error))
    except ValueError:
        return f"not an answer: {text!r}"


def hear(asking, protocol):
    if protocol == "tcp":
        return asking.recv(512)
    asking.settimeout(AGAIN)
    for _ in range(int(PATIENCE / AGAIN)):
        asking.send(b"?")
        try:
            return asking.recv(512)
        except TimeoutError:
            pass
    raise TimeoutError


def series(results, index, protocol, address, port, times):
    for _ in range(int(times)):
        met = ask(protocol, address, int(port))
        results[index].append(met)
        if met == "timeout":
            break


asked = [argument.split() for argument in sys.argv[1:]]
results = [[] for _ in asked]
threads = [
    threading.Thread(target=series, args=(results, index, *flow))
    for index, flow in enumerate(asked)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for result in results:
    print(json.dumps(result))
