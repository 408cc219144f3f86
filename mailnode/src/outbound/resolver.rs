//! The DNS: mail exchangers and addresses. Answers are cached as long as they say. Names are asked for as they are,
//! without search lists, so that no local name stands for a stranger's.

use super::settings::Settings;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use outbound::route::ADDRESSES;
use outbound::{Destination, MailExchangers, Problem};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS: u16 = 53;
const TIMEOUT: Duration = Duration::from_secs(5);
/// What is not there is asked for again after so long at most.
const NEGATIVE: Duration = Duration::from_secs(60);

pub struct Resolver(TokioResolver);

impl Resolver {
    /// # Errors
    /// If there is no name server to ask.
    pub fn new(settings: &Settings) -> Result<Self, Problem> {
        let mut servers = settings.name_servers.clone();
        if servers.is_empty() {
            servers = of_resolv_conf(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
        }
        if servers.is_empty() {
            return Err(Problem::temporary(4, 3, "no name server: set outbound.nameServers"));
        }
        let servers = servers.into_iter().map(|address| {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            for connection in &mut server.connections {
                connection.port = address.port();
            }
            server
        });
        let mut options = ResolverOpts::default();
        options.timeout = TIMEOUT;
        options.use_hosts_file = ResolveHosts::Never;
        options.negative_max_ttl = Some(NEGATIVE);
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let resolver = builder.with_options(options).build();
        resolver.map(Self).map_err(|error| Problem::temporary(4, 3, format!("the resolver: {error}")))
    }

    /// # Errors
    /// If the DNS gives no answer.
    pub async fn exchangers(&self, domain: &Destination) -> Result<MailExchangers, Problem> {
        let answer = match absolute(domain.as_str()) {
            Some(name) => self.0.lookup(name, RecordType::MX).await,
            None => return Ok(MailExchangers::NoSuchDomain),
        };
        let lookup = match answer {
            Ok(lookup) => lookup,
            Err(error) if error.is_nx_domain() => return Ok(MailExchangers::NoSuchDomain),
            Err(error) if error.is_no_records_found() => return Ok(MailExchangers::None),
            Err(error) => return Err(unanswered(domain.as_str(), &error)),
        };
        let records = lookup.answers().iter().filter_map(|record| match &record.data {
            RData::MX(mx) => Some((mx.preference, mx.exchange.to_ascii())),
            _ => None,
        });
        let records: Vec<(u16, String)> = records.collect();
        Ok(if records.is_empty() { MailExchangers::None } else { MailExchangers::Records(records) })
    }

    /// Addresses of a host, at least one. A name that leads to ourselves or to nobody is somebody's trick or mistake.
    ///
    /// # Errors
    /// If it has none, or the DNS gives no answer.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Problem> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let none = || Problem::permanent(4, 4, format!("the host {host} has no address"));
        let name = absolute(host).ok_or_else(none)?;
        match self.0.lookup_ip(name).await {
            Ok(found) => {
                let found: Vec<IpAddr> = found.iter().filter(is_somebody).take(ADDRESSES).collect();
                if found.is_empty() { Err(none()) } else { Ok(found) }
            }
            Err(error) if error.is_nx_domain() || error.is_no_records_found() => Err(none()),
            Err(error) => Err(unanswered(host, &error)),
        }
    }
}

fn is_somebody(address: &IpAddr) -> bool {
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn unanswered(name: &str, error: &NetError) -> Problem {
    // RFC 3463 3.5: directory server failure.
    Problem::temporary(4, 3, format!("the DNS has no answer about {name} now: {error}"))
}

/// The `nameserver` lines. What cannot be read is skipped.
fn of_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then_some(())?;
        words.next()?.parse::<IpAddr>().ok()
    });
    addresses.map(|address| SocketAddr::new(address, DNS)).take(3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_from_resolv_conf() {
        let text = "# nameserver 192.0.2.9\nsearch a.example\nnameserver 192.0.2.1\nnameserver  2001:db8::1 # x\nnameserver x\n";
        let servers: Vec<String> = of_resolv_conf(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53"]);
    }
}
