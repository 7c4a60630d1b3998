//! What the first bytes of a connection say, as a table, and the PROXY header that may come before them.
//!
//! Another protocol on a port is one more row of [`PROTOCOLS`] and one more arm where [`Protocol`] is matched.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// A header of a load balancer in text; another protocol follows.
    ProxyV1,
    /// The same in binary.
    ProxyV2,
    /// A TLS handshake; HTTP/2 is inside.
    Tls,
    /// HTTP/2 without TLS: gRPC in plaintext.
    Http2,
    /// A request of HTTP/1 that reads.
    Http1,
}

/// A protocol starts with these bytes.
struct Row {
    prefix: &'static [u8],
    protocol: Protocol,
}

const PROTOCOLS: &[Row] = &[
    Row { prefix: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", protocol: Protocol::Http2 },
    // A handshake record of any TLS version. The second byte of its version is left to the TLS library.
    Row { prefix: &[0x16, 0x03], protocol: Protocol::Tls },
    Row { prefix: b"PROXY ", protocol: Protocol::ProxyV1 },
    Row { prefix: PROXY_V2_SIGNATURE, protocol: Protocol::ProxyV2 },
    Row { prefix: b"GET ", protocol: Protocol::Http1 },
    Row { prefix: b"HEAD ", protocol: Protocol::Http1 },
    Row { prefix: b"POST ", protocol: Protocol::Http1 },
];

const PROXY_V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of a PROXY v2 header in front of its addresses.
const PROXY_V2_HEAD: usize = 16;

/// Longest PROXY v2 header we read: addresses and the extensions of common load balancers.
pub(super) const PROXY_V2_BYTES_MAX: usize = 4096;

/// Longest PROXY v1 line, line end included, as its specification says.
const PROXY_V1_BYTES_MAX: usize = 107;

/// As many bytes as the longest prefix has.
pub(super) const PEEK_BYTES: usize = 24;

/// What some first bytes mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Enough bytes are there and a row matches.
    Speaks(Protocol),
    /// A row may match yet.
    NeedsMore,
    /// No row will ever match.
    Unknown,
}

/// Looks the first bytes up in the table.
pub(super) fn recognise(bytes: &[u8]) -> Verdict {
    let mut verdict = Verdict::Unknown;
    for row in PROTOCOLS {
        let shared = row.prefix.len().min(bytes.len());
        if row.prefix[..shared] == bytes[..shared] {
            if bytes.len() >= row.prefix.len() {
                return Verdict::Speaks(row.protocol);
            }
            verdict = Verdict::NeedsMore;
        }
    }
    verdict
}

/// Who stands behind a load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proxied {
    /// The client's address, and the one it dialled.
    Client { peer: SocketAddr, local: SocketAddr },
    /// The load balancer itself (a health check), or something without addresses.
    Itself,
}

/// A PROXY header that was read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProxyHeader {
    /// Bytes to drop from the connection.
    pub(super) bytes: usize,
    /// What it said.
    pub(super) proxied: Proxied,
}

/// Why a PROXY header cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProxyFault {
    /// It goes on; this many bytes are needed at least.
    NeedsMore(usize),
    /// It is not one.
    Bad(&'static str),
}

