#!/usr/bin/env python3
"""Sends the requests of `requests/` to an API server and writes down what it answers.

    record.py SERVER TOKEN [SCENE ...]

One file a scene in `recorded/`. What no two servers can answer alike is masked
(`masks.json`), so that recording anew changes only what the server does otherwise.
"""

import http.client
import importlib
import ipaddress
import json
import pathlib
import re
import ssl
import sys
import urllib.parse

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
MODULES = ["services", "network", "pods", "metadata", "patches", "reading", "protocol", "kinds",
           "transitions", "warnings", "details", "ownership"]
MASKS = json.loads((HERE / "masks.json").read_text())
FIELDS = {mask["path"] for mask in MASKS["fields"]}
CELLS = {mask["column"] for mask in MASKS["cells"]}
RANGES = {family: ipaddress.ip_network(MASKS["allocated"][family]) for family in ("IPv4", "IPv6")}
PORTS = MASKS["allocated"]["ports"]


def filled(text, kept):
    """Puts in what was kept of earlier answers, and long texts."""
    def value(found):
        kind, _, count = found[1].partition(":")
        return "x" * int(count) if kind == "repeat" else kept[found[1]]
    return re.sub(r"\$\{([^}]+)\}", value, text)


def body_text(body, kept):
    if body is None:
        return None
    return filled(body if isinstance(body, str) else json.dumps(body), kept)


def pointer(document, path):
    for part in path.split("/")[1:]:
        document = document[int(part) if isinstance(document, list) else part]
    return document


class Masker:
    """Replaces what servers choose; `said` is all that the scene's requests said."""

    def __init__(self):
        self.said = ""
        self.kept = {}

    def document(self, value):
        if isinstance(value, dict) and value.get("kind") == "Table":
            value = self.table(value)
        return self.value(value, ())

    def table(self, table):
        hidden = [column["name"] in CELLS for column in table["columnDefinitions"]]
        rows = []
        for row in table.get("rows") or []:
            cells = ["<age>" if hide else cell for cell, hide in zip(row["cells"], hidden)]
            rows.append({**row, "cells": cells})
        return {**table, "rows": rows}

    def value(self, value, path):
        if isinstance(value, dict):
            if isinstance(owners := value.get("managedFields"), list):
                # They stand in the order of the seconds of their writes.
                owners.sort(key=lambda owner: [owner.get(part) or "" for part in ("operation", "manager", "subresource")])
            return {key: self.value(one, path + (key,)) for key, one in value.items()}
        if isinstance(value, list):
            return [self.value(one, path) for one in value]
        names = [".".join(path[-length:]) for length in (2, 3)]
        if value is not None and any(name in FIELDS for name in names):
            return f"<{path[-1]}>"
        if path[-1:] in (("nodePort",), ("healthCheckNodePort",)) and isinstance(value, int):
            drawn = PORTS[0] <= value <= PORTS[1] and str(value) not in self.said
            return "<port>" if drawn else value
        return self.text(value, path) if isinstance(value, str) else value

    def text(self, text, path):
        for name, value in self.kept.items():
            # A short one, a version, may stand for something else outside a sentence.
            if len(value) > 5 or (len(value) > 1 and path[-1:] == ("message",)):
                text = re.sub(rf"\b{re.escape(value)}\b", f"<{name}>", text)
        text = re.sub("x{1000,}", "<long>", text)
        # What follows the first line of a complaint is a comparison of Go values, whose
        # form its maker varies on purpose.
        if path[-1:] == ("message",):
            text = text.split("\n")[0]
        # The version a store is at counts its writes.
        text = re.sub(r"(, current: )\d+", r"\1<version>", text)
        # Sentences of Go programs name addresses of memory; complaints about patches
        # quote the whole object.
        text = re.sub(r"\(0x[0-9a-f]+", "(<pointer>", text)
        text = re.sub(r'Invalid value: "\{\\".*\}"', "Invalid value: <object>", text)
        return re.sub(r"[0-9a-fA-F.:]+", self.drawn, text)

    def drawn(self, word):
        """An address that the server chose, alone or in a sentence."""
        try:
            address = ipaddress.ip_address(word[0])
        except ValueError:
            return word[0]
        for family, network in RANGES.items():
            if address in network and word[0] not in self.said:
                return f"<{family}>"
        return word[0]


def answer(connection, token, request, masker):
    path = filled(request["path"], {name: urllib.parse.quote(value) for name, value in masker.kept.items()})
    body = body_text(request.get("body"), masker.kept)
    masker.said += path + (body[:100_000] if body else "")
    headers = {"authorization": f"Bearer {token}", **request["headers"]}
    connection.request(request["method"], path, body.encode() if body is not None else None, headers)
    response = connection.getresponse()
    text = response.read().decode()
    try:
        document = json.loads(text)
    except ValueError:
        document = text
    headers = {name: value for name in ("content-type",) if (value := response.getheader(name))}
    if warnings := response.headers.get_all("warning"):
        headers["warning"] = warnings
    return {"status": response.status, "headers": headers, "body": document}


def record(server, token, scene):
    url = urllib.parse.urlsplit(server)
    context = ssl._create_unverified_context()
    masker = Masker()
    for exchange in scene.exchanges:
        # A server may close the connection after a body it does not read.
        connection = http.client.HTTPSConnection(url.hostname, url.port, context=context, timeout=60)
        found = answer(connection, token, exchange["request"], masker)
        connection.close()
        for name, path in exchange.get("keep", {}).items():
            masker.kept[name] = pointer(found["body"], path)
        exchange["answer"] = {**found, "body": masker.document(found["body"])}
    lines = ",\n".join(json.dumps(exchange, ensure_ascii=False) for exchange in scene.exchanges)
    (HERE / "recorded" / f"{scene.name}.json").write_text(f"[\n{lines}\n]\n")
    return len(scene.exchanges)


def main():
    server, token, *wanted = sys.argv[1:]
    for module in MODULES:
        for make in importlib.import_module(f"requests.{module}").SCENES:
            scene = make()
            if not wanted or scene.name in wanted:
                print(f"{scene.name}: {record(server, token, scene)} requests")


if __name__ == "__main__":
    main()
