"""Answers like the site of the text's session, which refuses whoever asks by address.

    site.py ADDRESS
"""

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Refusal(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.send_response_only(403)
        for name, value in [
            ("Date", self.date_time_string()),
            ("Content-Type", "text/plain; charset=UTF-8"),
            ("Content-Length", "16"),
            ("Connection", "close"),
            ("X-Frame-Options", "SAMEORIGIN"),
            ("Referrer-Policy", "same-origin"),
            (
                "Cache-Control",
                "private, max-age=0, no-store, no-cache, must-revalidate, post-check=0, pre-check=0",
            ),
            ("Expires", "Thu, 01 Jan 1970 00:00:01 GMT"),
            ("Server", "cloudflare"),
            ("CF-RAY", "0123456789abcdef-HKG"),
        ]:
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


HTTPServer((sys.argv[1], 80), Refusal).serve_forever()
