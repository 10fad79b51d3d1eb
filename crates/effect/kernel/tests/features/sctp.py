"""The first two packets of an SCTP association (RFC 9260, INIT and INIT ACK), by raw sockets.

`serve ADDRESS PORT` answers until it is killed; `ask ADDRESS PORT` prints what it meets:
`answered`, `refused` (an ICMP error that names the packet), `timeout`, or what is wrong."""
import random, select, socket, struct, sys, time

VERB, ADDRESS, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])
SIX = ":" in ADDRESS
FAMILY = socket.AF_INET6 if SIX else socket.AF_INET
ICMP = socket.IPPROTO_ICMPV6 if SIX else socket.IPPROTO_ICMP
SCTP = 132
INIT, INIT_ACK = 1, 2


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def packet(source, destination, tag, kind):
    chunk = struct.pack("!BBHIIHHI", kind, 0, 20, 0x12345678, 65535, 1, 1, 1)
    head = struct.pack("!HHI", source, destination, tag)
    return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def received(raw):
    """Ports, chunk type and sender of the next packet; a packet that is damaged is an error."""
    data, sender = raw.recvfrom(4096)
    if not SIX:
        data = data[(data[0] & 15) * 4 :]
    source, destination, _ = struct.unpack("!HHI", data[:8])
    checksum = struct.unpack("<I", data[8:12])[0]
    assert checksum == crc32c(data[:8] + bytes(4) + data[12:]), "the checksum is wrong"
    return source, destination, data[12], sender[0]


raw = socket.socket(FAMILY, socket.SOCK_RAW, SCTP)
if VERB == "serve":
    raw.bind((ADDRESS, 0))
    print("ready", flush=True)
    while True:
        source, destination, kind, sender = received(raw)
        if destination == PORT and kind == INIT:
            raw.sendto(packet(PORT, source, 0x12345678, INIT_ACK), (sender, 0))

errors = socket.socket(FAMILY, socket.SOCK_RAW, ICMP)
own = random.randrange(20000, 30000)
deadline = time.monotonic() + 10
met = "timeout"
while met == "timeout" and time.monotonic() < deadline:
    raw.sendto(packet(own, PORT, 0, INIT), (ADDRESS, 0))
    readable, _, _ = select.select([raw, errors], [], [], 0.5)
    if raw in readable:
        source, destination, kind, sender = received(raw)
        if destination == own:
            right = (source, kind, sender) == (PORT, INIT_ACK, ADDRESS)
            met = "answered" if right else f"{sender} {source} {kind}"
    elif errors in readable:
        data = errors.recv(4096)
        head = data if SIX else data[(data[0] & 15) * 4 :]
        # Destination unreachable, port: RFC 792 and RFC 4443.
        if tuple(head[:2]) == ((1, 4) if SIX else (3, 3)):
            met = "refused"
print(met)
