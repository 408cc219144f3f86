//! Nothing: this package only names the crates whose test messages are used.
