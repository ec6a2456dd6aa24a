"""Fetches an address over asyncio's loop and over uvloop's, with 20 connections at once."""

import asyncio
import sys
from urllib.parse import urlsplit

import uvloop


async def fetch(url):
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    writer.write(f"GET {parts.path} HTTP/1.0\r\nHost: {parts.hostname}\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer.partition(b"\r\n\r\n")[2]


async def main(url):
    pages = await asyncio.gather(*(fetch(url) for _ in range(20)))
    assert len(set(pages)) == 1
    return pages[0].decode()


print("asyncio", asyncio.run(main(sys.argv[1])), end="")
uvloop.install()
print("uvloop", asyncio.run(main(sys.argv[1])), end="")
