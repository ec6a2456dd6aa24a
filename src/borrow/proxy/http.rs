//! HTTP/1 as a proxy hears it: CONNECT, and a request with an absolute URL. Bytes in, bytes out.

use bytes::{Bytes, BytesMut};

use super::{Speech, Wish, Word};
use crate::proto::Target;

pub(super) const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
pub(super) const TOO_LONG: &str = "431 Request Header Fields Too Large";
const BAD: &str = "400 Bad Request";
const NOT_HERE: &str = "501 Not Implemented";
const HTTP_PORT: u16 = 80;

/// A reply that ends the connection.
pub(super) fn failure(status: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
}

/// What the client wants, once the head of its request is whole.
pub(super) fn request(heard: &mut BytesMut) -> Word {
    let Some(end) = heard.windows(4).position(|four| four == b"\r\n\r\n") else { return Word::More };
    let head = heard.split_to(end + 4);
    let Ok(head) = std::str::from_utf8(&head) else { return Word::End(failure(BAD)) };
    read(head).unwrap_or_else(|status| Word::End(failure(status)))
}

fn read(head: &str) -> Result<Word, &'static str> {
    let (line, headers) = head.split_once("\r\n").ok_or(BAD)?;
    let mut parts = line.split(' ');
    let (Some(method), Some(wanted), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(BAD);
    };
    if !version.starts_with("HTTP/1.") {
        return Err(BAD);
    }
    if method == "CONNECT" {
        let target = wanted.parse().map_err(|_| BAD)?;
        return Ok(Word::Connect(Wish { target, speech: Speech::HttpConnect, first: Bytes::new() }));
    }
    let rest = match wanted.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("http://") => &wanted[7..],
        // Other schemes come by CONNECT.
        _ if wanted.contains("://") => return Err(NOT_HERE),
        _ => return Err(BAD),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let slash = if path.starts_with('/') { "" } else { "/" };
    let target = target(authority).ok_or(BAD)?;
    let mut first = format!("{method} {slash}{path} {version}\r\n");
    for header in headers.split("\r\n").filter(|header| !header.is_empty()) {
        let name = header.split(':').next().unwrap_or_default();
        // What is between the client and us; and the target ends the connection, as the next request may be for another.
        let ours = ["connection", "keep-alive", "proxy-connection", "proxy-authorization"];
        if !ours.iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
            first.push_str(header);
            first.push_str("\r\n");
        }
    }
    first.push_str("Connection: close\r\n\r\n");
    Ok(Word::Connect(Wish { target, speech: Speech::HttpRequest, first: first.into() }))
}

/// `host`, `host:port` or `[address]:port` of a URL.
fn target(authority: &str) -> Option<Target> {
    if authority.contains('@') {
        return None;
    }
    let port_is_missing = authority.rsplit_once(':').is_none_or(|(_, port)| port.ends_with(']'));
    let whole = if port_is_missing { format!("{authority}:{HTTP_PORT}") } else { authority.to_owned() };
    whole.parse().ok()
}
