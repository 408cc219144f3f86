//! A real kube-apiserver with etcd, for tests: no kubelets, no controllers. PRICKLE_APISERVER names the directory of
//! the binaries (`build.sh` makes it). Users come from a token file, so that tests can be the operator's own
//! ServiceAccount and see whether its rights are enough.

// Each test that includes this file uses a part of it.
#![allow(dead_code)]

use k8s_openapi::api::core::v1::Namespace;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use rpc::pki::{Authority, DEFAULT_VALIDITY};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const OPERATOR_NAMESPACE: &str = "prickle-system";
const TOKENS: &str = "admin-token,admin,1,\"system:masters\"\n\
    operator-token,system:serviceaccount:prickle-system:prickle-operator,2,\"system:serviceaccounts,system:authenticated\"\n";

/// Both processes end with it.
pub struct ApiServer {
    directory: TempDir,
    binaries: PathBuf,
    port: u16,
    etcd_port: u16,
    etcd: Child,
    api_server: Option<Child>,
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn spawn(binary: &Path, arguments: &[String], log: &Path) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    Command::new(binary)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", binary.display()))
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

impl ApiServer {
    pub async fn start() -> Self {
        let binaries = std::env::var_os("PRICKLE_APISERVER")
            .map(PathBuf::from)
            .expect("PRICKLE_APISERVER must name the directory with kube-apiserver and etcd");
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (etcd_port, peer_port, port) = (free_port(), free_port(), free_port());
        let authority = Authority::generate("test", DEFAULT_VALIDITY).unwrap();
        let server = authority
            .issue_server(&["localhost".to_owned()], &[Ipv4Addr::LOCALHOST.into()], DEFAULT_VALIDITY)
            .unwrap();
        std::fs::write(path("ca.crt"), authority.certificate_pem()).unwrap();
        std::fs::write(path("tls.crt"), server.certificate_pem).unwrap();
        std::fs::write(path("tls.key"), server.key_pem).unwrap();
        std::fs::write(path("accounts.key"), authority.key_pem()).unwrap();
        std::fs::write(path("tokens"), TOKENS).unwrap();
        let etcd = [
            format!("--data-dir={}", path("etcd").display()),
            format!("--listen-client-urls=http://127.0.0.1:{etcd_port}"),
            format!("--advertise-client-urls=http://127.0.0.1:{etcd_port}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}"),
            format!("--initial-cluster=default=http://127.0.0.1:{peer_port}"),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=error".to_owned(),
        ];
        let etcd = spawn(&binaries.join("etcd"), &etcd, &path("etcd.log"));
        let mut this = Self { directory, binaries, port, etcd_port, etcd, api_server: None };
        this.start_api_server().await;
        this
    }

    /// Starts it (again) and waits until it is ready.
    pub async fn start_api_server(&mut self) {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let arguments = [
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            format!("--tls-cert-file={}", path("tls.crt")),
            format!("--tls-private-key-file={}", path("tls.key")),
            format!("--token-auth-file={}", path("tokens")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", path("ca.crt")),
            format!("--service-account-signing-key-file={}", path("accounts.key")),
            "--service-cluster-ip-range=198.18.0.0/24".to_owned(),
            // Pods of tests have no ServiceAccount controller behind them.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
        ];
        let log = self.directory.path().join("api-server.log");
        self.api_server = Some(spawn(&self.binaries.join("kube-apiserver"), &arguments, &log));
        // It makes this namespace when all else is ready.
        let namespaces: Api<Namespace> = Api::all(self.admin().await);
        let started = Instant::now();
        loop {
            if namespaces.get("default").await.is_ok() {
                return;
            }
            if started.elapsed() > Duration::from_secs(120) {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                panic!("kube-apiserver did not get ready: {tail:#?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Kills it; etcd keeps what it knew.
    pub fn stop_api_server(&mut self) {
        if let Some(mut child) = self.api_server.take() {
            end(&mut child);
        }
    }

    pub async fn admin(&self) -> Client {
        self.client("admin-token").await
    }

    /// The operator's ServiceAccount.
    pub async fn operator(&self) -> Client {
        self.client("operator-token").await
    }

    /// For clients of the operator's ServiceAccount that are more than that.
    pub async fn operator_config(&self) -> Config {
        self.config("operator-token").await
    }

    /// A file for kubectl and for other processes.
    pub fn kubeconfig(&self, token: &str) -> PathBuf {
        let path = self.directory.path().join(format!("{token}.kubeconfig"));
        std::fs::write(&path, self.kubeconfig_text(token)).unwrap();
        path
    }

    fn kubeconfig_text(&self, token: &str) -> String {
        let ca = self.directory.path().join("ca.crt");
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters:\n- name: test\n  cluster:\n    server: https://127.0.0.1:{}\n    certificate-authority: {}\n\
             users:\n- name: test\n  user:\n    token: {token}\n\
             contexts:\n- name: test\n  context:\n    cluster: test\n    user: test\n    namespace: default\n",
            self.port,
            ca.display()
        )
    }

    async fn config(&self, token: &str) -> Config {
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig_text(token)).unwrap();
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
    }

    async fn client(&self, token: &str) -> Client {
        Client::try_from(self.config(token).await).unwrap()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop_api_server();
        end(&mut self.etcd);
    }
}
