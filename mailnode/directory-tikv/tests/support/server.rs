//! The test server (e2e/tikv): real PD and TiKV protocols around the store of TiKV's own Go client.

use directory_tikv::{Tikv, TikvConfig};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

pub struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub pd: String,
    kv: String,
    directory: Arc<TempDir>,
    arguments: Vec<String>,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(Vec::new())
    }

    pub fn start_with(arguments: Vec<String>) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        Self::spawn("127.0.0.1:0", "127.0.0.1:0", directory, arguments)
    }

    fn spawn(pd: &str, kv: &str, directory: Arc<TempDir>, arguments: Vec<String>) -> Self {
        let program = std::env::var_os("PRICKLE_TIKV").expect("PRICKLE_TIKV names the program of e2e/tikv");
        let data: PathBuf = directory.path().join("store");
        let mut child = Command::new(program)
            .args(["-pd", pd, "-kv", kv, "-data"])
            .arg(data)
            .args(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ready", pd, kv] = words[..] else { panic!("{line}") };
        let (pd, kv) = (pd.trim_start_matches("pd=").to_owned(), kv.trim_start_matches("kv=").to_owned());
        Self { child, input, output, pd, kv, directory, arguments }
    }

    pub fn config(&self) -> TikvConfig {
        TikvConfig::new(vec![self.pd.clone()])
    }

    pub fn client(&self) -> Tikv {
        Tikv::new(self.config()).unwrap()
    }

    /// A command of e2e/tikv/commands.go.
    pub fn tell(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        let answer = answer.trim().to_owned();
        assert!(!answer.starts_with("error"), "{command}: {answer}");
        answer
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The same store on the same ports.
    pub fn start_again(&mut self) {
        let directory = self.directory.clone();
        *self = Self::spawn(&self.pd.clone(), &self.kv.clone(), directory, self.arguments.clone());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
