//! What a server can do, by its answer to EHLO (RFC 5321 4.1.1.1).

/// The extensions that matter to us. None of them after HELO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub start_tls: bool,
    pub pipelining: bool,
    pub eight_bit: bool,
    pub utf8: bool,
    /// RFC 1870: it wants to know the size; the largest message it takes, if it has a bound.
    pub size: Option<Option<u64>>,
    pub auth_plain: bool,
    pub auth_login: bool,
}

impl Capabilities {
    /// The first line is the server's name; then one keyword a line.
    pub fn of(lines: &[String]) -> Self {
        let mut found = Self::default();
        for line in lines.iter().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            match keyword.as_str() {
                "STARTTLS" => found.start_tls = true,
                "PIPELINING" => found.pipelining = true,
                "8BITMIME" => found.eight_bit = true,
                "SMTPUTF8" => found.utf8 = true,
                // RFC 1870 4: no number or 0 is no bound.
                "SIZE" => {
                    let most = words.next().and_then(|most| most.parse().ok()).filter(|most| *most > 0);
                    found.size = Some(most);
                }
                "AUTH" => {
                    for mechanism in words {
                        found.auth_plain |= mechanism.eq_ignore_ascii_case("PLAIN");
                        found.auth_login |= mechanism.eq_ignore_ascii_case("LOGIN");
                    }
                }
                _ => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_read_in_any_case() {
        let lines = ["mx.example", "size 1000", "Pipelining", "AUTH LOGIN plain", "X-NONSENSE 1 2", ""];
        let found = Capabilities::of(&lines.map(String::from));
        assert!(found.pipelining && found.auth_plain && found.auth_login && !found.start_tls);
        assert_eq!(found.size, Some(Some(1_000)));
        assert_eq!(Capabilities::of(&["a".into(), "SIZE".into()]).size, Some(None));
        assert_eq!(Capabilities::of(&["STARTTLS".into()]), Capabilities::default(), "a name is no keyword");
    }
}
