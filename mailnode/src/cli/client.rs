//! The admin API of a node, as commands ask it.

use super::{CliError, Target};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use ureq::Agent;

pub struct Client {
    agent: Agent,
    server: String,
    token: String,
}

impl Client {
    pub fn new(target: &Target) -> Result<Self, CliError> {
        let token = std::fs::read_to_string(&target.token_file).map_err(|error| {
            CliError::new(format!("{}: {error} (give --token-file)", target.token_file.display()))
        })?;
        let config = Agent::config_builder().timeout_global(Some(Duration::from_secs(30)));
        let agent = config.http_status_as_error(false).build().into();
        let server = target.server.trim_end_matches('/').to_owned();
        Ok(Self { agent, server, token: token.trim().to_owned() })
    }

    pub fn call(&self, method: &str, path: &str, body: Option<Vec<u8>>) -> Result<String, CliError> {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(body.unwrap_or_default())
            .map_err(CliError::new)?;
        let mut response = self
            .agent
            .run(request)
            .map_err(|error| CliError::new(format!("{}: {error} (give --server)", self.server)))?;
        let status = response.status();
        let text = response.body_mut().read_to_string().map_err(CliError::new)?;
        if status.is_success() {
            return Ok(text);
        }
        let reason = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|body| body.get("error")?.as_str().map(str::to_owned))
            .unwrap_or(text);
        Err(CliError::new(format!("{reason} (HTTP {status})")))
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        serde_json::from_str(&self.call("GET", path, None)?).map_err(CliError::new)
    }

    pub fn send<T: Serialize>(&self, method: &str, path: &str, body: &T) -> Result<(), CliError> {
        let body = serde_json::to_vec(body).map_err(CliError::new)?;
        self.call(method, path, Some(body)).map(|_| ())
    }

    pub fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let body = serde_json::to_vec(body).map_err(CliError::new)?;
        serde_json::from_str(&self.call(method, path, Some(body))?).map_err(CliError::new)
    }

    /// All pages of a list.
    pub fn pages<T: DeserializeOwned>(
        &self,
        path: &str,
        key: impl Fn(&T) -> String,
        mut each: impl FnMut(&T),
    ) -> Result<(), CliError> {
        let mut after = String::new();
        loop {
            let page: Vec<T> = self.get(&format!("{path}?limit=1000&after={}", escape(&after)))?;
            page.iter().for_each(&mut each);
            match page.last() {
                Some(last) => after = key(last),
                None => return Ok(()),
            }
        }
    }
}

/// Percent-encodes a path or query part (RFC 3986 2.1).
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'@' => {
                out.push(byte as char)
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