/// Reads the line of version 1 from the start of `bytes`.
pub(super) fn proxy_v1(bytes: &[u8]) -> Result<ProxyHeader, ProxyFault> {
    let window = &bytes[..bytes.len().min(PROXY_V1_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return Err(if bytes.len() < PROXY_V1_BYTES_MAX {
            ProxyFault::NeedsMore(bytes.len() + 1)
        } else {
            ProxyFault::Bad("a PROXY line of more than 107 bytes")
        });
    };
    let bad = ProxyFault::Bad("a PROXY line that is not PROXY TCP4|TCP6|UNKNOWN with two addresses and two ports");
    let line = std::str::from_utf8(&window[..end]).map_err(|_| bad)?;
    let mut words = line.split(' ');
    let (Some("PROXY"), Some(family)) = (words.next(), words.next()) else { return Err(bad) };
    let proxied = match family {
        "UNKNOWN" => Proxied::Itself,
        "TCP4" | "TCP6" => {
            let mut address = || words.next().and_then(|word| word.parse::<IpAddr>().ok()).ok_or(bad);
            let (peer, local) = (address()?, address()?);
            let mut port = || words.next().and_then(|word| word.parse::<u16>().ok()).ok_or(bad);
            let (peer_port, local_port) = (port()?, port()?);
            if words.next().is_some() || peer.is_ipv4() != (family == "TCP4") || peer.is_ipv4() != local.is_ipv4() {
                return Err(bad);
            }
            Proxied::Client { peer: (peer, peer_port).into(), local: (local, local_port).into() }
        }
        _ => return Err(bad),
    };
    Ok(ProxyHeader { bytes: end + 2, proxied })
}

/// Reads the binary header of version 2 from the start of `bytes`.
pub(super) fn proxy_v2(bytes: &[u8]) -> Result<ProxyHeader, ProxyFault> {
    let Some(head) = bytes.get(..PROXY_V2_HEAD) else { return Err(ProxyFault::NeedsMore(PROXY_V2_HEAD)) };
    let length = PROXY_V2_HEAD + usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > PROXY_V2_BYTES_MAX {
        return Err(ProxyFault::Bad("a PROXY v2 header of more than 4,096 bytes"));
    }
    let Some(body) = bytes.get(PROXY_V2_HEAD..length) else { return Err(ProxyFault::NeedsMore(length)) };
    let proxied = match (head[12], head[13]) {
        (0x20, _) => Proxied::Itself,
        // Over TCP with IPv4 and IPv6; anything else carries no address that means something here.
        (0x21, 0x11) => proxy_v2_addresses::<4>(body, |octets| Ipv4Addr::from(octets).into())?,
        (0x21, 0x21) => proxy_v2_addresses::<16>(body, |octets| Ipv6Addr::from(octets).into())?,
        (0x21, _) => Proxied::Itself,
        _ => return Err(ProxyFault::Bad("a PROXY v2 header with an unknown command")),
    };
    Ok(ProxyHeader { bytes: length, proxied })
}

fn proxy_v2_addresses<const OCTETS: usize>(
    body: &[u8],
    address: impl Fn([u8; OCTETS]) -> IpAddr,
) -> Result<Proxied, ProxyFault> {
    let bad = ProxyFault::Bad("a PROXY v2 header too short for its addresses");
    let (peer, rest) = body.split_first_chunk::<OCTETS>().ok_or(bad)?;
    let (local, rest) = rest.split_first_chunk::<OCTETS>().ok_or(bad)?;
    let (peer_port, rest) = rest.split_first_chunk::<2>().ok_or(bad)?;
    let (local_port, _extensions) = rest.split_first_chunk::<2>().ok_or(bad)?;
    Ok(Proxied::Client {
        peer: (address(*peer), u16::from_be_bytes(*peer_port)).into(),
        local: (address(*local), u16::from_be_bytes(*local_port)).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::{
        PEEK_BYTES, PROTOCOLS, PROXY_V2_SIGNATURE, Protocol, Proxied, ProxyFault, Verdict, proxy_v1, proxy_v2,
        recognise,
    };

    #[test]
    fn the_table_decides_by_prefix() {
        for (bytes, verdict) in [
            (&b""[..], Verdict::NeedsMore),
            (b"P", Verdict::NeedsMore),
            (b"PRI", Verdict::NeedsMore),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Verdict::Speaks(Protocol::Http2)),
            (b"PRI * HTTP/1.1\r\n", Verdict::Unknown),
            (b"PROXY TCP4", Verdict::Speaks(Protocol::ProxyV1)),
            (b"\r\n\r\n\0\r\nQUIT\n", Verdict::Speaks(Protocol::ProxyV2)),
            (b"\x16\x03\x01", Verdict::Speaks(Protocol::Tls)),
            (b"\x16", Verdict::NeedsMore),
            (b"\x16\x04", Verdict::Unknown),
            (b"GET / HTTP/1.1", Verdict::Speaks(Protocol::Http1)),
            (b"POST / HTTP/1.1", Verdict::Speaks(Protocol::Http1)),
            (b"PUT / HTTP/1.1", Verdict::Unknown),
            (b"\0\0\x01\x05\0\0\0", Verdict::Unknown),
        ] {
            assert_eq!(recognise(bytes), verdict, "{bytes:?}");
        }
        assert!(PROTOCOLS.iter().all(|row| row.prefix.len() <= PEEK_BYTES));
    }

    #[test]
    fn lines_of_version_1() {
        let header = proxy_v1(b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 8081\r\nPRI").expect("the line is good");
        assert_eq!(header.bytes, 44);
        assert_eq!(
            header.proxied,
            Proxied::Client {
                peer: "203.0.113.7:51234".parse().expect("an address"),
                local: "10.0.0.1:8081".parse().expect("an address"),
            }
        );
        let header = proxy_v1(b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n").expect("the line is good");
        assert!(matches!(header.proxied, Proxied::Client { peer, .. } if peer.is_ipv6()));
        assert_eq!(proxy_v1(b"PROXY UNKNOWN\r\n").expect("the line is good").proxied, Proxied::Itself);
        assert_eq!(proxy_v1(b"PROXY TCP4 1.2.3.4"), Err(ProxyFault::NeedsMore(19)));
        for bad in [
            &b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n"[..],
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP6 ::1 1.2.3.4 1 2\r\n",
            b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY \xff\r\n",
            &[b'P'; 200],
        ] {
            assert!(matches!(proxy_v1(bad), Err(ProxyFault::Bad(_))), "{bad:?}");
        }
    }

    #[test]
    fn headers_of_version_2() {
        let mut header = PROXY_V2_SIGNATURE.to_vec();
        header.extend([0x21, 0x11, 0, 15, 203, 0, 113, 7, 10, 0, 0, 1, 0xc8, 0x22, 0x1f, 0x91, 3, 0, 0]);
        let read = proxy_v2(&header).expect("the header is good");
        assert_eq!(read.bytes, header.len());
        assert_eq!(
            read.proxied,
            Proxied::Client {
                peer: "203.0.113.7:51234".parse().expect("an address"),
                local: "10.0.0.1:8081".parse().expect("an address"),
            }
        );
        for cut in 0..header.len() {
            assert!(matches!(proxy_v2(&header[..cut]), Err(ProxyFault::NeedsMore(bytes)) if bytes > cut));
        }
        let with = |at: usize, byte: u8| {
            let mut changed = header.clone();
            changed[at] = byte;
            proxy_v2(&changed)
        };
        assert_eq!(with(12, 0x20).expect("a health check").proxied, Proxied::Itself);
        assert_eq!(with(13, 0x31).expect("a Unix socket").proxied, Proxied::Itself);
        assert!(matches!(with(12, 0x31), Err(ProxyFault::Bad(_))));
        assert!(matches!(with(13, 0x21), Err(ProxyFault::Bad(_))));
        assert!(matches!(with(14, 0xff), Err(ProxyFault::Bad(_))));
    }
}
