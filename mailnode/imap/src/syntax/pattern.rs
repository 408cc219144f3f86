//! LIST patterns: `*` matches anything, `%` anything within one level (RFC 9051 6.3.9).

/// Whether `name` matches `pattern`. Takes time in the product of their lengths at most. `INBOX` matches in any case.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // reach[i]: the pattern so far matches the first i characters of the name.
    let mut reach = vec![false; name.len() + 1];
    reach[0] = true;
    for symbol in pattern {
        match symbol {
            '*' | '%' => {
                for index in 0..name.len() {
                    let crosses = symbol == '%' && name[index] == '/';
                    reach[index + 1] |= reach[index] && !crosses;
                }
            }
            _ => {
                for index in (0..name.len()).rev() {
                    reach[index + 1] = reach[index] && name[index] == symbol;
                }
                reach[0] = false;
            }
        }
    }
    reach[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_what_they_should() {
        for (pattern, name, expected) in [
            ("*", "a/b/c", true),
            ("%", "a/b", false),
            ("%", "a", true),
            ("a/%", "a/b", true),
            ("a/%", "a/b/c", false),
            ("a/*", "a/b/c", true),
            ("a*c", "a/b/c", true),
            ("%/b", "a/b", true),
            ("%%", "ab", true),
            ("", "", true),
            ("", "a", false),
            ("ä%", "äö", true),
            ("a", "ab", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn many_wildcards_cost_no_more_than_their_number() {
        let pattern = "*a".repeat(500);
        assert!(!matches(&pattern, &"a".repeat(499)));
        assert!(matches(&pattern, &"a".repeat(500)));
    }
}
