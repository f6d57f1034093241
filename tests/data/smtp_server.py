"""A mail server for tests: takes mail on a port of this machine and writes each message to a file.

Usage: smtp_server.py PORT FOLDER [CERTIFICATE KEY]; with a certificate, mail is taken only after STARTTLS.
"""

import asyncio
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP

port, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
tls = None
if len(sys.argv) > 3:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(sys.argv[3], sys.argv[4])


class Keep:
    taken = 0

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return "550 there is no such person"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        self.taken += 1
        protected = b"X-Protected: yes\r\n" if session.ssl else b""
        part = folder / f"{self.taken}.part"
        part.write_bytes(protected + envelope.content)
        part.rename(folder / f"{self.taken}.eml")
        return "250 taken"


async def main():
    keep = Keep()
    loop = asyncio.get_running_loop()
    make = lambda: SMTP(keep, hostname="localhost", tls_context=tls, require_starttls=tls is not None, loop=loop)
    server = await loop.create_server(make, "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main())
