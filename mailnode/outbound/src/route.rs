//! Where mail for a domain goes (RFC 5321 5.1): its mail exchangers in order, or the domain itself.

use crate::problem::Problem;
use std::fmt;

/// Hosts tried for one domain, and addresses of one host, at most.
pub const HOSTS: usize = 20;
pub const ADDRESSES: usize = 10;

/// What messages to different recipients have in common on their way: a domain in lower-case ASCII, or the relay.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination(String);

impl Destination {
    /// The relay that all mail goes through.
    pub fn relay() -> Self {
        Self("(relay)".into())
    }

    /// The members of mailing lists here.
    pub fn lists() -> Self {
        Self("(lists)".into())
    }

    /// The domain of an address.
    ///
    /// # Errors
    /// For an address without a domain that could be looked up.
    pub fn of(address: &str) -> Result<Self, Problem> {
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        if domain.starts_with('[') {
            // RFC 5321 4.1.3; nobody who means well uses them, and they reach into private networks.
            return Err(Problem::permanent(1, 2, "mail is not sent to address literals"));
        }
        // RFC 6531 3.2: looked up as A-labels (RFC 5890).
        match idna::domain_to_ascii(domain.trim_end_matches('.')) {
            Ok(ascii) if ascii.len() <= 253 && !ascii.split('.').any(str::is_empty) => Ok(Self(ascii)),
            _ => Err(Problem::permanent(1, 2, format!("{domain} is no domain name"))),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The DNS's answer about a domain's MX records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailExchangers {
    /// Preference and name.
    Records(Vec<(u16, String)>),
    /// The domain has none.
    None,
    NoSuchDomain,
}

/// The hosts to try, best first. `ourselves` are names of this cluster; `random` shuffles equals.
///
/// # Errors
/// If mail for the domain cannot be delivered, ever.
pub fn hosts(
    domain: &Destination,
    answer: MailExchangers,
    ourselves: &[String],
    mut random: impl FnMut() -> u64,
) -> Result<Vec<String>, Problem> {
    let records = match answer {
        MailExchangers::NoSuchDomain => {
            return Err(Problem::permanent(1, 2, format!("the domain {domain} does not exist")));
        }
        // RFC 5321 5.1: the implicit MX.
        MailExchangers::None => return Ok(vec![domain.as_str().to_owned()]),
        MailExchangers::Records(records) => records,
    };
    let mut records: Vec<(u16, u64, String)> = records
        .into_iter()
        .map(|(preference, name)| (preference, random(), name.trim_end_matches('.').to_ascii_lowercase()))
        .collect();
    // RFC 7505 3: a single record that names the root.
    if records.iter().all(|(_, _, name)| name.is_empty()) {
        return Err(Problem::permanent(1, 10, format!("{domain} takes no mail (null MX)")));
    }
    records.retain(|(_, _, name)| !name.is_empty());
    // RFC 5321 5.1: by preference; equals in random order, so that they share the load.
    records.sort();
    // RFC 5321 5.1: a host that finds itself in the list drops itself and all that are no better.
    let is_us = |name: &String| ourselves.iter().any(|ours| ours.eq_ignore_ascii_case(name));
    if let Some(own) = records.iter().find(|(_, _, name)| is_us(name)).map(|(preference, _, _)| *preference) {
        records.retain(|(preference, _, _)| *preference < own);
        if records.is_empty() {
            let text =
                format!("mail for {domain} loops back: its MX is this host, and the domain is none of ours");
            return Err(Problem::permanent(4, 6, text));
        }
    }
    records.truncate(HOSTS);
    Ok(records.into_iter().map(|(_, _, name)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(records: &[(u16, &str)], ourselves: &[&str]) -> Result<Vec<String>, Problem> {
        let domain = Destination::of("a@example.net").unwrap();
        let records = records.iter().map(|(preference, name)| (*preference, (*name).to_owned())).collect();
        let ourselves: Vec<String> = ourselves.iter().map(|name| (*name).to_owned()).collect();
        hosts(&domain, MailExchangers::Records(records), &ourselves, || 0)
    }

    #[test]
    fn the_lowest_preference_comes_first() {
        let route = route(&[(20, "c.example."), (10, "B.example."), (5, "a.example.")], &[]);
        assert_eq!(route.unwrap(), ["a.example", "b.example", "c.example"]);
    }

    #[test]
    fn equals_are_shuffled() {
        let domain = Destination::of("a@example.net").unwrap();
        let mut firsts = std::collections::BTreeSet::new();
        for seed in 0..20_u64 {
            let mut state = seed;
            let answer = MailExchangers::Records((0..3).map(|n| (10, format!("mx{n}.example."))).collect());
            let random = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state
            };
            firsts.insert(hosts(&domain, answer, &[], random).unwrap()[0].clone());
        }
        assert_eq!(firsts.len(), 3);
    }

    #[test]
    fn without_mx_the_domain_itself_is_the_host() {
        let domain = Destination::of("a@Example.NET").unwrap();
        assert_eq!(hosts(&domain, MailExchangers::None, &[], || 0).unwrap(), ["example.net"]);
        assert!(hosts(&domain, MailExchangers::NoSuchDomain, &[], || 0).unwrap_err().permanent);
    }

    #[test]
    fn a_null_mx_takes_no_mail() {
        let problem = route(&[(0, ".")], &[]).unwrap_err();
        assert_eq!((problem.permanent, problem.status.to_string()), (true, "5.1.10".into()));
        assert_eq!(route(&[(0, "."), (10, "a.example.")], &[]).unwrap(), ["a.example"]);
    }

    #[test]
    fn mail_never_goes_to_ourselves_nor_to_anything_worse() {
        let records = [(5, "a.example."), (10, "us.example."), (10, "b.example."), (20, "c.example.")];
        assert_eq!(route(&records, &["US.example"]).unwrap(), ["a.example"]);
        assert_eq!(route(&records[1..], &["us.example"]).unwrap_err().status.to_string(), "5.4.6");
    }

    #[test]
    fn a_destination_is_the_domain_as_the_dns_knows_it() {
        assert_eq!(Destination::of("\"a@b\"@BÜCHER.example").unwrap().as_str(), "xn--bcher-kva.example");
        for bad in ["postmaster", "a@[192.0.2.1]", "a@", "a@..", "a@b..c", "a@.b", "a@xn--\u{0}"] {
            assert!(Destination::of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_long_list_is_cut() {
        let names: Vec<String> = (0..100).map(|n| format!("mx{n}.example.")).collect();
        let records: Vec<(u16, &str)> = names.iter().map(|name| (1, name.as_str())).collect();
        assert_eq!(route(&records, &[]).unwrap().len(), HOSTS);
    }
}
