//! Endpoints as the client that asks can use them.
//!
//! A list of addresses is one place to a client: when a member of the broker group dies, the client's channel goes to
//! the next address by itself. Two clients write such a list down in a way that their own gRPC libraries, or TLS,
//! cannot take.

use super::caller::Caller;
use raftmq_proto::rocketmq as v2;
use std::net::IpAddr;
use v2::AddressScheme;

/// How a client reads a list of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Address by address.
    Plain,
    /// Node.js joins `host:port` by commas and hands that to its gRPC library, which takes it for one domain name.
    /// Behind the name of a scheme, the library reads it as a list.
    Node,
    /// Go joins by semicolons and, over TLS, sends the whole as the name of the server. That is no name, and our TLS
    /// refuses it, so that Go gets one address in each list.
    Single,
}

impl Dialect {
    /// The dialect of the client that calls.
    pub(super) fn of(caller: &Caller) -> Dialect {
        Self::spoken(caller.language(), caller.over_tls())
    }

    fn spoken(language: &str, over_tls: bool) -> Dialect {
        match language {
            "HTTP" => Dialect::Node,
            "GO" if over_tls => Dialect::Single,
            _ => Dialect::Plain,
        }
    }

    /// Whether the client uses no queue of a broker but that with number 0.
    pub(super) fn first_queue_only(self) -> bool {
        self == Dialect::Node
    }

    /// Writes lists for the client.
    pub(super) fn spell(self, mut lists: Vec<v2::Endpoints>) -> Vec<v2::Endpoints> {
        for endpoints in &mut lists {
            let scheme = match endpoints.scheme() {
                AddressScheme::IPv4 => "ipv4:",
                AddressScheme::IPv6 => "ipv6:",
                // One name at a time, which needs no help.
                _ => continue,
            };
            match self {
                Dialect::Plain => {}
                Dialect::Node => node(endpoints, scheme),
                Dialect::Single => endpoints.addresses.truncate(1),
            }
        }
        lists
    }
}

/// `ipv4:10.0.0.1:8081,10.0.0.2:8081`, `ipv6:[::1]:8081,[::2]:8081`.
fn node(endpoints: &mut v2::Endpoints, scheme: &str) {
    for (number, address) in endpoints.addresses.iter_mut().enumerate() {
        let prefix = if number == 0 { scheme } else { "" };
        address.host = format!("{prefix}{}", bracketed(&address.host));
    }
}

fn bracketed(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::Dialect;
    use raftmq_proto::rocketmq as v2;
    use v2::AddressScheme;

    #[test]
    fn dialects() {
        let check = |language: &str, over_tls: bool, expected: Dialect| {
            assert_eq!(Dialect::spoken(language, over_tls), expected, "{language}");
        };
        check("JAVA", true, Dialect::Plain);
        check("PYTHON", false, Dialect::Plain);
        check("HTTP", false, Dialect::Node);
        check("HTTP", true, Dialect::Node);
        check("GO", false, Dialect::Plain);
        check("GO", true, Dialect::Single);
    }

    fn check(dialect: Dialect, scheme: AddressScheme, addresses: &[(&str, i32)], expected: &[(&str, i32)]) {
        let address = |(host, port): &(&str, i32)| v2::Address { host: (*host).to_owned(), port: *port };
        let list = |addresses: &[(&str, i32)]| v2::Endpoints {
            scheme: scheme.into(),
            addresses: addresses.iter().map(address).collect(),
        };
        assert_eq!(dialect.spell(vec![list(addresses)]), [list(expected)], "{dialect:?}");
    }

    const IPV4: &[(&str, i32)] = &[("10.0.0.1", 8081), ("10.0.0.2", 8181)];
    const IPV6: &[(&str, i32)] = &[("fd00::1", 8081), ("fd00::2", 8181)];

    #[test]
    fn node_names_the_scheme() {
        check(Dialect::Node, AddressScheme::IPv4, IPV4, &[("ipv4:10.0.0.1", 8081), ("10.0.0.2", 8181)]);
        check(Dialect::Node, AddressScheme::IPv6, IPV6, &[("ipv6:[fd00::1]", 8081), ("[fd00::2]", 8181)]);
        check(Dialect::Node, AddressScheme::DomainName, &[("mq.test", 80)], &[("mq.test", 80)]);
    }

    #[test]
    fn go_names_one_server_to_tls() {
        check(Dialect::Single, AddressScheme::IPv4, IPV4, &IPV4[..1]);
        check(Dialect::Single, AddressScheme::IPv6, IPV6, &IPV6[..1]);
        check(Dialect::Plain, AddressScheme::IPv4, IPV4, IPV4);
    }
}
